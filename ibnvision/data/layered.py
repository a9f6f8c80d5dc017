"""Clear pictures with a depth, made of photographs: cut-outs that stand before a background.

A photograph has no depth, and haze under an invented depth whose edges are nowhere in the picture
would be a riddle. So the depth of each layer is smooth, and it jumps only where a cut-out ends.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from .haze import smooth_noise, uniform
from .photos import photo_part

# Shares are probabilities. exponent and channel (of one colour) are drawn evenly in the logarithm.
VARIED: dict[str, Any] = {
    "share": 0.7,
    "permuted_share": 0.5,
    "exponent": (0.5, 2.5),
    "channel": (0.7, 1.4),
    "gain": (0.6, 1.1),
    "saturation": (0.3, 1.5),
}
REACH = (0.06, 0.45)  # half a cut-out's side, as a share of the picture's
POWERS = (1.0, 2.0, 8.0)  # |u|^p + |v|^p < 1: a diamond, an ellipse, a box with round corners
NEAREST = (0.0, 0.6)  # depth of the nearest point; the farthest is 1


def varied(clear: Tensor, generator: Generator) -> Tensor:
    """`clear`, [3, H, W] in [0, 1], as another scene: channels exchanged, other tones, more or
    less light and colour. By VARIED, and not every time.
    """
    if uniform(generator) >= VARIED["share"]:
        return clear
    if uniform(generator) < VARIED["permuted_share"]:
        clear = clear[torch.randperm(3, generator=generator)]
    low, high = VARIED["exponent"]
    exponent = low * (high / low) ** uniform(generator)
    low, high = VARIED["channel"]
    exponents = exponent * low * (high / low) ** torch.rand(3, 1, 1, generator=generator)
    clear = clear**exponents * uniform(generator, *VARIED["gain"])
    grey = clear.mean(0, keepdim=True)
    return (grey + (clear - grey) * uniform(generator, *VARIED["saturation"])).clamp(0, 1)


def cut_out(height: int, width: int, generator: Generator) -> Tensor:
    """Mask of a turned diamond, ellipse or box at a drawn place, bool [height, width]."""
    rows = ((torch.arange(height) + 0.5) / height - uniform(generator))[:, None]
    columns = ((torch.arange(width) + 0.5) / width - uniform(generator))[None]
    angle = uniform(generator, 0, np.pi)
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    along = (cosine * rows + sine * columns) / uniform(generator, *REACH)
    across = (cosine * columns - sine * rows) / uniform(generator, *REACH)
    power = POWERS[int(uniform(generator, 0, len(POWERS)))]
    return along.abs() ** power + across.abs() ** power < 1


def _plane(height: int, width: int, steepness: float, generator: Generator) -> Tensor:
    """A tilted plane [height, width]; the top tends to be far."""
    rows = ((torch.arange(height) + 0.5) / height)[:, None]
    columns = ((torch.arange(width) + 0.5) / width)[None]
    upward = uniform(generator, -0.3 * steepness, steepness)
    sideways = uniform(generator, -0.5 * steepness, 0.5 * steepness)
    return upward * (1 - rows) + sideways * columns


def layered(
    names: Sequence[str],
    size: tuple[int, int],
    generator: Generator,
    *,
    smallest: float,
    vary: bool,
    most: int,
) -> tuple[Tensor, Tensor]:
    """Clear picture float32 [3, H, W] in [0, 1] and its depth float32 [H, W], far = 1.

    Args:
        names: of the photographs, each layer takes one.
        size: height and width in pixels.
        smallest: see photo_part.
        vary: whether every layer is `varied`.
        most: at most so many cut-outs.
    """

    def part() -> Tensor:
        name = names[int(uniform(generator, 0, len(names)))]
        shown = photo_part(name, size, smallest, generator)
        return varied(shown, generator) if vary else shown

    clear = part()
    relief = uniform(generator, 0, 0.3) * smooth_noise(*size, generator, cells=2, octaves=2)
    depth = _plane(*size, 1.0, generator) + relief
    for _ in range(int(uniform(generator, 0, most + 1))):
        inside = cut_out(*size, generator)
        clear = torch.where(inside, part(), clear)
        stands = uniform(generator, -0.7, 0.7) + _plane(*size, 0.3, generator)
        depth = torch.where(inside, stands, depth)
    low, high = depth.min(), depth.max()
    near = uniform(generator, *NEAREST)
    return clear, near + (1 - near) * (depth - low) / (high - low).clamp_min(1e-6)
