"""The one import of OpenCV: modules of this room say `from .opencv import cv2`."""

try:
    import cv2
except ImportError as error:
    raise ImportError(
        "ibnvision.data draws, reads and resizes pictures with OpenCV, which could not be imported "
        f"({error}). Install opencv-python, or swap it for opencv-python-headless on a machine "
        "without a display (pip uninstall opencv-python, pip install opencv-python-headless)."
    ) from error

__all__ = ["cv2"]
