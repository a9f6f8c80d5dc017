"""Object-aware mixing: an image mixed with changed copies of itself, its objects kept visible.

    y = (1 - m) x + m sum_k w_k c_k(x),   w drawn evenly from the simplex, m a map over the image

A copy c_k is a chain of one to `depth` operations over the whole image and, on another level, a
chain of its own in each of some random boxes. m is one drawn share, but `protection` times that in
objects of low saliency: little of an object that hardly stands out would be left. Labels stay, as
turns, shears and moves happen in the copies alone, and by little.

Sources: Lee et al., "Object-Aware Domain Generalization for Object Detection" (OA-DG), AAAI 2024,
https://arxiv.org/abs/2312.12133, after its description; the chains are those of Hendrycks et al.,
"AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781; the saliency is the spectral residual of Hou
and Zhang, CVPR 2007. Differs: weights and share are even draws (Dirichlet and Beta of 1), and the
regions are any boxes, with objects or without.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

SALIENCY_SIDE = 64  # of the small picture whose spectrum is taken
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
# from a strength in [0, 1] and a sign
OPERATIONS: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "autocontrast": lambda x, s, sign: TF.autocontrast(x),
    "equalize": lambda x, s, sign: TF.equalize(x),
    "posterize": lambda x, s, sign: TF.posterize(x, 8 - round(4 * s)),
    "solarize": lambda x, s, sign: TF.solarize(x, 1 - s / 2),
    "color": lambda x, s, sign: TF.adjust_saturation(x, 1 + 0.9 * s * sign),
    "contrast": lambda x, s, sign: TF.adjust_contrast(x, 1 + 0.9 * s * sign),
    "brightness": lambda x, s, sign: TF.adjust_brightness(x, 1 + 0.5 * s * sign),
    "sharpness": lambda x, s, sign: TF.adjust_sharpness(x, 1 + 0.9 * s * sign),
    "rotate": lambda x, s, sign: _moved(x, angle=15 * s * sign),
    "shear_x": lambda x, s, sign: _moved(x, shear=(10 * s * sign, 0.0)),
    "shear_y": lambda x, s, sign: _moved(x, shear=(0.0, 10 * s * sign)),
    "translate_x": lambda x, s, sign: _moved(x, across=0.1 * s * sign),
    "translate_y": lambda x, s, sign: _moved(x, down=0.1 * s * sign),
}


def oa_mix(
    image: Tensor,
    boxes: Tensor,
    generator: Generator,
    *,
    width: int = 3,
    depth: int = 3,
    regions: int = 3,
    strength: float = 1.0,
    saliency_below: float = 1.0,
    protection: float = 0.5,
) -> Tensor:
    """`image` mixed, in [0, 1], of the same shape and dtype. Half precision works in float32.

    Args:
        image: [3, H, W] RGB, floating point, in [0, 1].
        boxes: of its objects, [n, 4] x0 y0 x1 y1 in pixels; [0, 4] where there are none.
        generator: on the CPU, so that every device draws the same.
        width: copies that are mixed, at least 1.
        depth: most operations of a chain, at least 1.
        regions: boxes of a copy with a chain of their own.
        strength: greatest strength of an operation, in [0, 1].
        saliency_below: an object whose `saliency` is less is protected; 0 for none.
        protection: factor of the mixed share in such an object, in [0, 1]; 0 leaves it untouched.

    Raises:
        TypeError: image is not of a floating-point type.
        ValueError: another shape, a generator on another device, or an argument out of range.
    """
    _check(image, boxes, generator, width, depth, regions)
    for name, share in (("strength", strength), ("protection", protection)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {share}")
    x = image.to(torch.promote_types(image.dtype, torch.float32))
    share = torch.rand((), generator=generator).item()
    # exponential draws by their sum are even on the simplex
    weights = 1e-6 - torch.log1p(-torch.rand(width, generator=generator))
    mixed = torch.zeros_like(x)
    for weight in (weights / weights.sum()).tolist():
        mixed += weight * _copy(x, generator, depth, regions, strength)
    m = torch.full_like(x[:1], share)
    dull = saliency(x, boxes) < saliency_below
    for x0, y0, x1, y1 in _pixels(boxes[dull.to(boxes.device)], x.shape[-2], x.shape[-1]):
        m[:, y0:y1, x0:x1] = share * protection
    return torch.lerp(x, mixed, m).clamp_(0, 1).to(image.dtype)


def saliency(image: Tensor, boxes: Tensor) -> Tensor:
    """How much each box stands out: its mean spectral residual by the image's, float32 [n].

    1 is as salient as the image is on average. image: [3, H, W] in [0, 1]; boxes: [n, 4] in pixels.
    A box that covers no pixel has 0.
    """
    height, width = image.shape[-2:]
    grey = image.float().mean(0)[None, None]
    small = F.interpolate(grey, (SALIENCY_SIDE, SALIENCY_SIDE), mode="bilinear", antialias=True)
    spectrum = torch.fft.fft2(small[0, 0])
    amplitude = spectrum.abs().clamp_min(1e-8).log()
    wide = F.pad(amplitude[None, None], [1] * 4, mode="circular")
    residual = amplitude - F.avg_pool2d(wide, 3, stride=1)[0, 0]
    field = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle())).abs().square()
    field = TF.gaussian_blur(field[None], [9, 9], [2.5, 2.5])[None]
    field = F.interpolate(field, (height, width), mode="bilinear")[0, 0]
    parts = [field[y0:y1, x0:x1] for x0, y0, x1, y1 in _pixels(boxes, height, width)]
    means = [part.mean() if part.numel() else field.new_zeros(()) for part in parts]
    return torch.stack(means) / field.mean() if means else field.new_zeros(0)


def _copy(x: Tensor, generator: Generator, depth: int, regions: int, strength: float) -> Tensor:
    """One changed copy: a chain over the whole, then one in each of the random boxes."""
    changed = _chain(x, generator, depth, strength)
    height, width = x.shape[-2:]
    for _ in range(regions):
        middle, extent = torch.rand(2, 2, generator=generator).tolist()
        rows, columns = (
            (int(max(0, m - e / 4) * side), int(min(1, m + e / 4) * side) + 1)
            for m, e, side in zip(middle, extent, (height, width), strict=True)
        )
        part = x[:, rows[0] : rows[1], columns[0] : columns[1]]
        done = _chain(part, generator, depth, strength)
        changed[:, rows[0] : rows[1], columns[0] : columns[1]] = done
    return changed


def _chain(x: Tensor, generator: Generator, depth: int, strength: float) -> Tensor:
    """x after one to `depth` drawn operations, a new tensor; always the same number of draws."""
    names = list(OPERATIONS)
    length = int(torch.randint(1, depth + 1, (), generator=generator))
    picks = torch.randint(len(names), (depth,), generator=generator).tolist()
    chance = torch.rand(depth, 2, generator=generator, dtype=torch.float64).tolist()
    for pick, (much, side) in list(zip(picks, chance, strict=True))[:length]:
        x = OPERATIONS[names[pick]](x, strength * much, 1 if side < 0.5 else -1).clamp(0, 1)
    return x


def _moved(
    x: Tensor,
    *,
    angle: float = 0.0,
    shear: tuple[float, float] = (0.0, 0.0),
    across: float = 0.0,
    down: float = 0.0,
) -> Tensor:
    """x turned, sheared (degrees) or moved (shares of the sides); what comes in is grey."""
    offset = [round(across * x.shape[-1]), round(down * x.shape[-2])]
    return TF.affine(
        x,
        angle=angle,
        translate=offset,
        scale=1.0,
        shear=list(shear),
        interpolation=InterpolationMode.BILINEAR,
        fill=[0.5, 0.5, 0.5],
    )


def _pixels(boxes: Tensor, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """x0, y0, x1, y1 of the pixels that boxes touch, within the image."""
    low, high = boxes[:, :2].floor().long().clamp_min(0), boxes[:, 2:].ceil().long()
    high = torch.minimum(high, high.new_tensor([width, height]))
    return [tuple(row) for row in torch.cat([low, high], 1).tolist()]


def _check(
    image: Tensor, boxes: Tensor, generator: Generator, width: int, depth: int, regions: int
) -> None:
    if not image.is_floating_point():
        raise TypeError(f"image must be floating point in [0, 1], got dtype {image.dtype}")
    if image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(f"image must have shape [3, H, W], got {list(image.shape)}")
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape [n, 4], got {list(boxes.shape)}")
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, got one on {generator.device}")
    for name, value, least in (("width", width, 1), ("depth", depth, 1), ("regions", regions, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
