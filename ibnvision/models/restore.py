"""Restores an image of any size: pad, run, clamp, crop; within a memory budget, strip by strip."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .strips import run_in_strips

MULTIPLE = 4
SMALLEST = 16  # reflect padding of 3 at a quarter of the size needs 4


@torch.no_grad()
def restore(model: Any, x: Tensor, max_memory: int | None = None) -> Tensor:
    """See DEANet.restore; model: a DEANet."""
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor in [0, 1], got {x.dtype}")
    if x.dim() != 4 or x.shape[1] != model.in_chans or 0 in x.shape[2:]:
        raise ValueError(
            f"x must have the shape [N, {model.in_chans}, H, W], H and W at least 1, got "
            f"{list(x.shape)}"
        )
    weight = next(model.parameters())
    height, width = x.shape[2:]
    padded = _pad(_pad(x, 2), 3)
    if max_memory is None:
        y = model(padded.to(weight.device, weight.dtype)).clamp_(0, 1).to(x.device, x.dtype)
    else:
        y = run_in_strips(model, padded, max_memory)
    return y[..., :height, :width]


def _pad(x: Tensor, dim: int) -> Tensor:
    """Reflect at the end of dim up to the next size that runs; a side too short for it repeats."""
    size = x.shape[dim]
    missing = max(SMALLEST, -(-size // MULTIPLE) * MULTIPLE) - size
    reflected = min(missing, size - 1)
    for mode, count in (("reflect", reflected), ("replicate", missing - reflected)):
        if count:
            x = F.pad(x, (0, 0, 0, count) if dim == 2 else (0, count, 0, 0), mode)
    return x
