"""The painter's canvas under a streets scene: what is painted later covers what was painted before.

World: X to the right, U up from the ground, Z forward, in metres; the camera stands at X = Z = 0,
U = camera_height, and looks along Z. A point shows at
u = centre + focal X / Z, v = horizon + focal (camera_height - U) / Z, with pixel centres at + 0.5.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from .opencv import cv2

NEAR_M = 0.6  # polygons are cut here
FAR_M = 200.0  # depth of the sky and limit of the ground
SUBPIXEL_BITS = 4
NOISE_CELLS = 256

Colour = Sequence[float] | np.ndarray
Point = tuple[float, float, float]
# (X, U, Z), each [h, w] -> colour [h, w, 3] or [3]
Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@lru_cache(maxsize=1)
def noise_tiles() -> dict[str, np.ndarray]:
    """Three wrapping 256 x 256 tiles of unit variance, per pixel and smoothed; one seed for all."""
    fine = np.random.default_rng(2018).standard_normal((NOISE_CELLS, NOISE_CELLS), np.float32)
    tiles = {"fine": fine}
    for name, sigma in (("soft", 0.8), ("broad", 2.5)):
        padded = np.pad(fine, 16, mode="wrap")
        smooth = cv2.GaussianBlur(padded, (0, 0), sigma)[16:-16, 16:-16]
        tiles[name] = smooth / smooth.std()
    return tiles


def crop_noise(name: str, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Window of a noise tile, wrapped around its edges; float32 [height, width]."""
    tile = noise_tiles()[name]
    top, left = top % NOISE_CELLS, left % NOISE_CELLS
    if top + height <= NOISE_CELLS and left + width <= NOISE_CELLS:
        return tile[top : top + height, left : left + width]
    rows = np.arange(top, top + height)
    return tile.take(rows, 0, mode="wrap").take(np.arange(left, left + width), 1, mode="wrap")


def clip_near(points: list[Point]) -> list[Point]:
    """Part of a convex polygon with Z >= NEAR_M (Sutherland and Hodgman); maybe empty."""
    kept: list[Point] = []
    for (x, up, z), (x2, up2, z2) in zip(points, points[1:] + points[:1], strict=True):
        if z >= NEAR_M:
            kept.append((x, up, z))
        if (z >= NEAR_M) != (z2 >= NEAR_M):
            t = (NEAR_M - z) / (z2 - z)
            kept.append((x + t * (x2 - x), up + t * (up2 - up), NEAR_M))
    return kept


