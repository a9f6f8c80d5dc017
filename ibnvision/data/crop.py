"""A random scale and place of an image with its label or boxes, for training."""

from collections.abc import Sequence

import numpy as np
import torch

from .names import IGNORED
from .resize import resize_label_part, resize_part

Span = tuple[int, int]  # see `_span`
PADDING = (124, 116, 104)  # mean colour of ImageNet: close to 0 after normalization


def draw_crop(
    image: np.ndarray,
    label: np.ndarray,
    generator: torch.Generator,
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    centre: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A part of `size` (height, width) of image uint8 [H, W, 3] and label uint8 [H, W], resized.

    Both are resized by one factor, uniform in `scale` (image: bilinear, antialiased where it
    shrinks; label: nearest), and a part is taken at random. Where the picture is smaller than the
    part it lies at a random place in it, on PADDING with label 255. `centre`, (y, x) in pixels of
    the image, lies in the part, anywhere. `generator` is the only source of chance.

    Raises ValueError for a size below 1, a scale that is not 0 < low <= high, and a centre outside
    the image.
    """
    scaled, spans = draw_window(label.shape, generator, size, scale=scale, centre=centre)
    rows, columns = (range(max(start, 0), stop) for start, stop in spans)
    target = np.full(size, IGNORED, np.uint8)
    target[_place(spans)] = resize_label_part(label, scaled, rows, columns)
    return cut(image, scaled, spans, size), target


def draw_window(
    shape: Sequence[int],
    generator: torch.Generator,
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    centre: tuple[int, int] | None = None,
) -> tuple[tuple[int, int], list[Span]]:
    """(height and width of the resized picture, its spans of rows and of columns), as `draw_crop`.

    shape: height and width of the picture. Raises as `draw_crop`.
    """
    if min(size) < 1:
        raise ValueError(f"size must be (height, width), each at least 1, got {tuple(size)}")
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {tuple(scale)}")
    if centre is not None and not (0 <= centre[0] < shape[0] and 0 <= centre[1] < shape[1]):
        raise ValueError(f"centre must lie in the image of {shape[0]}x{shape[1]}, got {centre}")
    share = float(torch.rand((), generator=generator, dtype=torch.float64))
    factor = scale[0] + (scale[1] - scale[0]) * share
    scaled = (max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)))
    point = centre and [(2 * centre[i] + 1) * scaled[i] // (2 * shape[i]) for i in (0, 1)]
    spans = [
        _span(scaled[i], size[i], None if point is None else point[i], generator) for i in (0, 1)
    ]
    return scaled, spans


def cut(
    image: np.ndarray, scaled: tuple[int, int], spans: Sequence[Span], size: tuple[int, int]
) -> np.ndarray:
    """The part uint8 [*size, 3] that `draw_window` chose of an image uint8 [H, W, 3]."""
    part = np.empty((*size, 3), np.uint8)
    part[:] = PADDING
    rows, columns = (range(max(start, 0), stop) for start, stop in spans)
    part[_place(spans)] = resize_part(image, scaled, rows, columns)
    return part


def _place(spans: Sequence[Span]) -> tuple[slice, ...]:
    """Where in the part the picture lies."""
    return tuple(
        slice(max(-start, 0), max(-start, 0) + stop - max(start, 0)) for start, stop in spans
    )


def _span(length: int, wanted: int, point: int | None, generator: torch.Generator) -> Span:
    """(first, end) of the part in rows or columns of the picture; first is below 0 where the
    picture is smaller than the part, end never beyond the picture.

    point: what the part must contain, as a share of the length.
    """
    low, high = min(0, length - wanted), max(0, length - wanted)
    if point is not None:
        low, high = max(low, point - wanted + 1), min(high, point)
    start = low + int(torch.randint(high - low + 1, (), generator=generator))
    return start, min(start + wanted, length)
