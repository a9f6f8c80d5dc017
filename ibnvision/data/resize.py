"""Resizing of images and labels; where two sizes meet, pixel centres are aligned."""

import numpy as np


def resize(image: np.ndarray, size: tuple[int, int], *, antialias: bool) -> np.ndarray:
    """Image uint8 [H, W, 3] at `size` (height, width): bicubic as Pillow, whose filter widens where
    it shrinks, or without `antialias` bilinear as OpenCV.
    """
    if image.shape[:2] == size:
        return image
    if not antialias:
        from .opencv import cv2

        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    from PIL import Image

    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))


def resize_part(
    image: np.ndarray, size: tuple[int, int], rows: range, columns: range
) -> np.ndarray:
    """Rows and columns of what image uint8 [H, W, 3] is at `size`: bilinear as Pillow, antialiased
    where it shrinks.
    """
    if image.shape[:2] == size:
        return image[rows.start : rows.stop, columns.start : columns.stop]
    from PIL import Image

    (height, width), picture = image.shape[:2], Image.fromarray(image)
    box = (
        columns.start * width / size[1],
        rows.start * height / size[0],
        min(columns.stop * width / size[1], width),
        min(rows.stop * height / size[0], height),
    )
    part = picture.resize((len(columns), len(rows)), Image.Resampling.BILINEAR, box=box)
    return np.array(part)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label [H, W] at `size` (height, width): the value of the nearest pixel."""
    return resize_label_part(label, size, range(size[0]), range(size[1]))


def resize_label_part(
    label: np.ndarray, size: tuple[int, int], rows: range, columns: range
) -> np.ndarray:
    """Rows and columns of `resize_label(label, size)`."""
    if label.shape == size:
        return label[rows.start : rows.stop, columns.start : columns.stop]
    y, x = (
        (2 * np.arange(span.start, span.stop) + 1) * label.shape[i] // (2 * size[i])
        for i, span in enumerate((rows, columns))
    )
    return label[y[:, None], x]


def fit(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """`size` scaled as far as its sides, short and long, fit into these, the aspect kept."""
    scale = min(long / max(size), short / min(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))
