"""Blur of `corruptions`: defocus, frosted glass, motion and zoom; and the filters they are made of.

x is one image, [C, H, W] in [0, 1], float32 or float64; chance is drawn on the CPU, in float32.
Constants are indexed by severity - 1. Source: Hendrycks and Dietterich, ICLR 2019,
https://arxiv.org/abs/1903.12261; those of imagecorruptions (Michaelis et al., 2019,
https://arxiv.org/abs/1907.07484), which serves pictures of any size.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

DEFOCUS = (
    (3, 0.1),
    (4, 0.5),
    (6, 0.5),
    (8, 0.5),
    (10, 0.5),
)  # radius of the disk, sigma of its rim
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, reach, rounds
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius, sigma along the way, in pixels
ZOOM = ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03))  # how many, 1 + 0, 1, ... steps
NEGLIGIBLE = 1e-7  # weight of a tap that float32 would not show


def defocus_blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """A disk with a soft rim, mirrored at the border; nothing is drawn."""
    kernel = _disk(*DEFOCUS[severity - 1]).to(x)
    reach = kernel.shape[0] // 2
    padded = F.pad(x, [reach] * 4, mode="reflect")
    sides = [_smooth(side) for side in padded.shape[-2:]]
    spectrum = torch.fft.rfft2(padded, s=sides)
    spectrum *= torch.fft.rfft2(kernel, s=sides)
    blurred = torch.fft.irfft2(spectrum, s=sides)
    # the disk is symmetric, so convolution is correlation, moved by its two reaches
    height, width = x.shape[-2:]
    return blurred[..., 2 * reach :, 2 * reach :][..., :height, :width].clamp(0, 1)


def glass_blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Blurred, pixels exchanged with near ones, blurred again."""
    sigma, reach, rounds = GLASS[severity - 1]
    x = gaussian_filter(x, (sigma, sigma), truncate=4)
    for _ in range(rounds):
        source = shuffle(x.shape[-2], x.shape[-1], reach, generator)
        x = x.flatten(-2)[..., source.flatten().to(x.device)].view_as(x)
    return gaussian_filter(x, (sigma, sigma), truncate=4).clamp_(0, 1)


def motion_blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Along a way of one direction, within 45 degrees of the horizontal."""
    return motion(x, *MOTION[severity - 1], angle=uniform(generator, -45, 45)).clamp_(0, 1)


def zoom_blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """The mean of the image and of its middle in growing enlargement; nothing is drawn."""
    count, step = ZOOM[severity - 1]
    total = x.clone()
    for i in range(count):
        zoomed = clipped_zoom(x, 1 + i * step)
        total += zoomed[..., : x.shape[-2], : x.shape[-1]]
    return total.div_(count + 1).clamp_(0, 1)


def uniform(generator: Generator, low: float, high: float) -> float:
    """A number drawn evenly from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def gaussian_filter(
    x: Tensor, sigma: tuple[float, float], *, truncate: float, mode: str = "replicate"
) -> Tensor:
    """x, [C, H, W], blurred by a Gaussian of `sigma` (rows, columns), cut at `truncate` sigmas."""
    for axis, width in zip((-2, -1), sigma, strict=True):
        weights = _gaussian(width, int(truncate * width + 0.5))
        reach, side = len(weights) // 2, x.shape[axis]
        margin = [0, 0, reach, reach] if axis == -2 else [reach, reach, 0, 0]
        padded, x = F.pad(x, margin, mode=mode), torch.zeros_like(x)
        for i, weight in enumerate(weights.tolist()):
            x.add_(padded.narrow(axis, i, side), alpha=weight)
    return x


def motion(x: Tensor, radius: int, sigma: float, *, angle: float) -> Tensor:
    """x, [C, H, W], smeared along a ray at `angle` degrees, by half a Gaussian of `sigma` pixels.

    The ray has 2 radius + 1 whole pixels; the border is repeated.
    """
    weights = torch.arange(2 * radius + 1, dtype=torch.float64).div(sigma).square().mul(-0.5).exp()
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    taps = [
        (-math.ceil(i * sine - 0.5), -math.ceil(i * cosine - 0.5), weight)
        for i, weight in enumerate((weights / weights.sum()).tolist())
        if weight > NEGLIGIBLE
    ]
    rows, columns = ([tap[axis] for tap in taps] for axis in (0, 1))
    top, left = max(rows), max(columns)  # content moves down and right by a positive tap
    padded = F.pad(x, [left, -min(columns), top, -min(rows)], mode="replicate")
    total = torch.zeros_like(x)
    for row, column, weight in taps:
        part = padded[..., top - row :, left - column :][..., : x.shape[-2], : x.shape[-1]]
        total.add_(part, alpha=weight)
    return total


def clipped_zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of x, [C, H, W], enlarged by `factor` >= 1, bilinear; at least [C, H, W]."""
    height, width = x.shape[-2:]
    h, w = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - h) // 2, (width - w) // 2
    size = (round(h * factor), round(w * factor))
    part = x[None, :, top : top + h, left : left + w]
    return F.interpolate(part, size, mode="bilinear", align_corners=True)[0]


def shuffle(height: int, width: int, reach: int, generator: Generator) -> Tensor:
    """Where each pixel's value comes from, flat indices int64 [height, width], on the CPU.

    From the last pixel to the first, each takes the value that one at most `reach` away has by
    then, so that values travel on; the border keeps its own. The published loop over pixels was
    meant to swap two, but its views of one array copy the second onto the first.
    """
    rows = torch.arange(reach + 1, height - reach + 1)
    columns = torch.arange(reach + 1, width - reach + 1)
    own = torch.arange(height * width).view(height, width)
    step = torch.randint(-reach, reach, (2, len(rows), len(columns)), generator=generator)
    inner = own[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
    # 1: a pixel reads another that already has its new value; 0: one that has its first value
    source = own.clone()
    taken = inner + step[0] * width + step[1]
    source[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = taken
    source = source.flatten()
    changed = (source > own.flatten()) & (source.gather(0, source) != source)
    follow = torch.where(changed, source, own.flatten())
    while True:  # every step doubles how far a chain is followed
        further = follow.gather(0, follow)
        if torch.equal(further, follow):
            return source.gather(0, follow).view(height, width)
        follow = further


@lru_cache
def _disk(radius: int, sigma: float) -> Tensor:
    """The weights of a filled circle, blurred within their own square, float64."""
    reach = max(radius, 8)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64).square()
    disk = (offsets[:, None] + offsets <= radius**2).double()
    soft = 1 if radius <= 8 else 2
    return gaussian_filter(
        (disk / disk.sum())[None], (sigma, sigma), truncate=soft / sigma, mode="reflect"
    )[0]


def _gaussian(sigma: float, radius: int) -> Tensor:
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = offsets.div(sigma).square().mul(-0.5).exp()
    return weights / weights.sum()


def _smooth(side: int) -> int:
    """The least length from `side` on without prime factors above 5, for the transform."""
    while True:
        rest = side
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return side
        side += 1
