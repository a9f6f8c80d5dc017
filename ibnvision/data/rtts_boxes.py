"""RESIDE's RTTS, photographs in real haze, with the boxes of five classes: a test set.

    JPEGImages/*  with  Annotations/*.xml      in DIR, or in DIR/RTTS*, DIR/RESIDE*/RTTS*

Names in any case. Boxes are read as those of Pascal VOC.

Li et al., IEEE TIP 2019, https://arxiv.org/abs/1712.04143. For research; not in this package.
"""

from pathlib import Path

from torch.utils.data import Dataset

from . import voc
from .boxes import ClassNames
from .label_files import check_split
from .names import RTTS, known
from .reside import SETS

IMAGES = 4322
NAMES = ClassNames(RTTS, spellings={"motorcycle": "motorbike", "bike": "bicycle"})


def build(
    domain: str, split: str, *, root: str | Path, limit: int | None = None, empty: str = "keep"
) -> Dataset:
    """The domain `rtts_boxes`, read from `root`; layout as above.

    Raises KeyError (domain), FileNotFoundError (no such layout in `root`, an image without XML
    file) and ValueError (split, limit, empty).
    """
    known("domain", domain, ["rtts_boxes"])
    check_split(domain, split, ["test"], "RTTS is a test set")
    return voc.whole_set(
        domain,
        "RTTS",
        root=root,
        homes=SETS["rtts"].homes,
        published=IMAGES,
        names=NAMES,
        split="test, all images",
        empty=empty,
        limit=limit,
    )
