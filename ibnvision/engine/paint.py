"""Class ids as colours, alone or over their picture, and boxes with their words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibnvision.tasks.panels import light

from .photo import to_pixels

_ROWS = 256  # painted at a time
_FONT = 0  # OpenCV's FONT_HERSHEY_SIMPLEX


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


def paint_boxes(
    image: Tensor, objects: Mapping[str, Tensor], classes: Sequence[str], palette: Tensor
) -> Any:
    """An image with boxes, each with its class and score, as OpenCV's BGR; the best on top.

    Args:
        image: float [3, H, W] in [0, 1].
        objects: boxes [m, 4] x0 y0 x1 y1 in pixels, labels [m] from 1, scores [m], best first.
        classes: the name of label i is classes[i - 1].
        palette: uint8 RGB [K, 3].
    """
    from ibnvision.data.opencv import cv2

    painted = to_pixels(image)
    scale = max(0.4, min(painted.shape[:2]) / 1200)
    line = max(1, round(2 * scale))
    rows = zip(*(objects[k].tolist() for k in ("boxes", "labels", "scores")), strict=True)
    for box, label, score in reversed(list(rows)):
        left, top, right, bottom = (round(v) for v in box)
        red, green, blue = palette[label - 1].tolist()
        ink = (0, 0, 0) if light((red, green, blue)) else (255, 255, 255)
        words = f"{classes[label - 1]} {100 * score:.0f}%"
        (width, height), below = cv2.getTextSize(words, _FONT, scale, line)
        foot = top if top > height + below else top + height + below  # at the edge inside the box
        cv2.rectangle(painted, (left, top), (right - 1, bottom - 1), (blue, green, red), line)
        corners = (left, foot - height - below), (left + width, foot - 1)
        cv2.rectangle(painted, *corners, (blue, green, red), -1)
        at = (left, foot - below // 2 - 1)
        cv2.putText(painted, words, at, _FONT, scale, ink, line, cv2.LINE_AA)
    return painted
