"""Pictures for people: panels side by side under captions, uint8 [3, h, w]."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

_SIDE = 240  # pixels that a small panel is enlarged to, about
_GAP = 4
_CELL, _LINE = 96, 22  # of a legend


def to_bytes(image: Tensor) -> Tensor:
    """Float [3, H, W] in [0, 1] as uint8 on the CPU."""
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def enlarge(tensor: Tensor) -> Tensor:
    """[..., H, W], every pixel repeated by the whole factor that brings H near 240."""
    factor = max(1, round(_SIDE / tensor.shape[-2]))
    return tensor.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def in_a_row(panels: Mapping[str, Tensor]) -> Tensor:
    """The panels by caption, uint8 [3, H, W] of one size, side by side below their captions."""
    first = next(iter(panels.values()))
    gap = torch.full((3, first.shape[1], _GAP), 255, dtype=torch.uint8)
    row = torch.cat([part for panel in panels.values() for part in (panel, gap)][:-1], 2)
    return torch.cat([_captions(list(panels), row.shape[2]), row], 1)


def labelled(
    strip: Tensor, boxes: Tensor, words: list[str], colours: list[Any], inks: list[str]
) -> Tensor:
    """A strip, uint8 [3, h, w], with boxes [K, 4] of the colours and a word in each."""
    width = strip.shape[2]
    boxes[:, 2] = boxes[:, 2].clamp(max=width - 1)
    filled = strip.clone()
    for (left, top, right, bottom), colour in zip(boxes.int().tolist(), colours, strict=True):
        rgb = (255, 255, 255) if colour == "white" else colour
        filled[:, top:bottom, left:right] = torch.tensor(rgb, dtype=torch.uint8)[:, None, None]
    return draw_bounding_boxes(
        filled, boxes.float(), labels=words, colors="white", label_colors=inks, width=1
    )


def legend(classes: Sequence[str], palette: Tensor, width: int | None = None) -> Tensor:
    """A box in its colour with its name for each class: uint8 [3, h, w].

    palette: uint8 RGB, at least K rows. width: in pixels, in which as many stand beside one another
    as fit; None: as narrow as the names allow, one below the other.
    """
    cell = 8 * max(map(len, classes)) + 16 if width is None else _CELL
    columns = 1 if width is None else max(1, width // cell)
    lines = -(-len(classes) // columns)
    strip = torch.full((3, _LINE * lines + 4, width or cell), 255, dtype=torch.uint8)
    inset = 0 if width else 4
    places = [(i % columns * cell, i // columns * _LINE) for i in range(len(classes))]
    boxes = torch.tensor([[x + inset, y + 4, x + cell - 4, y + _LINE] for x, y in places])
    colours = [tuple(row) for row in palette[: len(classes)].tolist()]
    inks = ["black" if light(colour) else "white" for colour in colours]
    return labelled(strip, boxes, list(classes), colours, inks)


def light(colour: Sequence[int]) -> bool:
    """Whether black letters read better than white ones on an RGB colour."""
    red, green, blue = colour
    return 3 * red + 6 * green + blue > 1270


def _captions(words: list[str], width: int) -> Tensor:
    strip = torch.full((3, 20, width), 255, dtype=torch.uint8)
    step = (width + _GAP) / len(words)
    boxes = torch.tensor([[step * i, 2, step * i + step - 6, 18] for i in range(len(words))])
    return labelled(strip, boxes, words, ["white"] * len(words), ["black"] * len(words))
