"""Names that all domains share: the eight classes with their colours, and the look-up of a name."""

from collections.abc import Iterable
from difflib import get_close_matches

import numpy as np

CLASSES = ("road", "sidewalk", "building", "vegetation", "sky", "car", "person", "pole")
IGNORED = 255  # target value that no loss or metric counts

# RGB, [8, 3], in the order of CLASSES: the colours of Cityscapes.
PALETTE = np.array(
    [
        [128, 64, 128],
        [244, 35, 232],
        [70, 70, 70],
        [107, 142, 35],
        [70, 130, 180],
        [0, 0, 142],
        [220, 20, 60],
        [153, 153, 153],
    ],
    np.uint8,
)
PALETTE.flags.writeable = False


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """`name` itself if it is one of `names`, else a KeyError that offers the nearest one."""
    names = list(names)
    if name not in names:
        near = get_close_matches(str(name), names, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")
    return name


def color_mask(label: np.ndarray) -> np.ndarray:
    """Label [H, W] as an RGB picture uint8 [H, W, 3]; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(PALETTE)] = PALETTE
    return table[label]
