"""Names that all domains share: classes with their colours, and the look-up of a name."""

import colorsys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np

CLASSES = ("road", "sidewalk", "building", "vegetation", "sky", "car", "person", "pole")
IGNORED = 255  # target value that no loss or metric counts

# The classes of Cityscapes in the order of their trainIds, with their RGB colours.
_COLORS = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
CITYSCAPES = tuple(_COLORS)

# The classes of sets with boxes, in the order of their labels, which start at 1.
BOX_CLASSES = ("car", "truck", "person", "bicycle")  # of streets
CITYSCAPES_THINGS = CITYSCAPES[11:]
BDD100K_THINGS = (
    *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    *("traffic light", "traffic sign"),
)
DWD = ("bus", "bike", "car", "motor", "person", "rider", "truck")
RTTS = ("person", "bicycle", "car", "bus", "motorbike")
_GOLDEN = 0.618034  # of a turn of hue: neighbours in a list of classes look unlike


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """`name` itself if it is one of `names`, else a KeyError that offers the nearest one."""
    names = list(names)
    if name not in names:
        near = get_close_matches(str(name), names, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")
    return name


def palette(classes: Sequence[str]) -> np.ndarray:
    """A colour for each class, uint8 [K, 3] RGB: that of Cityscapes for its names, for others one
    that no class of the list or of Cityscapes has; the same for the same list.
    """
    used = {(0, 0, 0), *_COLORS.values()}
    colors, number = [], 0
    for name in classes:
        color = _COLORS.get(name)
        while color is None:
            hue, ring = number * _GOLDEN % 1, number // 12 % 4
            rgb = colorsys.hsv_to_rgb(hue, 0.9 - 0.2 * (ring % 2), 0.95 - 0.25 * (ring // 2))
            made = (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))
            color, number = None if made in used else made, number + 1
        used.add(color)
        colors.append(color)
    return np.array(colors, np.uint8).reshape(-1, 3)


def color_mask(label: np.ndarray, classes: Sequence[str] = CLASSES) -> np.ndarray:
    """Label [H, W] of these classes as an RGB picture uint8 [H, W, 3]; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = palette(classes)
    return table[label]
