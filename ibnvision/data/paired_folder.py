"""Your own pairs: hazy pictures and clear ones of the same view.

    DIR/hazy/*  DIR/clear/*                        a test set
    DIR/{train,val,test}/hazy/*  .../clear/*       to train on; val/ and test/ as you need them

Folders may also be named haze, input or in, and gt, target or clean, in any case; or both kinds
share a folder, told apart by the ends of their names (`a_hazy.jpg`, `a_gt.png`). Pictures have
one of layout.SUFFIXES and 8 or 16 bits. A hazy picture belongs to the clear one of the same name
without that end and the suffix, or else of its name up to the first "_", so that `a_1`, `a_2` share
`a`. Both must have the same size.

Without val/, every twentieth clear picture in natural order (at least one; if all names are
numbers, those divisible by 20) is held out of train with all its hazy ones, and is val.
"""

from pathlib import Path

from torch.utils.data import Dataset

from .layout import Layout, search
from .paired import Paired
from .pairing import split_pairs

LAYOUT = Layout(
    "pairs",
    {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test", ".")},
    flat=True,
)


def build(domain: str, split: str, *, root: str | Path, limit: int | None = None) -> Dataset:
    """Your pairs in `root`; layouts and splits as above.

    Raises FileNotFoundError (no such layout in `root`, a hazy picture without clear one) and
    ValueError (split, limit, two clear pictures of one name, no scene to hold out, pairs without
    train/).
    """
    if split not in LAYOUT.places:
        raise ValueError(
            f"split of {domain} must be one of {', '.join(LAYOUT.places)}, got {split!r}"
        )
    if split != "test" and not search(LAYOUT, root, "train") and search(LAYOUT, root, "test"):
        raise ValueError(
            f"{str(root)!r} must hold train/ to give a {split} split: its pairs are a test set; "
            "to train on them, move the hazy and the clear folder into train/"
        )
    pairs = split_pairs(LAYOUT, root, split, lambda pair: pair.clear.stem)
    return Paired(domain, pairs, limit=limit)
