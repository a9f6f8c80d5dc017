"""Resizing of images and labels; where two sizes meet, pixel centres are aligned."""

import numpy as np


def resize(image: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """Image uint8 [H, W, 3] at `size` (height, width).

    how: "bilinear" as OpenCV, without antialiasing; "bilinear antialiased" and "bicubic
    antialiased" as Pillow, whose filters widen when it shrinks. KeyError for another.
    """
    if image.shape[:2] == size:
        return image
    if how == "bilinear":
        from .opencv import cv2

        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    from PIL import Image

    methods = {
        "bilinear antialiased": Image.Resampling.BILINEAR,
        "bicubic antialiased": Image.Resampling.BICUBIC,
    }
    return np.array(Image.fromarray(image).resize(size[::-1], methods[how]))


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label uint8 [H, W] at `size` (height, width): the value of the nearest pixel."""
    if label.shape == size:
        return label
    from .opencv import cv2

    return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def fit(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """`size` scaled as far as its sides, short and long, fit into these, the aspect kept."""
    scale = min(long / max(size), short / min(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))
