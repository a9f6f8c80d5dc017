"""Sensor noise of `corruptions`: Gaussian, shot and impulse noise.

x is one image, [3, H, W] RGB in [0, 1], float32 or float64; chance is drawn on the CPU, in float32.
Constants are indexed by severity - 1. Source: Hendrycks and Dietterich, ICLR 2019,
https://arxiv.org/abs/1903.12261.
"""

import torch
from torch import Generator, Tensor

SIGMA = (0.08, 0.12, 0.18, 0.26, 0.38)
PHOTONS = (60, 25, 12, 5, 3)  # counted at a pixel of value 1
SHARE = (0.03, 0.06, 0.09, 0.17, 0.27)  # of the values that are lost


def gaussian_noise(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Normal noise of one sigma, every value for itself."""
    noise = torch.randn(x.shape, generator=generator)
    return noise.mul_(SIGMA[severity - 1]).to(x).add_(x).clamp_(0, 1)


def shot_noise(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Each value as a count of photons by PHOTONS; drawn on the CPU, through which x passes."""
    photons = PHOTONS[severity - 1]
    counts = torch.poisson(x.float().cpu() * photons, generator=generator)
    return counts.to(x).div_(photons).clamp_(0, 1)


def impulse_noise(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """A share of the values is lost: half of them become 0, half 1."""
    chance, share = torch.rand(x.shape, generator=generator).to(x.device), SHARE[severity - 1]
    return x.masked_fill(chance < share, 1).masked_fill_(chance < share / 2, 0)
