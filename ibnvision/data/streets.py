"""Procedural street scenes: image, class mask, depth, 2-D and 3-D boxes and camera from one call.

    s = scene(7, seed=SPLIT_SEEDS["train"], height=64, width=96)
    image = render(s, "streets_fog", appearance_rng(SPLIT_SEEDS["train"], 7, "streets_fog"))

Geometry and surface colour depend on (split seed, index) only, so every domain shows the same
scene and differs in appearance alone. Drawn at twice the size; colour is averaged, mask and depth
follow the second nearest of the four samples of a pixel, so a thing owns a pixel once it covers
half of it.

Camera: pinhole without skew, axes x right, y down, z forward, pixel centres at + 0.5. The sky has
depth 200 m. Trees, poles, people and vehicles cast shadows on the ground, not on each other;
houses cast none.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from . import PRESETS
from .item import segmentation_item
from .names import BOX_CLASSES, IGNORED, known
from .opencv import cv2
from .shifts import APPEARANCE, APPEARANCE_HASH, apply
from .streets_canvas import Canvas
from .streets_ground import cast_shadows, paint_ground, paint_sky
from .streets_layout import Street, Thing, draw_street, place
from .streets_objects import (
    SKY,
    bicycle,
    building,
    car,
    hedge,
    person,
    pole,
    tree,
    truck,
)

GENERATOR_VERSION = 1  # raise it with every change of the drawn bytes
DOMAIN_SHIFTS = {f"streets_{name}": name for name in APPEARANCE}
STRESS_DOMAINS = ("streets_sketch", "streets_invert")
SPLIT_SEEDS = {"train": 1, "val": 2, "test": 3}
BOX_DTYPE = np.dtype(
    [
        ("category", np.int64),  # index into BOX_CLASSES
        ("xyxy", np.float32, 4),  # pixels, the drawn extent, hidden parts included
        ("center", np.float32, 3),  # metres, camera frame
        ("size", np.float32, 3),  # metres: width, height, length
        ("yaw", np.float32),  # radians; 0 heads along z, pi / 2 along x; KITTI's is yaw - pi / 2
        ("occlusion", np.float32),  # 1 - visible / drawn pixels
        ("truncation", np.float32),  # share of the extent outside the picture
    ]
)
OVERSAMPLING = 2
SMALLEST_OBJECT_PX = 5  # drawn area, in pixels of the picture, below which an object has no box


@dataclass(frozen=True, eq=False)
class Scene:
    """One street without light and weather; arrays are read-only.

    albedo: float32 [H, W, 3] RGB in [0, 1]. shade: float32 [H, W], share of the sunlight that
    arrives, in [0, 1]. label: uint8 [H, W], index into CLASSES or 255 for ignored. depth: float32
    [H, W], metres along z. boxes: structured array [N] of BOX_DTYPE, far to near. camera: float64
    [3, 3], pixels. camera_height: metres above the ground.
    """

    albedo: np.ndarray
    shade: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    boxes: np.ndarray
    camera: np.ndarray
    camera_height: float


def scene(index: int, *, seed: int, height: int, width: int) -> Scene:
    """Scene number `index` of the split with this seed, `height` x `width` pixels.

    The same arguments give the same bytes. ValueError for sizes below 16 and negative numbers.
    """
    for name, value, least in (
        ("index", index, 0),
        ("seed", seed, 0),
        ("height", height, 16),
        ("width", width, 16),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    rng = np.random.default_rng([seed, index])
    h, w = height * OVERSAMPLING, width * OVERSAMPLING
    elevation, azimuth = rng.uniform(0.45, 1.0), rng.uniform(-np.pi, np.pi)
    canvas = Canvas(
        h,
        w,
        focal=0.9 * w,
        horizon=h * rng.uniform(0.42, 0.50),
        centre=w / 2 + float(np.clip(rng.normal(0, 0.05), -0.12, 0.12)) * w,
        camera_height=rng.uniform(1.4, 1.7),
        sun=np.array([np.sin(azimuth), np.cos(azimuth)]) / np.tan(elevation),
        rng=rng,
    )
    street = draw_street(rng)
    things = place(rng, street)
    paint_sky(canvas)
    paint_ground(canvas, street)
    cast_shadows(canvas, things)
    for thing in sorted(things, key=lambda t: -t.order):
        paint_thing(canvas, thing, street)
    return _finish(canvas, height, width)


def _block_ends(thing: Thing, street: Street) -> tuple[np.ndarray, np.ndarray]:
    near = max(thing.z, 1.0)
    return street.point(thing.x, near), street.point(thing.x, thing.z + thing.size[2])


def paint_thing(canvas: Canvas, thing: Thing, street: Street) -> None:
    width, height, length = thing.size
    if thing.kind in ("building", "hedge"):
        near, far = _block_ends(thing, street)
        if far[1] <= near[1]:
            return
        if thing.kind == "building":
            building(canvas, near, far, height, thing.side, width)
        else:
            hedge(canvas, near, far, height)
        return
    if thing.kind == "tree":
        tree(canvas, thing.x, thing.z, height - width, width / 2)
        return
    if thing.kind == "pole":
        pole(canvas, thing.x, thing.z, thing.style, height, width / 2)
        return
    canvas.begin()
    if thing.kind == "person":
        person(canvas, thing.x, thing.z, height)
    elif thing.kind == "bicycle":
        bicycle(canvas, thing.x, thing.z, thing.yaw, height)
    else:
        draw = car if thing.kind == "car" else truck
        draw(canvas, thing.x, thing.z, thing.yaw, width, height, length)
    canvas.end(thing=thing)


def _finish(canvas: Canvas, height: int, width: int) -> Scene:
    """Average colours, pick mask and depth, and count what is visible of every object."""
    k = OVERSAMPLING
    np.clip(canvas.albedo, 0, 1, out=canvas.albedo)
    albedo = cv2.resize(canvas.albedo, (width, height), interpolation=cv2.INTER_AREA)
    shade = cv2.resize(canvas.shade, (width, height), interpolation=cv2.INTER_AREA)

    def samples(buffer: np.ndarray) -> np.ndarray:
        return np.stack([buffer[i::k, j::k] for i in range(k) for j in range(k)])

    inverse, labels = samples(canvas.inverse_depth), samples(canvas.label)
    second = np.argsort(-inverse, axis=0, kind="stable")[1]
    label = np.take_along_axis(labels, second[None], 0)[0]
    surface = samples(canvas.owner).astype(np.int32) * 256 + labels
    same = surface == np.take_along_axis(surface, second[None], 0)
    depth = same.sum(0) / (inverse * same).sum(0)

    visible = np.bincount(canvas.owner.ravel(), minlength=len(canvas.drawn) + 1)[1:]
    kept = []
    for item, seen in zip(canvas.drawn, visible, strict=True):
        if item["count"] < SMALLEST_OBJECT_PX * k * k or seen == 0:
            continue
        thing: Thing = item["thing"]
        up = canvas.camera_height - thing.size[1] / 2
        kept.append(
            (
                BOX_CLASSES.index(thing.kind),
                item["xyxy"] / k,
                (thing.x, up, thing.z),
                thing.size,
                thing.yaw,
                1 - seen / item["count"],
                item["truncation"],
            )
        )
    camera = np.array(
        [
            [canvas.focal / k, 0, canvas.centre / k],
            [0, canvas.focal / k, canvas.horizon / k],
            [0, 0, 1],
        ]
    )
    arrays = (albedo, shade, label, depth.astype(np.float32), np.array(kept, BOX_DTYPE), camera)
    for array in arrays:
        array.flags.writeable = False
    return Scene(*arrays, camera_height=canvas.camera_height)


def appearance_rng(seed: int, index: int, domain: str) -> np.random.Generator:
    """Generator of the looks of one scene in one domain; geometry never draws from it."""
    return np.random.default_rng(
        [seed, index, list(DOMAIN_SHIFTS).index(known("domain", domain, DOMAIN_SHIFTS))]
    )


def render(scene: Scene, domain: str, rng: np.random.Generator) -> np.ndarray:
    """Picture of a scene in a domain, uint8 [H, W, 3] RGB; KeyError for an unknown domain."""
    shift = DOMAIN_SHIFTS[known("domain", domain, DOMAIN_SHIFTS)]
    dark = np.float32(APPEARANCE[shift]["shadow"]) * (1 - scene.shade)
    sky = scene.label == SKY
    lit = scene.albedo * (1 - np.where(sky, 0, dark))[..., None]
    shown = apply(shift, lit, rng, depth=scene.depth, sky=sky)
    return (shown * 255 + np.float32(0.5)).astype(np.uint8)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a .npz that appears whole or not at all, so that processes may share its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(file.name, path)


@lru_cache(maxsize=128)
def _cached_scene(index: int, seed: int, height: int, width: int) -> Scene:
    return scene(index, seed=seed, height=height, width=width)


class Streets(Dataset):
    """One domain and split as items of image, target and domain; see `ibnvision.data`.

    Pictures are drawn on first use and kept as bytes. `size` is (height, width) in place of the
    preset's, `limit` keeps the first scenes only.
    """

    def __init__(
        self,
        domain: str,
        split: str,
        *,
        preset: str = "quick",
        size: tuple[int, int] | None = None,
        limit: int | None = None,
    ):
        self.domain = known("domain", domain, DOMAIN_SHIFTS)
        if split not in SPLIT_SEEDS:
            raise ValueError(f"split must be one of {', '.join(SPLIT_SEEDS)}, got {split!r}")
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        chosen = PRESETS[preset]
        self.split, self.seed = split, SPLIT_SEEDS[split]
        self.height, self.width = size or (chosen.height, chosen.width)
        count = getattr(chosen, split)
        self.count = count if limit is None else min(limit, count)
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """Scene behind item `index`, with depth, boxes and camera."""
        if not 0 <= index < self.count:
            raise IndexError(f"index must lie in [0, {self.count}), got {index}")
        return _cached_scene(index, self.seed, self.height, self.width)

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] RGB and label uint8 [H, W] of item `index`."""
        if index not in self._drawn:
            drawn = self.scene(index)
            image = render(drawn, self.domain, appearance_rng(self.seed, index, self.domain))
            self._drawn[index] = image, drawn.label
        return self._drawn[index]

    def keep(self, folder: str | Path) -> None:
        """Take all pictures from folder/<fingerprint>.npz; draw and write them where it is missing,
        as `write_arrays`.
        """
        path = Path(folder) / f"{self.fingerprint()}.npz"
        if path.is_file():
            with np.load(path) as kept:
                self._drawn = dict(enumerate(zip(kept["images"], kept["labels"], strict=True)))
            return
        images, labels = zip(*map(self.picture, range(self.count)), strict=True)
        write_arrays(path, images=np.stack(images), labels=np.stack(labels))

    def __getitem__(self, index: int) -> dict:
        return segmentation_item(*self.picture(index), self.domain)

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the items: generator, recipes, domain, seed, size, count."""
        facts = {
            "generator": GENERATOR_VERSION,
            "appearance": APPEARANCE_HASH,
            "domain": self.domain,
            "seed": self.seed,
            "size": [self.height, self.width],
            "count": self.count,
            "ignored": IGNORED,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
