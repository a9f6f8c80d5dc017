"""Sim10k, 10,000 rendered street scenes with the boxes of cars.

    VOC2012/JPEGImages/*.jpg  with  VOC2012/Annotations/*.xml      in DIR, or in DIR/*sim10k*

Names in any case; folders without VOC2012 serve too. The set has no official split: all images are
to train on, and the target of published numbers is the cars of Cityscapes (`cityscapes_car_boxes`).
Other objects than cars are left out. Boxes are read as those of Pascal VOC.

Johnson-Roberson et al., ICRA 2017, https://arxiv.org/abs/1610.01983. For research; not in this
package.
"""

from pathlib import Path

from torch.utils.data import Dataset

from . import voc
from .boxes import ClassNames
from .label_files import check_split
from .names import known

IMAGES = 10_000
HOMES = (".", "voc2012", "*sim*10k*", "*sim*10k*/voc2012", "*/*sim*10k*/voc2012", "*/voc2012")
NAMES = ClassNames(("car",), unused=("motorbike", "person", "truck", "bus", "bicycle"))


def build(
    domain: str, split: str, *, root: str | Path, limit: int | None = None, empty: str = "keep"
) -> Dataset:
    """The domain `sim10k`, read from `root`; layout as above.

    Raises KeyError (domain), FileNotFoundError (no such layout in `root`, an image without XML
    file) and ValueError (split, limit, empty).
    """
    known("domain", domain, ["sim10k"])
    check_split(domain, split, ["train"], "Sim10k has no official split: all images are to train")
    return voc.whole_set(
        domain,
        "Sim10k",
        root=root,
        homes=HOMES,
        published=IMAGES,
        names=NAMES,
        split="all images (no official split)",
        empty=empty,
        limit=limit,
    )
