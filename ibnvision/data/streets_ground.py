"""What fills the view of a streets scene: sky and skyline, ground, shadows on the ground."""

import numpy as np

from .opencv import cv2
from .streets_canvas import FAR_M, NOISE_CELLS, Canvas, noise_tiles
from .streets_layout import Street, Thing
from .streets_objects import BUILDING, ROAD, SIDEWALK, SKY, VEGETATION


def paint_sky(canvas: Canvas) -> None:
    """Gradient with clouds over the whole canvas, and a far skyline of houses and trees."""
    rng = canvas.rng
    height = (np.arange(canvas.height, dtype=np.float32) + 0.5)[:, None] / canvas.horizon
    height = np.clip(height, 0, 1)[..., None]
    haze = np.array([0.85, 0.9, 0.95], np.float32) * np.float32(rng.uniform(0.9, 1.0))
    zenith = np.array([0.35, 0.55, 0.85], np.float32) * np.float32(rng.uniform(0.8, 1.2))
    canvas.albedo[:] = zenith * (1 - height) + haze * height
    cells = rng.standard_normal((9, 6), np.float32)
    clouds = cv2.resize(cells, (canvas.width, canvas.height), interpolation=cv2.INTER_CUBIC)
    cover = np.clip(0.6 * clouds + rng.uniform(-0.5, 0.6), 0, 1)[..., None]
    canvas.albedo += (np.array([0.95, 0.95, 0.96], np.float32) - canvas.albedo) * (0.8 * cover)
    canvas.label[:] = SKY
    for label, tall, colour in (
        (BUILDING, 9.0, (0.55, 0.54, 0.55)),
        (VEGETATION, 7.0, (0.3, 0.37, 0.27)),
    ):
        steps = np.linspace(-150, 150, 25)
        up = rng.uniform(0.35, 1, 24) * tall
        outline = [(-150, 0)]
        for left, right, top in zip(steps, steps[1:], up, strict=False):
            outline += [(left, top), (right, top)]
        canvas.flat([*outline, (150, 0)], 160.0, label, np.array(colour) * rng.uniform(0.8, 1.1))


def paint_ground(canvas: Canvas, street: Street) -> None:
    """Road with markings, kerbs, slabs and lawns, one world position per pixel."""
    rng = canvas.rng
    top = int(np.floor(canvas.horizon + 0.5))
    rows = np.arange(top, canvas.height, dtype=np.float32)[:, None] + np.float32(0.5)
    drop = np.maximum(rows - np.float32(canvas.horizon), 1e-3)
    inverse = np.maximum(drop / np.float32(canvas.focal * canvas.camera_height), 1 / FAR_M)
    z = 1 / inverse
    columns = np.arange(canvas.width, dtype=np.float32)[None] + np.float32(0.5 - canvas.centre)
    x = columns * (z / np.float32(canvas.focal)) - np.float32(street.bend) * z * z

    asphalt, stone = rng.uniform(0.26, 0.42), rng.uniform(0.44, 0.66)
    lawn = np.array([0.27, 0.38, 0.18]) * rng.uniform(0.75, 1.15)
    warm = rng.uniform(-0.03, 0.05)
    slab = np.array([stone + warm, stone, stone - warm])
    kerb = np.minimum(slab * 1.18, 0.9)
    zones = np.array(
        [lawn, slab, kerb, [asphalt, asphalt, asphalt * 1.03], kerb, slab, lawn], np.float32
    )
    labels = np.array(
        [VEGETATION, SIDEWALK, SIDEWALK, ROAD, SIDEWALK, SIDEWALK, VEGETATION], np.uint8
    )
    borders = [street.edge(-1), street.left - 0.2, street.left]
    borders += [street.right, street.right + 0.2, street.edge(1)]
    zone = np.zeros(x.shape, np.uint8)
    for border in borders:
        zone += x > border
    colour = zones[zone]

    shift_x, shift_z = rng.integers(0, NOISE_CELLS, 2)
    near = np.exp(-z / 25)

    def grain(name: str, per_metre: float) -> np.ndarray:
        i = (z * np.float32(per_metre) + shift_z).astype(np.int32) & (NOISE_CELLS - 1)
        j = (x * np.float32(per_metre) + shift_x).astype(np.int32) & (NOISE_CELLS - 1)
        return noise_tiles()[name][i, j]

    texture = grain("fine", 14) * (0.03 * near) + grain("broad", 3) * np.float32(0.022)
    colour += (texture * np.where((zone == 0) | (zone == 6), 1.6, 1))[..., None]

    road, pavement = zone == 3, (zone == 1) | (zone == 5)
    size = rng.uniform(0.5, 0.9)
    joint = pavement & (((x % size) < 0.04) | ((z % size) < 0.05)) & (z < 14)
    colour[joint] *= np.float32(0.75)
    for _ in range(rng.integers(0, 4)):
        px, pz = rng.uniform(street.left, street.right), rng.uniform(3, 18)
        patch = (
            road
            & (np.abs(x - px) < rng.uniform(0.3, 1.2))
            & (np.abs(z - pz) < rng.uniform(0.4, 2.5))
        )
        colour[patch] *= np.float32(rng.uniform(0.7, 1.2))
    _markings(rng, street, x, z, road, colour)

    canvas.albedo[top:] = colour
    canvas.label[top:] = labels[zone]
    canvas.inverse_depth[top:] = inverse


