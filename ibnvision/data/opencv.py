"""The one import of OpenCV: modules of this room say `from .opencv import cv2`."""

from pathlib import Path

import numpy as np

try:
    import cv2
except ImportError as error:
    raise ImportError(
        "ibnvision.data draws, reads and resizes pictures with OpenCV, which could not be imported "
        f"({error}). Install opencv-python, or swap it for opencv-python-headless on a machine "
        "without a display (pip uninstall opencv-python, pip install opencv-python-headless)."
    ) from error

__all__ = ["cv2", "read_picture"]


def read_picture(path: Path, mode: int) -> np.ndarray:
    """`cv2.imread` that raises a ValueError naming the file."""
    array = cv2.imread(str(path), mode)
    if array is None:
        raise ValueError(f"cannot read {str(path)!r} as a picture")
    return array
