"""Identity gate: a restorer acts on an image as far as it is hazy, and not at all on a clear one.

    y = g * restored + (1 - g) * image,   g = (haziness(image) - low) / (high - low), cut to [0, 1]

In clear pictures most patches hold something dark in some channel (He, Sun, Tang, "Single image
haze removal using dark channel prior", CVPR 2009), and haze lifts all of it. So the haziness is a
low quantile of the dark channel: sky, snow and walls may fill the rest of the picture. Dehazing in
front of a detector helps in fog and harms on clear images (https://arxiv.org/abs/2502.02027).

Quantile, patch and side lie on a plateau: one threshold tells 98 % of the validation pairs of the
domain `haze` right, and with the values next to them about as many.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .dark_channel import dark_channel

SIDE = 64  # pixels of the longer side of the copy that is measured
PATCH = 3  # of the dark channel, in pixels of that copy
QUANTILE = 0.3
TAIL = 0.05  # share of the clear and of the hazy pictures that may lie on the other side


def haziness(image: Tensor) -> Tensor:
    """Haze of each image of [N, 3, H, W] in [0, 1], [N] in [0, 1]; memory beside it is bounded.

    Raises:
        TypeError, ValueError: as dark_channel.
    """
    height, width = image.shape[-2:]
    shrink = min(1.0, SIDE / max(height, width, 1))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    small = image if shrink == 1 else F.adaptive_avg_pool2d(image, size)
    return torch.quantile(dark_channel(small.float(), PATCH).flatten(1), QUANTILE, 1)


class Gate(NamedTuple):
    """The ramp of the weight: 0 up to haziness `low`, 1 from `high` on."""

    low: float
    high: float

    def weight(self, image: Tensor) -> float:
        """g of one image, [1, 3, H, W]."""
        share = (haziness(image).item() - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))

    def restore(self, image: Tensor, restore: Callable[[Tensor], Tensor]) -> Tensor:
        """restore(image) as far as image, [1, 3, H, W], is hazy.

        At weight 0 the image itself comes back and restore is not called; at weight 1 what it gave.
        """
        g = self.weight(image)
        return image if g == 0 else mixed(image, restore(image), g)


def mixed(image: Tensor, restored: Tensor, g: float) -> Tensor:
    """The weighted mean of the head of this file, of one shape; at weight 1 `restored` itself."""
    return restored if g == 1 else torch.lerp(image, restored.to(image), g)


def gate_between(low: float, high: float) -> Gate:
    """A gate; ValueError unless 0 <= low < high <= 1."""
    if not 0 <= low < high <= 1:
        raise ValueError(f"low and high must hold 0 <= low < high <= 1, got {low} and {high}")
    return Gate(low, high)


def calibrate(clear: Sequence[float], hazy: Sequence[float]) -> Gate | None:
    """The ramp between the hazier end of clear pictures and the clearer end of hazy ones.

    Its ends are the quantile 1 - TAIL of `clear` and TAIL of `hazy`, values of haziness, in order:
    where the two overlap, the ramp covers what they share. None where the medians are not in order
    or one is empty, since the measure then does not tell clear from hazy.
    """
    if not clear or not hazy:
        return None
    known, lifted = (torch.tensor(values, dtype=torch.float64) for values in (clear, hazy))
    if known.median() >= lifted.median():
        return None
    ends = torch.quantile(known, 1 - TAIL).item(), torch.quantile(lifted, TAIL).item()
    low, high = min(ends), max(ends)
    return Gate(low, high) if low < high else None
