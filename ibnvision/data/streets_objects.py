"""What stands in a streets scene: each function paints one thing and draws its looks from the rng.

Positions and sizes are metres in the frame of `streets_canvas`; yaw 0 drives away along Z, a
positive yaw turns towards X. The mask knows eight classes: a truck counts as car, as in CamVid; a
bicycle with its rider, sign plates and traffic lights are ignored (255), as they are in our map of
CamVid.
"""

import numpy as np

from .names import CLASSES, IGNORED
from .streets_canvas import Canvas, crop_noise

ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, CAR, PERSON, POLE = range(len(CLASSES))
GLASS = np.array([0.13, 0.16, 0.2])
DARK = np.array([0.06, 0.06, 0.065])

WALLS = np.array(
    [
        [0.60, 0.42, 0.33],
        [0.72, 0.67, 0.58],
        [0.52, 0.52, 0.55],
        [0.68, 0.56, 0.42],
        [0.46, 0.33, 0.29],
        [0.80, 0.78, 0.74],
        [0.58, 0.50, 0.38],
    ]
)
ROOFS = np.array([[0.42, 0.25, 0.2], [0.3, 0.3, 0.33], [0.36, 0.28, 0.24]])
LEAVES = np.array([[0.20, 0.34, 0.13], [0.27, 0.36, 0.14], [0.15, 0.28, 0.13], [0.35, 0.36, 0.17]])
PAINTS = np.array(
    [
        [0.85, 0.85, 0.86],
        [0.12, 0.12, 0.13],
        [0.55, 0.56, 0.58],
        [0.3, 0.31, 0.33],
        [0.6, 0.1, 0.09],
        [0.12, 0.2, 0.48],
        [0.14, 0.33, 0.25],
        [0.72, 0.62, 0.2],
        [0.45, 0.36, 0.28],
    ]
)
SKIN = np.array([[0.85, 0.66, 0.54], [0.62, 0.44, 0.33], [0.36, 0.24, 0.18]])
SIGNS = np.array([[0.8, 0.14, 0.1], [0.1, 0.25, 0.7], [0.88, 0.76, 0.1], [0.9, 0.9, 0.9]])


