"""Appearance shifts: colour, light and weather as functions of an image, its depth and a generator.

Every shift has the form `shift(image, rng, *, depth, sky, **constants)`: image float32 [H, W, 3]
RGB in [0, 1], depth float32 [H, W] in metres or None, sky bool [H, W] or None, rng a numpy
Generator. It returns float32 [H, W, 3], not yet clipped. `apply` checks the input, adds sensor
noise and clips. The functions know nothing of scenes, so they serve photographs as well; only fog
needs a depth.

`APPEARANCE` holds every constant of the streets domains. It was fixed before the first training
run; `APPEARANCE_HASH` records it, and a test compares the two.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .names import known
from .opencv import cv2

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
Range = tuple[float, float]
Triple = tuple[float, float, float]


def luminance(image: np.ndarray) -> np.ndarray:
    """Grey value of an RGB image [H, W, 3] as [H, W, 1]."""
    return (image @ LUMA)[..., None]


def _tint(colour: Triple) -> np.ndarray:
    return np.asarray(colour, np.float32)


def day(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    gain: Range,
    white_balance: float,
    depth: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> np.ndarray:
    """Exposure and a small error of the white balance."""
    balance = rng.uniform(1 - white_balance, 1 + white_balance, 3).astype(np.float32)
    return image * np.float32(rng.uniform(*gain)) * balance


def haze(
    image: np.ndarray, depth: np.ndarray, beta_per_m: float, airlight: np.ndarray | float
) -> np.ndarray:
    """Scattering model I = J t + A (1 - t) with t = exp(-beta Z); airlight A is a scalar or RGB.

    Source: Koschmieder's law, as used by Narasimhan and Nayar, IJCV 2002.
    """
    t = np.exp(-np.float32(beta_per_m) * depth)[..., None]
    return image * t + np.asarray(airlight, np.float32) * (1 - t)


def fog(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    beta_per_m: Range,
    airlight: Range,
    airlight_tint: Triple,
    depth: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> np.ndarray:
    """`haze` with a drawn density (per metre) and airlight; needs the depth."""
    if depth is None:
        raise ValueError("fog needs depth, float [H, W] in metres, got None")
    beta = rng.uniform(*beta_per_m)
    return haze(image, depth, beta, rng.uniform(*airlight) * _tint(airlight_tint))


def night(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    gain: Range,
    tint: Triple,
    sky_gain: float,
    sky_lift: float,
    headlight: float,
    headlight_tint: Triple,
    headlight_row: float,
    headlight_spread: Range,
    sensor_noise: float,
    depth: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> np.ndarray:
    """Dim blue light, a darker sky, one warm headlight lobe low in the picture, sensor noise.

    `headlight_row` is a share of the height; `headlight_spread` holds shares of height and width.
    """
    height, width = image.shape[:2]
    ground = np.ones((height, width, 1), np.float32) if sky is None else ~sky[..., None]
    dim = image * np.float32(rng.uniform(*gain)) * _tint(tint)
    dim = np.where(ground, dim, dim * np.float32(sky_gain) + np.float32(sky_lift))
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height - headlight_row
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    lobe = np.exp(-((rows[:, None] / headlight_spread[0]) ** 2))
    lobe = lobe * np.exp(-((columns[None] / headlight_spread[1]) ** 2))
    lit = image * lobe[..., None] * np.float32(headlight) * ground * _tint(headlight_tint)
    return dim + lit + _noise(rng, image.shape, sensor_noise)


def dusk(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    contrast: float,
    lift: float,
    tint: Triple,
    gain: Range,
    gamma: float,
    depth: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> np.ndarray:
    """Lifted blacks, lower contrast, orange balance."""
    x = (image * np.float32(contrast) + np.float32(lift)) * _tint(tint)
    return np.maximum(x * np.float32(rng.uniform(*gain)), 0) ** np.float32(gamma)


def rain(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    saturation: float,
    gain: float,
    lift: float,
    tint: Triple,
    streak_share: float,
    streak_length: float,
    streak_strength: float,
    depth: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> np.ndarray:
    """Less colour, less light, a blue cast and vertical streaks, `streak_length` of the height."""
    grey = luminance(image)
    x = grey + (image - grey) * np.float32(saturation)
    x = (x * np.float32(gain) + np.float32(lift)) * _tint(tint)
    drops = (rng.random(image.shape[:2]) < streak_share).astype(np.float32)
    streaks = cv2.blur(drops, (1, max(1, round(streak_length * image.shape[0]))))
    return x + streaks[..., None] * np.float32(streak_strength)


def style(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    saturation: float,
    channels: tuple[int, int, int],
    tint: Triple,
    slope: float,
    centre: float,
    depth: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> np.ndarray:
    """Another renderer: less colour, channels exchanged, a sigmoid contrast curve."""
    grey = luminance(image)
    x = (grey + (image - grey) * np.float32(saturation))[..., list(channels)] * _tint(tint)
    return 1 / (1 + np.exp(-np.float32(slope) * (x - np.float32(centre))))


def sketch(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    blur_px: float,
    edge_gain: float,
    darkest: float,
    paper: float,
    depth: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> np.ndarray:
    """Dark edges on light paper."""
    grey = luminance(image)
    soft = cv2.GaussianBlur(np.ascontiguousarray(grey[..., 0]), (0, 0), blur_px)
    edges = np.abs(cv2.Laplacian(soft, cv2.CV_32F, ksize=3))[..., None] * np.float32(edge_gain)
    drawing = (1 - np.clip(edges, 0, darkest)) * np.float32(paper) + grey * np.float32(1 - paper)
    return np.repeat(drawing, 3, axis=2)


def invert(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    depth: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> np.ndarray:
    """The photographic negative."""
    return 1 - image


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    return rng.standard_normal(shape, np.float32) * np.float32(sigma)


SHIFTS: dict[str, Callable[..., np.ndarray]] = {
    "day": day,
    "fog": fog,
    "night": night,
    "dusk": dusk,
    "rain": rain,
    "style": style,
    "sketch": sketch,
    "invert": invert,
}

# shadow: how much darker a full shadow of the sun is; only drawn scenes know their shadows.
# noise: sigma of the camera noise that `apply` adds.
APPEARANCE: dict[str, dict[str, Any]] = {
    "day": {
        "shadow": 0.5,
        "noise": 0.012,
        "constants": {"gain": (0.85, 1.12), "white_balance": 0.05},
    },
    # Shadows as by day: fog and day stay a hazy and clean pair of one scene.
    "fog": {
        "shadow": 0.5,
        "noise": 0.012,
        "constants": {
            "beta_per_m": (0.02, 0.05),
            "airlight": (0.75, 0.92),
            "airlight_tint": (1.0, 1.0, 1.02),
        },
    },
    "night": {
        "shadow": 0.0,
        "noise": 0.012,
        "constants": {
            "gain": (0.22, 0.36),
            "tint": (0.8, 0.88, 1.2),
            "sky_gain": 0.25,
            "sky_lift": 0.02,
            "headlight": 0.45,
            "headlight_tint": (1.0, 0.95, 0.75),
            "headlight_row": 0.85,
            "headlight_spread": (0.3, 0.35),
            "sensor_noise": 0.02,
        },
    },
    "dusk": {
        "shadow": 0.3,
        "noise": 0.012,
        "constants": {
            "contrast": 0.55,
            "lift": 0.12,
            "tint": (1.25, 0.95, 0.7),
            "gain": (0.8, 1.05),
            "gamma": 1.1,
        },
    },
    "rain": {
        "shadow": 0.12,
        "noise": 0.012,
        "constants": {
            "saturation": 0.55,
            "gain": 0.6,
            "lift": 0.08,
            "tint": (0.9, 0.97, 1.08),
            "streak_share": 0.015,
            "streak_length": 0.14,
            "streak_strength": 1.2,
        },
    },
    "style": {
        "shadow": 0.5,
        "noise": 0.012,
        "constants": {
            "saturation": 0.35,
            "channels": (2, 1, 0),
            "tint": (0.9, 1.05, 1.12),
            "slope": 7.0,
            "centre": 0.45,
        },
    },
    "sketch": {
        "shadow": 0.5,
        "noise": 0.012,
        "constants": {"blur_px": 0.8, "edge_gain": 4.0, "darkest": 0.9, "paper": 0.9},
    },
    "invert": {"shadow": 0.5, "noise": 0.012, "constants": {}},
}


def appearance_hash(recipes: Mapping[str, Any]) -> str:
    """SHA-256 of the recipes as JSON with sorted keys and no spaces."""
    text = json.dumps(recipes, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


APPEARANCE_HASH = "d3252d0a73a5eb49ebbbf4ab0eb54f21b57436829125bea90459e2e55ecc793e"


def apply(
    name: str,
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    depth: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> np.ndarray:
    """Image under shift `name` with the constants of `APPEARANCE`, noise added, clipped to [0, 1].

    image: float [H, W, 3] RGB in [0, 1]. depth: float [H, W], metres (fog needs it). sky: bool
    [H, W] (night darkens it). Returns float32 [H, W, 3]. Raises KeyError for an unknown name,
    TypeError for an image that is not floating, ValueError for shapes or a missing depth.
    """
    known("shift", name, SHIFTS)
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image must be floating point in [0, 1], got dtype {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must have shape [H, W, 3], got {list(image.shape)}")
    for label, plane in (("depth", depth), ("sky", sky)):
        if plane is not None and plane.shape != image.shape[:2]:
            raise ValueError(
                f"{label} must have the image's shape {list(image.shape[:2])}, "
                f"got {list(plane.shape)}"
            )
    recipe = APPEARANCE[name]
    shifted = SHIFTS[name](
        image.astype(np.float32, copy=False), rng, depth=depth, sky=sky, **recipe["constants"]
    )
    return np.clip(shifted + _noise(rng, image.shape, recipe["noise"]), 0, 1).astype(np.float32)
