"""Class ids as colours: alone, over their picture, and the legend; band by band."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibnvision.tasks.panels import labelled

from .photo import to_pixels

_ROWS = 256  # painted at a time


def paint(ids: Tensor, palette: Tensor) -> Any:
    """Class ids [H, W] in the colours of the palette, uint8 RGB [K, 3], as OpenCV's BGR."""
    table, painted = palette.numpy()[:, ::-1], np.empty((*ids.shape, 3), np.uint8)
    for top in range(0, len(ids), _ROWS):
        painted[top : top + _ROWS] = table[ids[top : top + _ROWS].numpy()]
    return painted


def paint_over(image: Tensor, ids: Tensor, palette: Tensor, opacity: float) -> Any:
    """An image with its class ids [H, W] as translucent colours, as OpenCV's BGR.

    image: float [3, H, W] in [0, 1]; palette: uint8 RGB [K, 3]; opacity: in [0, 1], of the colours.
    """
    colours = palette.to(image.dtype) / 255
    painted = np.empty((*image.shape[1:], 3), np.uint8)
    for top in range(0, len(painted), _ROWS):
        rows = slice(top, top + _ROWS)
        colour = colours[ids[rows].long()].permute(2, 0, 1)
        painted[rows] = to_pixels(torch.lerp(image[:, rows], colour, opacity))
    return painted


def legend(classes: Sequence[str], palette: Tensor) -> Tensor:
    """A box in its colour with its name for each class, below one another: uint8 [3, h, w]."""
    width, line = 16 + 8 * max(map(len, classes)), 22
    strip = torch.full((3, line * len(classes) + 4, width), 255, dtype=torch.uint8)
    boxes = torch.tensor(
        [[4, line * i + 4, width - 4, line * i + line] for i in range(len(classes))]
    )
    colours = [tuple(row) for row in palette.tolist()]
    inks = ["black" if 3 * r + 6 * g + b > 1270 else "white" for r, g, b in colours]
    return labelled(strip, boxes, list(classes), colours, inks)