def _markings(rng, street: Street, x, z, road, colour) -> None:
    white = np.array([0.86, 0.86, 0.83], np.float32) * np.float32(rng.uniform(0.75, 1.05))
    yellow = np.array([0.82, 0.68, 0.2], np.float32) * np.float32(rng.uniform(0.8, 1.05))
    wear = np.float32(rng.uniform(0.65, 1.0))

    def paint(mask: np.ndarray, tint: np.ndarray) -> None:
        mask &= road
        colour[mask] += (tint - colour[mask]) * wear

    middle = (street.left + street.right) / 2
    line = rng.uniform(0.06, 0.1)
    period, dash = rng.uniform(5, 9), rng.uniform(0.35, 0.65)
    offset = np.abs(x - middle)
    if rng.random() < 0.25:
        paint(
            (offset > 0.08) & (offset < 0.08 + 1.6 * line), white if rng.random() < 0.5 else yellow
        )
    else:
        paint((offset < line) & ((z + rng.uniform(0, period)) % period < dash * period), white)
    inset = rng.uniform(0.2, 0.5)
    style = rng.random()
    if style < 0.7:
        tint = white if style < 0.35 else yellow
        for border in (street.left + inset, street.right - inset):
            paint(np.abs(x - border) < 0.06, tint)
            if style > 0.5:
                paint(np.abs(x - border + 0.2 * np.sign(border - middle)) < 0.06, tint)
    if rng.random() < 0.35:
        start = rng.uniform(7, 24)
        stripes = (x % 1.1 < 0.55) & (z > start) & (z < start + 3)
        paint(stripes, white)
        lane = (x - middle) * street.drive > 0
        paint(lane & (z > start - 1.6) & (z < start - 1.2), white)
    elif rng.random() < 0.3:
        lane_x, start = middle + street.drive * (street.right - street.left) / 4, rng.uniform(5, 14)
        along = z - start
        across = np.abs(x - lane_x)
        shaft = (across < 0.09) & (along > 0) & (along < 2)
        head = (across < 0.45 * (3.2 - along) / 1.2) & (along >= 2) & (along < 3.2)
        paint(shaft | head, white)


def cast_shadows(canvas: Canvas, things: list[Thing]) -> None:
    """Shadows of trees, poles, people and vehicles on the ground, and the dark below them."""
    away = -canvas.sun
    angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    for thing in things:
        width, height, length = thing.size
        foot = np.array([thing.x, thing.z])
        if thing.kind == "tree":
            radius = width / 2
            ring = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]) + foot
            low, high = away * (height - 2 * radius), away * height
            canvas.cast(
                np.concatenate([ring * 0.9 + foot * 0.1 + low, ring * 0.6 + foot * 0.4 + high]), 0.2
            )
            trunk = np.array([[-0.15, 0], [0.15, 0]])
            canvas.cast(np.concatenate([foot + trunk, foot + trunk + low]), 0.1)
        elif thing.kind not in ("building", "hedge"):
            ground = thing.footprint()
            canvas.cast(np.concatenate([ground, ground + away * height * 0.95]), 0.0)
        if thing.kind in ("car", "truck"):
            canvas.smear(thing.footprint(1.12), 0.5)
        elif thing.kind in ("person", "bicycle"):
            canvas.smear(thing.footprint(1.2), 0.75)
