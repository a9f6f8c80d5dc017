"""Synthetic haze from an image and its depth: scattering, patches, noise and JPEG, on tensors.

    I = J t + A (1 - t),   t = exp(-beta d)

`scatter` is that law; `degrade` draws beta, A and what a camera adds from a recipe. Images are
float [3, H, W] or [N, 3, H, W] RGB in [0, 1], depths [H, W] or [N, H, W], on any device. Chance
comes from the given torch.Generator alone. `shifts.haze` is the numpy form of the same law, kept
for the streets domains; a test holds them equal.

`HAZE` holds every constant of the dehazing domains, fixed before the first recorded training run;
`HAZE_HASH` records it, and a test compares the two.

Sources: Koschmieder's law as in Narasimhan and Nayar, IJCV 2002; the degradations of Wu et al.,
"RIDCP", CVPR 2023, https://arxiv.org/abs/2304.03994.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .item import to_image
from .opencv import cv2


def scatter(clear: Tensor, depth: Tensor, beta: float | Tensor, airlight: float | Tensor) -> Tensor:
    """The hazy image, of the type and on the device of `clear`.

    Args:
        clear: [..., 3, H, W], floating point, in [0, 1].
        depth: [..., H, W], in any unit.
        beta: per that unit; a number, or [...] with one for each image.
        airlight: in [0, 1]; a number, [3], or [..., 3].

    Raises:
        TypeError: clear is not of a floating-point type.
        ValueError: clear and depth do not fit.
    """
    _check(clear, depth)
    beta = torch.as_tensor(beta, dtype=clear.dtype, device=clear.device)
    airlight = torch.as_tensor(airlight, dtype=clear.dtype, device=clear.device)
    t = torch.exp(-beta[..., None, None] * depth.to(clear)).unsqueeze(-3)
    if airlight.dim():
        airlight = airlight[..., None, None]
    return clear * t + airlight * (1 - t)


def uniform(generator: Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A number drawn evenly from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def smooth_noise(
    height: int, width: int, generator: Generator, *, cells: int, octaves: int = 3
) -> Tensor:
    """Smooth random field [height, width] in [-1, 1], float32 on the CPU.

    Args:
        cells: random values along each side in the coarsest layer; each further octave doubles
            them at half the strength.
    """
    field = torch.zeros(1, 1, height, width)
    for octave in range(octaves):
        side = cells * 2**octave + 1
        grid = torch.rand(1, 1, side, side, generator=generator) * 2 - 1
        grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=True)
        field += grid * 0.5**octave
    return (field / field.abs().amax().clamp_min(1e-6))[0, 0]


def jpeg(image: Tensor, quality: int) -> Tensor:
    """`image`, [3, H, W], after a JPEG file of this quality, 1 to 100; compressed on the CPU."""
    pixels = to_bytes(image)[..., ::-1]
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    shown = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    assert shown is not None
    return to_image(shown[..., ::-1]).to(image)


def to_bytes(image: Tensor) -> np.ndarray:
    """[3, H, W] in [0, 1] as a picture uint8 [H, W, 3], rounded."""
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255 + 0.5).byte()
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def degrade(
    clear: Tensor, depth: Tensor, recipe: Mapping[str, Any], generator: Generator
) -> Tensor:
    """`clear` under haze drawn from a recipe (see HAZE), clipped to [0, 1].

    Args:
        clear: [3, H, W] or [N, 3, H, W], floating point; each image draws for itself.
        depth: [H, W] or [N, H, W].
        generator: on the CPU, so that every device sees the same haze.

    Raises: as scatter; ValueError for an image of another number of dimensions.
    """
    _check(clear, depth)
    if clear.dim() == 4:
        pairs = zip(clear, depth, strict=True)
        return torch.stack([degrade(c, d, recipe, generator) for c, d in pairs])
    if clear.dim() != 3:
        raise ValueError(
            f"clear must have shape [3, H, W] or [N, 3, H, W], got {list(clear.shape)}"
        )

    def drawn(key: str) -> float:
        return uniform(generator, *recipe[key])

    def happens(key: str) -> bool:
        return uniform(generator) < recipe[key]

    height, width = depth.shape
    beta, light = drawn("beta"), drawn("airlight")
    tint = recipe["tints"][int(uniform(generator, 0, len(recipe["tints"])))]
    offset = recipe["airlight_offset"] * (torch.rand(3, generator=generator) * 2 - 1)
    if happens("gamma_share"):
        clear = clear ** drawn("gamma")
    patchiness = drawn("patchiness")
    if patchiness > 0:
        field = smooth_noise(height, width, generator, cells=recipe["patch_cells"])
        depth = depth * (1 + patchiness * field).to(depth)
    hazy = scatter(clear, depth, beta, (light * torch.tensor(tint) + offset).clamp(0, 1))
    if happens("noise_share"):
        planes = 1 if happens("grey_share") else 3
        noise = torch.randn(planes, height, width, generator=generator)
        hazy = hazy + (noise * drawn("noise")).to(hazy)
    hazy = hazy.clamp(0, 1)
    return jpeg(hazy, round(drawn("jpeg"))) if happens("jpeg_share") else hazy


def _check(clear: Tensor, depth: Tensor) -> None:
    if not clear.is_floating_point():
        raise TypeError(f"clear must be floating point in [0, 1], got dtype {clear.dtype}")
    if clear.dim() < 3 or clear.shape[-3] != 3:
        raise ValueError(f"clear must have shape [..., 3, H, W], got {list(clear.shape)}")
    if depth.shape != clear.shape[:-3] + clear.shape[-2:]:
        raise ValueError(
            f"depth must have the shape of clear without its channels, "
            f"{list(clear.shape[:-3] + clear.shape[-2:])}, got {list(depth.shape)}"
        )


NEUTRAL = (1.0, 1.0, 1.0)
NEVER: dict[str, Any] = {
    "tints": (NEUTRAL,),
    "airlight_offset": 0.0,
    "gamma": (1.0, 1.0),
    "gamma_share": 0.0,
    "patchiness": (0.0, 0.0),
    "patch_cells": 3,
    "noise": (0.0, 0.0),
    "noise_share": 0.0,
    "grey_share": 0.5,
    "jpeg": (95, 95),
    "jpeg_share": 0.0,
}
SOURCE = {**NEVER, "beta": (0.3, 2.0), "airlight": (0.7, 1.0), "airlight_offset": 0.025}


def _motorcycle(beta_per_m: float) -> dict[str, Any]:
    return {**NEVER, "beta": (beta_per_m, beta_per_m), "airlight": (0.9, 0.9)}


# (low, high) are bounds of a uniform draw; *_share are probabilities.
# beta: per unit of depth. The far end of a scene is 1, that of the motorcycle is in metres.
# tints: colours of the air light, one is drawn. airlight_offset: at most, per channel.
# gamma: exponent of the clear image; it darkens. noise: sigma. jpeg: quality.
# patchiness: the optical depth varies by that share, `patch_cells` patches along a side.
HAZE: dict[str, dict[str, Any]] = {
    "haze": SOURCE,
    "haze_dense": {**SOURCE, "beta": (2.4, 3.2)},
    "haze_tinted": {
        **SOURCE,
        "airlight": (0.8, 0.95),
        "tints": ((1.0, 0.86, 0.68), (0.72, 0.88, 1.0)),
    },
    "haze_patchy": {**SOURCE, "patchiness": (0.6, 0.95)},
    "haze_camera": {
        **SOURCE,
        "noise": (0.01, 0.03),
        "noise_share": 1.0,
        "jpeg": (50, 85),
        "jpeg_share": 1.0,
    },
    "haze_none": {**SOURCE, "beta": (0.0, 0.0)},
    # transmission 0.69, 0.45 and 0.26 on average
    "motorcycle_thin": _motorcycle(0.12),
    "motorcycle_medium": _motorcycle(0.26),
    "motorcycle_dense": _motorcycle(0.45),
    # the published pipeline, at no domain's service: near 0 and far 1, its 2 beta is beta here
    "ridcp": {
        **NEVER,
        "beta": (0.6, 3.0),
        "airlight": (0.25, 1.0),
        "airlight_offset": 0.025,
        "gamma": (1.5, 3.0),
        "gamma_share": 0.5,
        "noise": (2 / 255, 25 / 255),
        "noise_share": 0.5,
        "jpeg": (30, 95),
        "jpeg_share": 0.5,
    },
}


def haze_hash(recipes: Mapping[str, Any]) -> str:
    """SHA-256 of the recipes as JSON with sorted keys and no spaces."""
    text = json.dumps(recipes, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


HAZE_HASH = "50362ab71d622c74f58c747a0c4c1cd2ae9116ca52f76011ea4b718b9bd88513"