class Canvas:
    """Buffers [h, w] of one scene and the calls that paint them.

    albedo float32 [h, w, 3], shade float32 (1 in the sun, 0 in full shadow), inverse_depth float32
    in 1 / m, label uint8, owner int16 (0, or the number of the object painted last).
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        focal: float,
        horizon: float,
        centre: float,
        camera_height: float,
        sun: np.ndarray,
        rng: np.random.Generator,
    ):
        self.height, self.width = height, width
        self.focal, self.horizon, self.centre = focal, horizon, centre
        self.camera_height = camera_height
        self.sun = sun  # X and Z of the direction to the sun, times the cotangent of its height
        self.rng = rng
        self.albedo = np.zeros((height, width, 3), np.float32)
        self.shade = np.ones((height, width), np.float32)
        self.inverse_depth = np.full((height, width), 1 / FAR_M, np.float32)
        self.label = np.zeros((height, width), np.uint8)
        self.owner = np.zeros((height, width), np.int16)
        self.drawn: list[dict] = []
        self._object = 0
        self._extent = (0.0, 0.0, 0.0, 0.0)
        self._offsets: list[int] = rng.integers(0, NOISE_CELLS, 509).tolist()
        self._used = 0

    def size_px(self, metres: float, z: float) -> float:
        """Length in pixels of `metres` across the view at distance z."""
        return self.focal * metres / z

    def _mask(self, points: list[Point]) -> tuple[tuple[slice, slice], np.ndarray] | None:
        focal, eye = self.focal, self.camera_height
        us = [self.centre + focal * x / z for x, _, z in points]
        vs = [self.horizon + focal * (eye - up) / z for _, up, z in points]
        left, right, top, bottom = min(us), max(us), min(vs), max(vs)
        if self._object:
            x0, y0, x1, y1 = self._extent
            self._extent = (min(x0, left), min(y0, top), max(x1, right), max(y1, bottom))
        x0, y0 = max(int(left), 0), max(int(top), 0)
        x1, y1 = min(int(right) + 1, self.width), min(int(bottom) + 1, self.height)
        if x1 <= x0 or y1 <= y0:
            return None
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        du, dv, unit = x0 + 0.5, y0 + 0.5, 1 << SUBPIXEL_BITS
        fixed = [
            (round((u - du) * unit), round((v - dv) * unit)) for u, v in zip(us, vs, strict=True)
        ]
        cv2.fillPoly(mask, [np.array(fixed, np.int32)], 1, shift=SUBPIXEL_BITS)
        return (slice(y0, y1), slice(x0, x1)), mask.view(bool)

    def _offset(self) -> int:
        self._used = (self._used + 1) % len(self._offsets)
        return self._offsets[self._used]

    def _paint(self, where, mask, label, colour, inverse_depth, shade, grain, texture) -> None:
        painted = np.asarray(colour, np.float32)
        if grain:
            noise = crop_noise(texture, self._offset(), self._offset(), *mask.shape)
            painted = painted + (np.float32(grain) * noise)[..., None]
        np.copyto(self.albedo[where], painted, where=mask[..., None])
        np.copyto(self.shade[where], np.float32(shade), where=mask)
        np.copyto(self.label[where], np.uint8(label), where=mask)
        np.copyto(self.inverse_depth[where], inverse_depth, where=mask)
        if self._object:
            np.copyto(self.owner[where], np.int16(self._object), where=mask)

    def face(
        self,
        outline: Sequence | np.ndarray,
        label: int,
        colour: Colour = (0, 0, 0),
        *,
        shade: float = 1.0,
        grain: float = 0.03,
        texture: str = "soft",
        pattern: Pattern | None = None,
    ) -> None:
        """Paint a plane polygon [N, 3] (X, U, Z); `pattern` gives the colour from the position."""
        points = outline.tolist() if isinstance(outline, np.ndarray) else list(outline)
        zs = [p[2] for p in points]
        nearest, farthest = min(zs), max(zs)
        if nearest < NEAR_M:
            points = clip_near(points)
            if len(points) < 3:
                return
            nearest = NEAR_M
        found = self._mask(points)
        if found is None:
            return
        where, mask = found
        inverse_depth: np.ndarray | np.float32 = np.float32(1 / nearest)
        if farthest - nearest > 1e-6:
            plane = self._plane(points)
            if plane is None:
                return
            rows = np.arange(where[0].start, where[0].stop)[:, None] + (0.5 - self.horizon)
            columns = np.arange(where[1].start, where[1].stop)[None] + (0.5 - self.centre)
            values = plane[0] * columns + (plane[1] * rows + plane[2])
            inverse_depth = np.clip(values, 1 / farthest, 1 / nearest).astype(np.float32)
        if pattern is not None:
            colour = self._patterned(where, inverse_depth, pattern)
        self._paint(where, mask, label, colour, inverse_depth, shade, grain, texture)

    def _plane(self, points: list[Point]) -> Point | None:
        """1 / Z at (centre, horizon) and its slopes: (per u, per v, value); None when edge-on."""
        (x0, up0, z0), (x1, up1, z1), (x2, up2, z2) = points[:3]
        ax, ay, az = x1 - x0, up0 - up1, z1 - z0
        bx, by, bz = x2 - x0, up0 - up2, z2 - z0
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        offset = nx * x0 + ny * (self.camera_height - up0) + nz * z0
        if abs(offset) < 1e-6:
            return None
        return nx / (offset * self.focal), ny / (offset * self.focal), nz / offset

    def _patterned(self, where, inverse_depth, pattern: Pattern) -> np.ndarray:
        rows = np.arange(where[0].start, where[0].stop, dtype=np.float32)[:, None]
        columns = np.arange(where[1].start, where[1].stop, dtype=np.float32)[None]
        z = np.broadcast_to(1 / inverse_depth, (rows.size, columns.size))
        x = (columns + (0.5 - self.centre)) / self.focal * z
        up = self.camera_height - (rows + (0.5 - self.horizon)) / self.focal * z
        return pattern(x, up, z)

    def flat(
        self, outline: Sequence | np.ndarray, z: float, label: int, colour: Colour, **paint
    ) -> None:
        """Paint an outline [N, 2] (X, U) that faces the camera at distance z."""
        self.face([(x, up, z) for x, up in outline], label, colour, **paint)

    def blob(
        self, x: float, up: float, z: float, rx: float, ry: float, label: int, colour: Colour
    ) -> None:
        """Paint a ragged ball of leaves, radii in metres, lit from above, with holes at its rim."""
        u = self.centre + self.focal * x / z
        v = self.horizon + self.focal * (self.camera_height - up) / z
        px, py = max(self.size_px(rx, z), 1.0), max(self.size_px(ry, z), 1.0)
        x0, y0 = max(int(u - 1.2 * px), 0), max(int(v - 1.2 * py), 0)
        x1, y1 = min(int(u + 1.2 * px) + 1, self.width), min(int(v + 1.2 * py) + 1, self.height)
        if x1 <= x0 or y1 <= y0:
            return
        dx = (np.arange(x0, x1, dtype=np.float32)[None] + (0.5 - u)) / px
        dy = (np.arange(y0, y1, dtype=np.float32)[:, None] + (0.5 - v)) / py
        noise = crop_noise("broad", self._offset(), self._offset(), y1 - y0, x1 - x0)
        mask = dx * dx + dy * dy < 0.85 + 0.22 * noise
        light = np.clip(0.9 - 0.38 * dy + 0.14 * dx * np.sign(self.sun[0]), 0.4, 1.45)
        shaded = np.asarray(colour, np.float32) * light[..., None]
        where = (slice(y0, y1), slice(x0, x1))
        self._paint(where, mask, label, shaded, np.float32(1 / z), 0.9, 0.07, "fine")

    def _ground(self, outline: Sequence | np.ndarray):
        points = clip_near([(float(x), 0.0, float(z)) for x, z in outline])
        return self._mask(points) if len(points) >= 3 else None

    def cast(self, outline: np.ndarray, shade: float) -> None:
        """Shade the ground under the hull of [N, 2] (X, Z); call before anything stands on it."""
        found = self._ground(cv2.convexHull(outline.astype(np.float32))[:, 0])
        if found is not None:
            where, mask = found
            target = self.shade[where]
            np.copyto(target, np.minimum(target, np.float32(shade)), where=mask)

    def smear(self, outline: np.ndarray, gain: float) -> None:
        """Multiply the albedo of the ground in an outline [N, 2] (X, Z): the dark below a car."""
        found = self._ground(outline)
        if found is not None:
            where, mask = found
            self.albedo[where][mask] *= np.float32(gain)

    def lit(self, normal: np.ndarray) -> float:
        """Shade of an upright face with horizontal normal [2] (X, Z): 0 turned from the sun."""
        towards = float(normal @ self.sun) / max(float(np.linalg.norm(self.sun)), 1e-6)
        return 0.0 if towards <= 0 else min(1.0, 0.45 + 0.65 * towards)

    def begin(self) -> None:
        """What is painted until `end` is one object."""
        self._object = len(self.drawn) + 1
        self._extent = (np.inf, np.inf, -np.inf, -np.inf)

    def end(self, **facts) -> None:
        """Close the object; its box, drawn pixels and truncation are added to `facts`."""
        number, self._object = self._object, 0
        x0, y0, x1, y1 = self._extent
        inside = np.clip(self._extent, 0, (self.width, self.height, self.width, self.height))
        box, count = np.zeros(4), 0
        if x1 > x0 and inside[2] > inside[0] and inside[3] > inside[1]:
            left, top = int(inside[0]), int(inside[1])
            window = slice(top, int(inside[3]) + 1), slice(left, int(inside[2]) + 1)
            mine = self.owner[window] == number
            rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
            count = int(mine.sum())
            if count:
                box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
                box += (left, top, left, top)
        whole = max((x1 - x0) * (y1 - y0), 1e-9)
        shown = max(inside[2] - inside[0], 0) * max(inside[3] - inside[1], 0)
        truncation = 1 - shown / whole if np.isfinite(whole) else 1.0
        self.drawn.append(dict(facts, xyxy=box, count=count, truncation=truncation))
