"""BDD100K 10k from the folders that people have on disk.

The folder given is the set, or one that holds it as `bdd*` or `seg`. There, names in any case:

    images/10k/{train,val}/*.jpg  with  labels/sem_seg/masks/{train,val}/*.png   the download, Rein
                                        labels/semseg/masks/...                  SHADE
    images/{train,val}/*.jpg      with  labels/{train,val}/*_train_id.png        RobustNet

Any of the folders of images goes with any of those of labels. Labels hold trainIds: `a.png` or
`a_train_id.png` for `a.jpg`. The official test labels are not public, so `test` is val.

Yu et al., CVPR 2020, https://arxiv.org/abs/1805.04687. For research; not in this package.
"""

from functools import partial
from pathlib import Path

from torch.utils.data import Dataset

from .label_files import OFFICIAL, check_split, label_pairs
from .label_maps import LABEL_MAPS, decode
from .labelled import Labelled
from .layout import find_labelled
from .names import known

HOMES = (".", "bdd*", "seg", "bdd*/bdd*", "bdd*/seg")
IMAGES = ("images/10k/{}", "images/{}")
LABELS = ("labels/sem_seg/masks/{}", "labels/semseg/masks/{}", "labels/{}")


def build(
    domain: str,
    split: str,
    *,
    root: str | Path,
    limit: int | None = None,
    protocol: str = "native",
) -> Dataset:
    """The domain `bdd100k`, read from `root`; layouts and splits as above.

    Raises KeyError (domain, protocol), FileNotFoundError (no such layout in `root`, an image
    without label) and ValueError (split, limit).
    """
    known("domain", domain, ["bdd100k"])
    check_split(domain, split, OFFICIAL)
    folder, words = OFFICIAL[split]
    folders = [(image.format(folder), label.format(folder)) for image in IMAGES for label in LABELS]
    place = find_labelled(f"BDD100K 10k ({folder})", root, folders, HOMES)

    def names(stem: str) -> list[str]:
        return [f"{stem}.png", f"{stem}_train_id.png"]

    return Labelled(
        domain,
        label_pairs(place, names),
        partial(decode, label_map=LABEL_MAPS["train_ids"]),
        home=place.home,
        label_map="train_ids",
        split=words,
        kind="bdd100k",
        protocol=protocol,
        limit=limit,
    )
