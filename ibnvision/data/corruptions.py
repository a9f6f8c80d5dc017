"""Common corruptions of images at five severities, with boxes and masks carried along.

    seed = corruption_seed(image_id, "snow", 3, 0)
    snowy = corrupt(image, "snow", 3, seed)
    image, boxes, mask = corrupt_sample(image, "elastic_transform", 3, seed, boxes=boxes, mask=mask)

The fifteen families of ImageNet-C (Hendrycks and Dietterich, ICLR 2019,
https://arxiv.org/abs/1903.12261) by the constants of imagecorruptions (Michaelis et al., 2019,
https://arxiv.org/abs/1907.07484), whose results tests hold beside ours, and three of our own: fog
by depth, rain and night. Differs from both: images are not rounded to bytes, but for jpeg.

A corruption is a function of image, severity and seed. Chance comes from a generator on the CPU,
so that every device draws the same; shot_noise and jpeg_compression pass through the CPU. Only
elastic_transform moves things: masks follow its field, boxes become hulls. glass_blur moves pixels
by 4 at most, and labels stay.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from . import corruptions_blur as blur
from . import corruptions_digital as digital
from . import corruptions_noise as noise
from . import corruptions_weather as weather
from .names import known

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32  # side in pixels
VERSION = 1  # raise it with every change of what a corruption returns

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
IMAGENET_C = tuple(name for names in GROUPS.values() for name in names)
CORRUPTIONS = (*IMAGENET_C, "fog_depth", "rain", "night")

# of one image [3, H, W], by severity and generator; the two that are not here need or move more
_PLAIN: dict[str, Callable[[Tensor, int, Generator], Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "rain": weather.rain,
    "night": weather.night,
}


class Sample(NamedTuple):
    """An image, or a batch, with what lies on it; None stays None."""

    image: Tensor
    boxes: Tensor | Sequence[Tensor] | None
    mask: Tensor | None


def corruption_seed(image_id: int | str, name: str, severity: int, seed: int = 0) -> int:
    """A seed in [0, 2^32) of its own for each image, corruption, severity and `seed`.

    The same on every machine. Raises as `corrupt` for name and severity.
    """
    _check_name(name, severity)
    facts = json.dumps([image_id, name, severity, seed])
    return int.from_bytes(hashlib.sha256(facts.encode()).digest()[:4], "big")


def corrupt(
    image: Tensor,
    name: str,
    severity: int,
    seed: int | Sequence[int] | Generator = 0,
    *,
    depth: Tensor | None = None,
) -> Tensor:
    """`image` under the corruption `name`, in [0, 1], of the same shape, dtype and device.

    Half precision is worked on in float32. The same arguments give the same bits on one machine;
    between devices, and between instruction sets of CPUs, results agree up to rounding: within
    1e-4 but for single values whose rounding tips a threshold (flakes, jpeg, places read).

    Args:
        image: [3, H, W] or [N, 3, H, W] RGB, floating point, in [0, 1]; H and W at least 32.
        name: one of CORRUPTIONS.
        severity: 1 to 5.
        seed: of the image; for a batch one for each of its images, which then does not depend on
            the others. One number for a batch, or a generator on the CPU: images draw one after
            the other.
        depth: [H, W] or [N, H, W] in metres, finite and at least 0; fog_depth alone needs it.

    Raises:
        KeyError: unknown name.
        TypeError: image is not of a floating-point type, or severity is no integer.
        ValueError: severity, a shape, the number of seeds, a generator on another device, or depth
            missing or out of range.
    """
    return corrupt_sample(image, name, severity, seed, depth=depth).image


def corrupt_sample(
    image: Tensor,
    name: str,
    severity: int,
    seed: int | Sequence[int] | Generator = 0,
    *,
    depth: Tensor | None = None,
    boxes: Tensor | Sequence[Tensor] | None = None,
    mask: Tensor | None = None,
) -> Sample:
    """As `corrupt`, with what lies on the image.

    Args:
        boxes: [n, 4] x0 y0 x1 y1 in pixels; for a batch a sequence of N such.
        mask: [..., H, W] of any type, of a batch [N, ..., H, W].

    What elastic_transform moves: a mask is read where the image is, at the nearest pixels. A box
    becomes the hull, in whole pixels, of the pixels that are read from inside it; one that no
    pixel reads from stays. Raises as `corrupt`; ValueError too for boxes or a mask that do not fit.
    """
    _check_name(name, severity)
    _check(image, name, depth, boxes, mask)
    count = len(image) if image.dim() == 4 else 1
    generators = _generators(seed, count)
    if image.dim() == 3:
        return _one(image, name, severity, generators[0], depth, boxes, mask)
    samples = [
        _one(
            image[i],
            name,
            severity,
            generators[i],
            None if depth is None else depth[i],
            None if boxes is None else boxes[i],
            None if mask is None else mask[i],
        )
        for i in range(count)
    ]
    if not samples:
        return Sample(image, boxes, mask)
    return Sample(
        torch.stack([sample.image for sample in samples]),
        None if boxes is None else [sample.boxes for sample in samples],  # type: ignore[misc]
        None if mask is None else torch.stack([sample.mask for sample in samples]),  # type: ignore[misc]
    )


def _one(
    image: Tensor,
    name: str,
    severity: int,
    generator: Generator,
    depth: Tensor | None,
    boxes: Tensor | Sequence[Tensor] | None,
    mask: Tensor | None,
) -> Sample:
    x = image.to(torch.promote_types(image.dtype, torch.float32)).contiguous()
    if name == "fog_depth":
        assert depth is not None
        x = weather.fog_depth(x, severity, generator, depth.to(x))
    elif name == "elastic_transform":
        field = digital.elastic_field(x.shape[-2], x.shape[-1], severity, generator)
        x = digital.warp(x, field)
        mask = None if mask is None else digital.warp_mask(mask, field)
        if isinstance(boxes, Tensor):
            boxes = digital.warp_boxes(boxes, field)
    else:
        x = _PLAIN[name](x, severity, generator)
    return Sample(x.to(image.dtype), boxes, mask)


def _generators(seed: int | Sequence[int] | Generator, count: int) -> list[Generator]:
    """One for each image; the same object where they draw one after the other."""
    if isinstance(seed, Generator):
        if seed.device.type != "cpu":
            raise ValueError(f"seed must be a generator on the CPU, got one on {seed.device}")
        return [seed] * count
    if isinstance(seed, int):
        return [torch.Generator().manual_seed(seed)] * count
    if len(seed) != count:
        raise ValueError(f"seed must hold one number for each of {count} images, got {len(seed)}")
    return [torch.Generator().manual_seed(number) for number in seed]


def _check_name(name: str, severity: int) -> None:
    known("corruption", name, CORRUPTIONS)
    if not isinstance(severity, int) or isinstance(severity, bool):
        raise TypeError(f"severity must be an integer from 1 to 5, got {severity!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be an integer from 1 to 5, got {severity}")


def _check(
    image: Tensor,
    name: str,
    depth: Tensor | None,
    boxes: Tensor | Sequence[Tensor] | None,
    mask: Tensor | None,
) -> None:
    if not image.is_floating_point():
        raise TypeError(f"image must be floating point in [0, 1], got dtype {image.dtype}")
    if image.dim() not in (3, 4) or image.shape[-3] != 3:
        raise ValueError(
            f"image must have shape [3, H, W] or [N, 3, H, W], got {list(image.shape)}"
        )
    if min(image.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"image must be at least {SMALLEST} pixels high and wide, got "
            f"{image.shape[-2]}x{image.shape[-1]} (height x width)"
        )
    plane, batch = image.shape[:-3] + image.shape[-2:], image.shape[:-3]
    if name == "fog_depth":
        if depth is None:
            raise ValueError("fog_depth needs depth, [H, W] in metres, got None")
        if depth.shape != plane:
            raise ValueError(f"depth must have shape {list(plane)}, got {list(depth.shape)}")
        low, high = (float(end) for end in depth.aminmax()) if depth.numel() else (0.0, 0.0)
        if not (0 <= low and high < math.inf):
            raise ValueError(f"depth must be finite and at least 0, got {low} to {high}")
    if mask is not None and (
        mask.shape[-2:] != image.shape[-2:] or mask.shape[: len(batch)] != batch
    ):
        raise ValueError(
            f"mask must have shape {[*batch, '...', *image.shape[-2:]]}, got {list(mask.shape)}"
        )
    if boxes is not None and len(batch) and len(boxes) != len(image):
        raise ValueError(f"boxes must hold {len(image)} tensors, got {len(boxes)}")
    for rows in [] if boxes is None else boxes if len(batch) else [boxes]:
        if not isinstance(rows, Tensor) or rows.dim() != 2 or rows.shape[1] != 4:
            shown = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(f"boxes must have shape [n, 4], for each image, got {shown}")