def building(
    canvas: Canvas, near: np.ndarray, far: np.ndarray, height: float, side: int, depth: float
) -> None:
    """House between two ground points [2] (X, Z) of its street front; side -1 left, 1 right."""
    rng = canvas.rng
    wall = WALLS[rng.integers(len(WALLS))] * rng.uniform(0.75, 1.15)
    storey, bay = rng.uniform(2.7, 3.3), rng.uniform(2.1, 3.6)
    frame = wall * 1.25 if rng.random() < 0.5 else wall * 0.7
    wide, tall = rng.uniform(0.35, 0.62), rng.uniform(0.42, 0.62)
    shop = rng.random() < 0.4
    fascia = rng.uniform(0.15, 0.75, 3)
    seed = int(rng.integers(256))
    bricks = rng.uniform(0.02, 0.06)
    direction = (far - near) / np.linalg.norm(far - near)

    def facade(x, up, z):
        along = (x - near[0]) * direction[0] + (z - near[1]) * direction[1]
        return _windows(along, up)

    def gable(x, up, z):
        return _windows(np.abs(x - near[0]), up)

    def _windows(along, up):
        column, row = along / np.float32(bay), up / np.float32(storey)
        i, j = np.floor(column).astype(np.int32), np.floor(row).astype(np.int32)
        a, b = np.abs(column - i - 0.5) * 2, np.abs(row - j - 0.52) * 2
        below_eaves = up < height - 0.35
        glass = (a < wide) & (b < tall) & below_eaves
        border = (a < wide + 0.1) & (b < tall + 0.1) & below_eaves & ~glass
        tile = crop_noise("fine", seed, seed, 64, 64)
        tone = 1 + 0.45 * tile[j & 63, i & 63]
        courses = bricks * (np.floor(up * 4).astype(np.int32) & 1)
        colour = wall.astype(np.float32) * (1 - courses - 0.12 * (up < 0.5))[..., None]
        colour[border] = frame
        colour[glass] = (GLASS.astype(np.float32) * np.clip(tone, 0.4, 2.2)[..., None])[glass]
        if shop:
            ground_floor = (up < storey) & (up > 0.4) & (a < 0.9)
            colour[ground_floor] = GLASS * 1.3
            colour[(up > storey * 0.8) & (up < storey * 1.05)] = fascia
        colour[(up > height - 0.3) & (up < height)] = frame
        return colour

    normal = np.array([-direction[1], direction[0]]) * side
    street = [(near[0], 0.0, near[1]), (far[0], 0.0, far[1])]
    street += [(far[0], height, far[1]), (near[0], height, near[1])]
    back = near - normal * depth
    pitched = rng.random() < 0.55
    ridge = rng.uniform(1.5, 3.2) if pitched else 0.0
    roof = ROOFS[rng.integers(len(ROOFS))] * rng.uniform(0.8, 1.2)
    middle = near - normal * depth / 2
    end = [(near[0], 0.0, near[1]), (back[0], 0.0, back[1]), (back[0], height, back[1])]
    end += [(middle[0], height + ridge, middle[1]), (near[0], height, near[1])]
    if pitched:
        top = far - normal * depth / 2
        slope = [(near[0], height, near[1]), (far[0], height, far[1])]
        slope += [(top[0], height + ridge, top[1]), (middle[0], height + ridge, middle[1])]
        canvas.face(slope, BUILDING, roof, shade=canvas.lit(normal), grain=0.05)
    canvas.face(
        end, BUILDING, shade=canvas.lit(-direction), grain=0.035, texture="fine", pattern=gable
    )
    canvas.face(
        street, BUILDING, shade=canvas.lit(normal), grain=0.035, texture="fine", pattern=facade
    )


def tree(canvas: Canvas, x: float, z: float, trunk: float, radius: float) -> None:
    """Trunk of the given height under a crown of several leafy balls."""
    rng = canvas.rng
    half = rng.uniform(0.1, 0.2)
    bark = np.array([0.27, 0.21, 0.16]) * rng.uniform(0.7, 1.2)
    leaf = LEAVES[rng.integers(len(LEAVES))] * rng.uniform(0.75, 1.25)
    outline = [(x - half * 1.3, 0), (x + half * 1.3, 0), (x + half * 0.6, trunk + radius)]
    canvas.flat(outline + [(x - half * 0.6, trunk + radius)], z, VEGETATION, bark, shade=0.6)
    narrow = rng.random() < 0.2
    canvas.blob(
        x,
        trunk + radius * (1.1 if narrow else 0.85),
        z,
        radius * (0.6 if narrow else 1.0),
        radius * (1.4 if narrow else 0.95),
        VEGETATION,
        leaf,
    )
    for _ in range(3):
        dx, du = rng.normal(0, radius * 0.45), rng.uniform(0.5, 1.4) * radius
        size = radius * rng.uniform(0.4, 0.65)
        canvas.blob(
            x + dx * (0.4 if narrow else 1),
            trunk + du,
            z,
            size,
            size * 0.85,
            VEGETATION,
            leaf * rng.uniform(0.85, 1.2),
        )


def hedge(canvas: Canvas, near: np.ndarray, far: np.ndarray, height: float) -> None:
    """Leafy wall along the street between two ground points [2] (X, Z)."""
    leaf = LEAVES[canvas.rng.integers(len(LEAVES))] * canvas.rng.uniform(0.7, 1.1)
    side = np.sign(near[0]) or 1.0
    front = [(near[0], 0.0, near[1]), (near[0] + side * 0.9, 0.0, near[1])]
    front += [(near[0] + side * 0.9, height, near[1]), (near[0], height, near[1])]
    wall = [(near[0], 0, near[1]), (far[0], 0, far[1]), (far[0], height, far[1])]
    canvas.face(front, VEGETATION, leaf * 0.8, shade=0.6, grain=0.08, texture="fine")
    canvas.face(
        [*wall, (near[0], height, near[1])], VEGETATION, leaf, shade=0.8, grain=0.08, texture="fine"
    )


