"""Where things stand in a streets scene: the cross-section of the street and what is placed on it.

Metres in the frame of `streets_canvas`; nothing here paints.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Street:
    """Cross-section in metres around the bent axis X = bend Z^2; the camera stands at X = 0."""

    left: float  # kerbs
    right: float
    pavement: tuple[float, float]  # widths, left and right
    bend: float
    drive: int  # side of the road for traffic along Z: 1 right, -1 left

    def axis(self, z: float) -> float:
        return self.bend * z * z

    def kerb(self, side: int) -> float:
        return self.left if side < 0 else self.right

    def edge(self, side: int) -> float:
        """Outer edge of the pavement."""
        return self.kerb(side) + side * self.pavement[side > 0]

    def yaw(self, z: float) -> float:
        return float(np.arctan(2 * self.bend * z))

    def point(self, offset: float, z: float) -> np.ndarray:
        return np.array([offset + self.axis(z), z])


@dataclass(frozen=True)
class Thing:
    """Something that stands on the ground; `size` is width, height, length in metres."""

    kind: str
    x: float
    z: float
    size: tuple[float, float, float]
    yaw: float = 0.0
    style: str = ""
    side: int = 0

    @property
    def order(self) -> float:
        return self.z + (self.size[2] if self.kind in ("building", "hedge") else 0.0)

    def footprint(self, grow: float = 1.0) -> np.ndarray:
        """Ground corners [4, 2] (X, Z)."""
        heading = np.array([np.sin(self.yaw), np.cos(self.yaw)]) * (self.size[2] * grow / 2)
        right = np.array([np.cos(self.yaw), -np.sin(self.yaw)]) * (self.size[0] * grow / 2)
        centre = np.array([self.x, self.z])
        return np.array(
            [
                centre - heading - right,
                centre - heading + right,
                centre + heading + right,
                centre + heading - right,
            ]
        )


def draw_street(rng: np.random.Generator) -> Street:
    """A random street."""
    half, drive = rng.uniform(3.0, 4.4), int(rng.choice([-1, 1]))
    offset = -drive * half * rng.uniform(0.2, 0.5)
    bend = rng.normal(0, 0.0018)
    pavement = rng.uniform(2.0, 4.5, 2)
    return Street(offset - half, offset + half, (pavement[0], pavement[1]), bend, drive)


def place(rng: np.random.Generator, street: Street) -> list[Thing]:
    """Houses, hedges, trees, poles, people and traffic along a street."""
    things: list[Thing] = []
    for side in (-1, 1):
        _place_plots(rng, street, side, things)
        _place_pavement(rng, street, side, things)
    _place_traffic(rng, street, things)
    return things


def _place_plots(rng, street: Street, side: int, things: list[Thing]) -> None:
    z, setback = rng.uniform(-4, 4), rng.choice([0.0, rng.uniform(1.0, 4.0)])
    while z < 90:
        length = rng.uniform(6, 16)
        x = street.edge(side) + side * (setback + rng.uniform(0, 0.6))
        if rng.random() < 0.72:
            size = (rng.uniform(7, 11), rng.uniform(5, 15), length)
            things.append(Thing("building", x, z, size, side=side))
            if setback > 1 and rng.random() < 0.5:
                low = (0.9, rng.uniform(0.7, 1.3), length)
                things.append(Thing("hedge", street.edge(side), z, low, side=side))
        else:
            size = (0.9, rng.uniform(0.9, 2.2), length)
            things.append(Thing("hedge", street.edge(side), z, size, side=side))
            for _ in range(rng.integers(1, 4)):
                radius = rng.uniform(1.8, 3.2)
                tz = max(z, 5.0) + rng.uniform(0, length)
                tx = street.edge(side) + side * rng.uniform(0.5, 4.0)
                trunk = rng.uniform(1.6, 2.8)
                things.append(_tree(street.point(tx, tz), trunk, radius))
        z += length + (rng.uniform(0.5, 6) if rng.random() < 0.4 else 0)


def _tree(point: np.ndarray, trunk: float, radius: float) -> Thing:
    return Thing("tree", point[0], point[1], (2 * radius, trunk + 2 * radius, 2 * radius))


def _place_pavement(rng, street: Street, side: int, things: list[Thing]) -> None:
    kerb, wide = street.kerb(side), street.pavement[side > 0]
    for _ in range(rng.integers(1, 5)):
        z, radius = rng.uniform(7, 45), rng.uniform(1.5, 2.6)
        x = kerb + side * rng.uniform(0.7, wide)
        things.append(_tree(street.point(x, z), rng.uniform(2.2, 3.2), radius))
    for _ in range(rng.integers(2, 5)):
        z = 4 + 24 * rng.random() ** 1.3
        kind = rng.choice(["lamp", "sign", "light", "bollard"], p=[0.42, 0.24, 0.16, 0.18])
        tall = {"lamp": (5, 8), "sign": (2.4, 3.2), "light": (2.8, 3.6), "bollard": (0.9, 1.2)}
        half = rng.uniform(0.07, 0.13)
        x, z = street.point(kerb + side * rng.uniform(0.2, 0.7), z)
        size = (2 * half, rng.uniform(*tall[kind]), 2 * half)
        things.append(Thing("pole", x, z, size, style=str(kind)))
    for _ in range(rng.integers(1, 5)):
        z = 3.6 + 16 * rng.random() ** 1.5
        across = rng.random() < 0.15
        where = rng.uniform(-2.5, -0.3) if across else rng.uniform(0.4, wide)
        x, z = street.point(kerb + side * where, z)
        yaw = side * -np.pi / 2 if across else rng.choice([0.0, np.pi]) + rng.normal(0, 0.2)
        tall_m = rng.uniform(1.5, 1.92)
        things.append(Thing("person", x, z, (0.5, tall_m, 0.4), _wrapped(yaw)))


def _place_traffic(rng, street: Street, things: list[Thing]) -> None:
    taken: list[tuple[float, float, float]] = []

    def add(kind: str, offset: float, z: float, size, turn: float) -> None:
        x, z = street.point(offset, z)
        reach = size[2] / 2 + 0.3
        if z - reach < 3.2 or any(
            abs(z - other) < reach + r and abs(x - ox) < 2.4 for ox, other, r in taken
        ):
            return
        taken.append((x, z, reach))
        things.append(Thing(kind, x, z, size, _wrapped(street.yaw(z) + turn)))

    middle = (street.left + street.right) / 2
    lane = (street.right - street.left) / 4
    ways = [(middle + street.drive * lane, 0.0), (middle - street.drive * lane, np.pi)]
    if rng.random() < 0.4:
        way, turn = ways[rng.integers(2)]
        size = (rng.uniform(2.2, 2.5), rng.uniform(2.8, 3.7), rng.uniform(6.5, 11))
        add("truck", way + rng.normal(0, 0.2), rng.uniform(12, 42), size, turn)
    for _ in range(rng.integers(2, 6)):
        size = (rng.uniform(1.65, 1.9), rng.uniform(1.4, 1.8), rng.uniform(3.8, 4.8))
        z = 9 + 40 * rng.random() ** 1.2
        kind = rng.random()
        if kind < 0.4:
            side = int(rng.choice([-1, 1]))
            turn = 0.0 if side == street.drive else np.pi
            add("car", street.kerb(side) - side * 1.05, z, size, turn + rng.normal(0, 0.04))
        elif kind < 0.9:
            way, turn = ways[int(rng.random() < 0.5)]
            add("car", way + rng.normal(0, 0.3), z, size, turn + rng.normal(0, 0.08))
        else:
            turn = rng.choice([-1, 1]) * rng.uniform(0.5, np.pi / 2)
            add("car", middle + rng.normal(0, 1), z, size, turn)
    for _ in range(rng.integers(0, 3)):
        side = int(rng.choice([-1, 1]))
        turn = 0.0 if side == street.drive else np.pi
        if rng.random() < 0.3:
            turn = rng.choice([-1, 1]) * rng.uniform(0.8, np.pi / 2)
        size = (0.55, rng.uniform(1.65, 1.85), 1.75)
        z = 5 + 16 * rng.random()
        add("bicycle", street.kerb(side) - side * rng.uniform(0.5, 1.2), z, size, turn)


def _wrapped(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
