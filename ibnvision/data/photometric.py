"""Photometric augmentation of batches: colour jitter and Gaussian blur, on any device.

Each image draws for itself; chance comes from the given torch.Generator alone, in an amount that
does not depend on what is drawn. The image operations are torchvision's.

The defaults are those of RobustNet's training, `STRONG` those of the copies from which ISW learns
what is sensitive. Source: Choi et al., CVPR 2021, https://arxiv.org/abs/2103.15597, and its code.
Differs: float images instead of bytes, and the blur mirrors the border instead of repeating it.
"""

from typing import Any

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as TF

STRONG: dict[str, Any] = {
    "brightness": 0.8,
    "contrast": 0.8,
    "saturation": 0.8,
    "hue": 0.3,
    "p": 1.0,
    "blur": (0.15, 1.30),
}


def photometric(
    images: Tensor,
    generator: Generator,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    p: float = 0.5,
    blur: tuple[float, float] | None = (0.15, 1.30),
) -> Tensor:
    """`images` with changed colours and blurred, in [0, 1], of the same shape and dtype.

    Half precision is worked on in float32.

    Args:
        images: [N, 3, H, W] RGB, floating point, in [0, 1].
        generator: on the CPU, so that every device draws the same.
        brightness, contrast, saturation: greatest change of the factor, which is drawn evenly from
            [max(0, 1 - change), 1 + change]; at least 0, and 0 leaves the operation out.
        hue: greatest shift in turns of the colour circle, in [0, 0.5].
        p: share of the images that are jittered, by all four in an order of their own.
        blur: (least, greatest) sigma in pixels of a blur that every image gets; None for none.

    Raises:
        TypeError: images are not of a floating-point type.
        ValueError: another shape, a generator on another device, or an argument out of range.
    """
    changes = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    _check(images, generator, changes, p, blur)
    working = images.to(torch.promote_types(images.dtype, torch.float32))
    results = []
    for image in working:
        chance = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        order = torch.randperm(4, generator=generator).tolist()
        if chance[0] < p:
            for i in order:
                image = _jitter(image, list(changes)[i], list(changes.values())[i], chance[i + 1])
        if blur is not None:
            image = _blur(image, blur[0] + (blur[1] - blur[0]) * chance[5])
        results.append(image)
    return torch.stack(results).to(images.dtype) if results else images


def _jitter(image: Tensor, name: str, change: float, chance: float) -> Tensor:
    if change == 0:
        return image
    if name == "hue":
        return TF.adjust_hue(image, change * (2 * chance - 1))
    low = max(0.0, 1 - change)
    factor = low + (1 + change - low) * chance
    return getattr(TF, f"adjust_{name}")(image, factor)


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Out to four sigma, or as far as the mirrored border of a small image reaches."""
    radii = [min(int(4 * sigma + 0.5), side - 1) for side in image.shape[:0:-1]]  # of W, H
    return TF.gaussian_blur(image, [2 * r + 1 for r in radii], [sigma, sigma]).clamp(0, 1)


def _check(
    images: Tensor,
    generator: Generator,
    changes: dict[str, float],
    p: float,
    blur: tuple[float, float] | None,
) -> None:
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got dtype {images.dtype}")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape [N, 3, H, W], got {list(images.shape)}")
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, got one on {generator.device}")
    for name, change in changes.items():
        if name == "hue" and not 0 <= change <= 0.5:
            raise ValueError(f"hue must lie in [0, 0.5], got {change}")
        if not change >= 0:
            raise ValueError(f"{name} must be at least 0, got {change}")
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")
    if blur is not None and not 0 < blur[0] <= blur[1]:
        raise ValueError(f"blur must be (least, greatest) sigma above 0, got {blur}")
