"""Photographs that the installed scikit-image ships; one of them has a measured depth.

The files are read by path from the package's `data` folder; scikit-image itself is not imported.
Its LICENSE and docstrings give their sources: `astronaut` and `rocket` are in the public domain,
`brick`, `chelsea`, `coffee`, `grass`, `gravel` and `ihc` are free to use; the motorcycle is from
Scharstein et al., "High-resolution stereo datasets with subpixel-accurate ground truth", GCPR 2014.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Generator, Tensor

from .haze import uniform
from .item import to_image
from .names import known
from .opencv import cv2, read_picture

PHOTOS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "ihc": "ihc.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
DISPARITY = "motorcycle_disp.npz"
FOCAL_PX, BASELINE_M, OFFSET_PX = 994.978, 0.193001, 31.086  # of the motorcycle's left camera


def photo_folder() -> Path:
    """The folder of photographs in the installed scikit-image.

    Raises FileNotFoundError that says how to install it.
    """
    spec = importlib.util.find_spec("skimage")
    places = spec.submodule_search_locations if spec else None
    if not places:
        found, how = "which is not installed", "pip install"
    else:
        folder = Path(places[0]) / "data"
        missing = [n for n in (*PHOTOS.values(), DISPARITY) if not (folder / n).is_file()]
        if not missing:
            return folder
        found = f"but {str(folder)!r} lacks {', '.join(missing)}"
        how = "pip install --force-reinstall"
    raise FileNotFoundError(
        f"the domains haze* and motorcycle* need the photographs of scikit-image, {found}: "
        f"{how} scikit-image"
    )


@lru_cache(maxsize=len(PHOTOS))
def photo(name: str) -> np.ndarray:
    """Photograph `name` of PHOTOS, uint8 [H, W, 3] RGB, read-only; KeyError for another name."""
    path = photo_folder() / PHOTOS[known("photograph", name, PHOTOS)]
    picture = np.ascontiguousarray(read_picture(path, cv2.IMREAD_COLOR)[..., ::-1])
    picture.flags.writeable = False
    return picture


def photo_part(name: str, size: tuple[int, int], smallest: float, generator: Generator) -> Tensor:
    """A part of a photograph at a drawn place and scale, float32 [3, *size] in [0, 1].

    smallest: its sides as a share of the largest part of that shape; it is never enlarged unless
    the photograph is smaller than `size`.
    """
    picture = photo(name)
    largest = min(picture.shape[0] / size[0], picture.shape[1] / size[1])
    least = min(max(1.0, smallest * largest), largest)
    scale = least * (largest / least) ** uniform(generator)
    height, width = (max(1, int(side * scale)) for side in size)
    top = round(uniform(generator, 0, picture.shape[0] - height))
    left = round(uniform(generator, 0, picture.shape[1] - width))
    part = picture[top : top + height, left : left + width]
    return to_image(cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA))


@lru_cache(maxsize=1)
def motorcycle_depth() -> np.ndarray:
    """Depth of the motorcycle, float32 [500, 741] in metres, 2.1 to 5.0; read-only.

    Z = focal length * baseline / (disparity + offset). The 7 % of pixels without disparity take
    that of their row's nearest neighbour, the farther one of two. They count like all others:
    their clear colour is known, and their haze follows the filled depth.
    """
    with np.load(photo_folder() / DISPARITY) as file:
        disparity = fill_rows(file["arr_0"])
    depth = (FOCAL_PX * BASELINE_M / (disparity + OFFSET_PX)).astype(np.float32)
    depth.flags.writeable = False
    return depth


def fill_rows(disparity: np.ndarray) -> np.ndarray:
    """[H, W] with gaps, not finite, filled by the smaller of the nearest values in the row."""
    measured = np.isfinite(disparity)
    columns = np.arange(disparity.shape[1])
    left = np.maximum.accumulate(np.where(measured, columns, -1), axis=1)
    after = np.where(measured, columns, len(columns))[:, ::-1]
    right = np.minimum.accumulate(after, axis=1)[:, ::-1]
    padded = np.pad(disparity, ((0, 0), (1, 1)), constant_values=np.inf)  # column i is at i + 1
    sides = (np.take_along_axis(padded, at + 1, axis=1) for at in (left, right))
    return np.where(measured, disparity, np.minimum(*sides))
