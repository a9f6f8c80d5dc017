"""A random part of a picture, the same for every picture of one scene."""

from typing import Any, NamedTuple

import numpy as np
import torch


class View(NamedTuple):
    """A rectangle in pixels, then turned by quarters anticlockwise, then mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    quarters: int
    mirrored: bool

    def cut(self, picture: Any) -> Any:
        """The view of a NumPy array [H, W, ...], a part of the same memory."""
        part = picture[self.top : self.top + self.height, self.left : self.left + self.width]
        part = np.rot90(part, self.quarters)
        return part[:, ::-1] if self.mirrored else part


def draw_view(generator: torch.Generator, shape: tuple[int, int], size: tuple[int, int]) -> View:
    """A view of `size` in a picture of `shape`, both (height, width), drawn from `generator` only.

    Squares are turned, all are mirrored. Raises ValueError where `size` does not fit.
    """
    if min(size) < 1 or size[0] > shape[0] or size[1] > shape[1]:
        raise ValueError(
            f"a crop of {size[0]}x{size[1]} (height x width) must fit into the picture, got one "
            f"of {shape[0]}x{shape[1]}"
        )

    def below(stop: int) -> int:
        return int(torch.randint(stop, (), generator=generator))

    top, left = below(shape[0] - size[0] + 1), below(shape[1] - size[1] + 1)
    quarters = below(4) if size[0] == size[1] else 0
    return View(top, left, size[0], size[1], quarters, bool(below(2)))