def pole(canvas: Canvas, x: float, z: float, kind: str, height: float, half: float) -> None:
    """Lamp post, sign, traffic light or bollard; `half` is half the thickness."""
    rng = canvas.rng
    steel = np.array([0.33, 0.34, 0.35]) * rng.uniform(0.5, 1.6)
    if kind == "bollard" and rng.random() < 0.5:
        steel = np.array([0.1, 0.1, 0.1])

    def bar(x0, u0, x1, u1, label=POLE, colour=steel, grain=0.02):
        outline = [(x0, u0), (x1, u0), (x1, u1), (x0, u1)]
        canvas.flat(outline, z, label, colour, grain=grain, shade=0.8)

    bar(x - half, 0, x + half, height)
    inward = -1.0 if x > 0 else 1.0
    if kind == "lamp":
        reach = rng.uniform(0.8, 1.8) * inward
        left, right = sorted((x, x + reach))
        bar(left, height - 2 * half, right, height)
        bar(x + reach - 0.3, height - 0.08, x + reach + 0.3, height + 0.14, colour=steel * 1.4)
    elif kind == "sign":
        colour, size = SIGNS[rng.integers(len(SIGNS))], rng.uniform(0.25, 0.38)
        if rng.random() < 0.5:
            angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
            centre = height - size
            disc = np.column_stack([x + size * np.cos(angle), centre + size * np.sin(angle)])
            canvas.flat(disc, z, IGNORED, colour)
        else:
            bar(x - size, height - 2 * size, x + size, height, IGNORED, colour)
    elif kind == "light":
        bar(x - 0.2, height - 1.0, x + 0.2, height, IGNORED, DARK)
        lamp = [(0.9, 0.12, 0.08), (0.15, 0.85, 0.35)][rng.integers(2)]
        up = height - (0.3 if lamp[0] > 0.5 else 0.75)
        bar(x - 0.11, up, x + 0.11, up + 0.22, IGNORED, np.array(lamp))


def _limb(x0: float, u0: float, x1: float, u1: float, half: float) -> list[tuple[float, float]]:
    return [(x0 - half, u0), (x0 + half, u0), (x1 + half, u1), (x1 - half, u1)]


def person(canvas: Canvas, x: float, z: float, height: float, label: int = PERSON) -> None:
    """Walker of the given height with legs, coat, arms and head."""
    rng = canvas.rng
    coat, legs = rng.uniform(0.08, 0.8, 3), rng.uniform(0.06, 0.4, 3)
    if rng.random() < 0.4:
        coat = np.full(3, rng.uniform(0.06, 0.35))
    skin = SKIN[rng.integers(len(SKIN))]
    stride, h = rng.uniform(0.03, 0.13) * height, height
    for sign in (-1, 1):
        foot = x + sign * stride
        limb = _limb(foot, 0, x + sign * 0.045 * h, 0.5 * h, 0.055 * h)
        canvas.flat(limb, z, label, legs, shade=0.8, grain=0.02)
        arm = _limb(
            x + sign * (0.13 * h + 0.4 * stride), 0.45 * h, x + sign * 0.125 * h, 0.8 * h, 0.035 * h
        )
        canvas.flat(arm, z, label, coat * 0.85, shade=0.8, grain=0.02)
    torso = [(x - 0.13 * h, 0.45 * h), (x + 0.13 * h, 0.45 * h), (x + 0.145 * h, 0.82 * h)]
    torso += [(x + 0.05 * h, 0.86 * h), (x - 0.05 * h, 0.86 * h), (x - 0.145 * h, 0.82 * h)]
    canvas.flat(torso, z, label, coat, shade=0.9)
    _head(canvas, x, 0.925 * h, z, 0.065 * h, skin, label)


def _head(canvas, x, up, z, radius, skin, label) -> None:
    angle = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    ring = np.column_stack([radius * np.cos(angle), 1.2 * radius * np.sin(angle)])
    canvas.flat(ring + (x, up), z, label, skin, shade=0.9, grain=0.01)
    hair = np.clip(ring * 1.08, (-np.inf, 0.1 * radius), np.inf) + (x, up)
    canvas.flat(hair, z, label, np.array([0.2, 0.15, 0.11]) * canvas.rng.uniform(0.4, 2.2))


class Body:
    """Frustum on a turned footprint: base and top rectangles (s along the heading, t across)."""

    def __init__(self, x: float, z: float, yaw: float, base, top, low: float, high: float):
        heading = np.array([np.sin(yaw), np.cos(yaw)])
        right = np.array([np.cos(yaw), -np.sin(yaw)])
        corners = []
        for (s0, s1, half), up in ((base, low), (top, high)):
            for s, t in ((s0, -half), (s0, half), (s1, half), (s1, -half)):
                ground = (x, z) + s * heading + t * right
                corners.append((ground[0], up, ground[1]))
        c = np.array(corners)
        quads = {
            "rear": (c[[0, 1, 5, 4]], -heading),
            "right": (c[[1, 2, 6, 5]], right),
            "front": (c[[2, 3, 7, 6]], heading),
            "left": (c[[3, 0, 4, 7]], -right),
        }
        self.sides = {k: (q, n) for k, (q, n) in quads.items() if n @ q[0, [0, 2]] < 0}
        self.top = c[4:8]

    @staticmethod
    def panel(quad: np.ndarray, a0: float, a1: float, b0: float, b1: float) -> np.ndarray:
        """Part of a side [4, 3]; a runs along its foot, b upwards, both in [0, 1]."""
        a = np.array([a0, a1, a1, a0])[:, None]
        b = np.array([b0, b0, b1, b1])[:, None]
        foot, head = quad[0] + a * (quad[1] - quad[0]), quad[3] + a * (quad[2] - quad[3])
        return foot + b * (head - foot)


def _wheel(quad: np.ndarray, a: float, radius: float, length: float, low: float) -> np.ndarray:
    """Disc on the ground in the plane of a side [4, 3] whose foot is `low` metres up."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    along = a + radius / length * np.cos(angle)
    points = quad[0] + along[:, None] * (quad[1] - quad[0])
    points[:, 1] = radius + radius * np.sin(angle)
    return points


def _paint_body(canvas: Canvas, body: Body, colour: np.ndarray, label: int = CAR) -> None:
    canvas.face(body.top, label, np.minimum(colour * 1.08, 1), grain=0.015)
    for quad, normal in body.sides.values():
        canvas.face(quad, label, colour * 0.92, shade=canvas.lit(normal), grain=0.015)


def _undercarriage(canvas, x, z, yaw, length, width, low, wheels, radius, detailed) -> None:
    skirt = (-length * 0.47, length * 0.47, width * 0.46)
    body = Body(x, z, yaw, skirt, skirt, 0.12, low + 0.05)
    for quad, _ in body.sides.values():
        canvas.face(quad, CAR, DARK, shade=0.0, grain=0.0)
    if detailed:
        outer = (-length / 2, length / 2, width / 2)
        frame = Body(x, z, yaw, outer, outer, low, low + 1)
        for name, (quad, _) in frame.sides.items():
            if name in ("left", "right"):
                for a in wheels:
                    a = a if name == "right" else 1 - a
                    canvas.face(_wheel(quad, a, radius, length, low), CAR, DARK, grain=0.01)
                    rim = _wheel(quad, a, radius * 0.55, length, low)
                    rim[:, 1] += radius * 0.45
                    canvas.face(rim, CAR, (0.45, 0.45, 0.47), grain=0.01)
            else:
                for a0, a1 in ((0.03, 0.17), (0.83, 0.97)):
                    tyre = Body.panel(quad, a0, a1, 0, 0.2)
                    tyre[:2, 1] = 0.0
                    canvas.face(tyre, CAR, DARK, grain=0.0)


def _lamps(canvas: Canvas, body: Body, b0: float, b1: float, plate_b: float) -> None:
    for name, (quad, _) in body.sides.items():
        if name not in ("front", "rear"):
            continue
        lamp = (0.75, 0.1, 0.08) if name == "rear" else (0.93, 0.93, 0.86)
        for a0, a1 in ((0.04, 0.2), (0.8, 0.96)):
            canvas.face(Body.panel(quad, a0, a1, b0, b1), CAR, lamp, grain=0.0)
        plate = (0.85, 0.75, 0.2) if name == "rear" else (0.88, 0.88, 0.88)
        top = plate_b + (b1 - b0) * 0.7
        canvas.face(Body.panel(quad, 0.36, 0.64, plate_b, top), CAR, plate, grain=0.0)
        if name == "front":
            canvas.face(Body.panel(quad, 0.26, 0.74, b0 + 0.02, b1 - 0.05), CAR, DARK, grain=0.0)


def car(
    canvas: Canvas, x: float, z: float, yaw: float, width: float, height: float, length: float
) -> None:
    """Hatchback, saloon or van: a body, a cabin with panes, wheels, lamps and plates."""
    rng = canvas.rng
    colour = PAINTS[rng.integers(len(PAINTS))] * rng.uniform(0.85, 1.15)
    saloon = rng.random() < 0.4
    low, belt = 0.24, height * rng.uniform(0.54, 0.6)
    rear = -0.33 if saloon else -0.49
    detailed = canvas.size_px(height, z) > 7
    _undercarriage(canvas, x, z, yaw, length, width, low, (0.19, 0.81), 0.31, detailed)
    base = (-length / 2, length / 2, width / 2)
    body = Body(x, z, yaw, base, (-length * 0.49, length * 0.47, width * 0.48), low, belt)
    _paint_body(canvas, body, colour)
    if detailed:
        _lamps(canvas, body, 0.55, 0.8, 0.25)
    cabin = Body(
        x,
        z,
        yaw,
        (rear * length, length * 0.24, width * 0.47),
        ((rear + (0.14 if saloon else 0.07)) * length, length * 0.08, width * 0.38),
        belt,
        height,
    )
    _paint_body(canvas, cabin, colour)
    for name, (quad, normal) in cabin.sides.items():
        pane = GLASS * rng.uniform(0.8, 1.3)
        shade = canvas.lit(normal)
        if name in ("left", "right"):
            for a0, a1 in ((0.1, 0.48), (0.53, 0.9)):
                canvas.face(Body.panel(quad, a0, a1, 0.1, 0.85), CAR, pane, shade=shade, grain=0.02)
        else:
            canvas.face(Body.panel(quad, 0.08, 0.92, 0.1, 0.88), CAR, pane, shade=shade, grain=0.02)


def truck(
    canvas: Canvas, x: float, z: float, yaw: float, width: float, height: float, length: float
) -> None:
    """Lorry with a cab and a box, or a bus with a band of windows."""
    rng = canvas.rng
    colour = PAINTS[rng.integers(len(PAINTS))] * rng.uniform(0.85, 1.15)
    low, half = 0.45, width / 2
    _undercarriage(canvas, x, z, yaw, length, width, low, (0.16, 0.8), 0.48, True)
    if rng.random() < 0.4:
        whole = (-length / 2, length / 2, half)
        body = Body(x, z, yaw, whole, whole, low, height)
        _paint_body(canvas, body, colour)
        for name, (quad, _) in body.sides.items():
            if name in ("left", "right"):
                for a in np.arange(0.03, 0.95, 0.157):
                    canvas.face(Body.panel(quad, a, a + 0.135, 0.42, 0.78), CAR, GLASS, grain=0.02)
            else:
                canvas.face(Body.panel(quad, 0.07, 0.93, 0.4, 0.85), CAR, GLASS, grain=0.02)
        _lamps(canvas, body, 0.14, 0.24, 0.03)
        return
    split = length * 0.24
    box_side = (-length / 2, split, half)
    cab_side = (split + 0.15, length / 2, half * 0.94)
    cab_height = height * rng.uniform(0.68, 0.8)
    load = Body(x, z, yaw, box_side, box_side, low + 0.02, height)
    cab = Body(x, z, yaw, cab_side, (split + 0.15, length * 0.47, half * 0.9), low, cab_height)
    tarpaulin = PAINTS[rng.integers(3)] if rng.random() < 0.6 else rng.uniform(0.2, 0.8, 3)
    parts = [(cab, colour), (load, tarpaulin)]
    if np.cos(yaw) < 0:
        parts.reverse()
    for body, paint in parts:
        _paint_body(canvas, body, paint)
        for name, (quad, _) in body.sides.items():
            if body is cab and name != "rear":
                canvas.face(Body.panel(quad, 0.1, 0.9, 0.52, 0.88), CAR, GLASS, grain=0.02)
            if body is load and name == "rear":
                canvas.face(Body.panel(quad, 0.49, 0.51, 0.02, 0.98), CAR, DARK, grain=0.0)
        _lamps(canvas, body, *((0.02, 0.1, 0.02) if body is load else (0.2, 0.34, 0.05)))


def bicycle(canvas: Canvas, x: float, z: float, yaw: float, height: float) -> None:
    """Rider on a bicycle; the mask ignores both."""
    rng = canvas.rng
    heading = np.array([np.sin(yaw), np.cos(yaw)])
    frame = PAINTS[rng.integers(len(PAINTS))]
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)

    def plane(outline):
        outline = np.asarray(outline, np.float64)
        ground = (x, z) + outline[:, :1] * heading
        return np.column_stack([ground[:, 0], outline[:, 1], ground[:, 1]])

    for s in (-0.5, 0.5):
        ring = np.column_stack([s + 0.34 * np.cos(angle), 0.34 + 0.34 * np.sin(angle)])
        inner = (ring - (s, 0.34)) * 0.8 + (s, 0.34)
        tube = np.concatenate([ring, ring[:1], inner[:1], inner[::-1]])
        canvas.face(plane(tube), IGNORED, DARK, grain=0.0)
        cx, cz = (x, z) + s * heading
        tyre = [(cx - 0.03, 0), (cx + 0.03, 0), (cx + 0.03, 0.68), (cx - 0.03, 0.68)]
        canvas.flat(tyre, cz, IGNORED, DARK, grain=0.0)
    for s0, u0, s1, u1 in ((-0.5, 0.34, -0.1, 0.75), (-0.1, 0.4, 0.4, 0.85), (0.5, 0.34, 0.4, 1.0)):
        canvas.face(plane(_limb(s0, u0, s1, u1, 0.035)), IGNORED, frame, grain=0.0)
    coat, legs = rng.uniform(0.1, 0.85, 3), rng.uniform(0.06, 0.35, 3)
    skin = SKIN[rng.integers(len(SKIN))]
    across = abs(np.sin(yaw))
    lean = 0.3 * np.sin(yaw)
    hip, neck = 0.53 * height, 0.84 * height
    for sign in (-1, 1):
        knee = x + sign * 0.1 * (1 - across) + 0.12 * np.sin(yaw)
        canvas.flat(_limb(knee, 0.2 + 0.08 * sign, x, hip, 0.08), z, IGNORED, legs, grain=0.02)
    half = 0.13 + 0.08 * (1 - across)
    canvas.flat(_limb(x - 0.05 * np.sin(yaw), hip, x + lean, neck, half), z, IGNORED, coat)
    hand = x + 0.45 * np.sin(yaw)
    canvas.flat(_limb(hand, 0.58 * height, x + lean, 0.78 * height, 0.05), z, IGNORED, coat * 0.85)
    _head(canvas, x + lean * 1.2, 0.92 * height, z, 0.12, skin, IGNORED)
