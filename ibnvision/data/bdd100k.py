"""BDD100K 10k from the folders that people have on disk.

The folder given is the set, or one that holds it as `bdd*` or `seg`. There, names in any case:

    images/10k/{train,val}/*.jpg  with  labels/sem_seg/masks/{train,val}/*.png   the download, Rein
                                        labels/semseg/masks/...                  SHADE
    images/{train,val}/*.jpg      with  labels/{train,val}/*_train_id.png        RobustNet

Any of the folders of images goes with any of those of labels. Labels hold trainIds: `a.png` or
`a_train_id.png` for `a.jpg`. The official test labels are not public, so `test` is val.

Yu et al., CVPR 2020, https://arxiv.org/abs/1805.04687. For research; not in this package.
"""

from pathlib import Path

from .label_files import Source, find_split, label_pairs, official
from .label_maps import decoder

HOMES = (".", "bdd*", "seg", "bdd*/bdd*", "bdd*/seg")
IMAGES = ("images/10k/{}", "images/{}")
LABELS = ("labels/sem_seg/masks/{}", "labels/semseg/masks/{}", "labels/{}")


def source(domain: str, split: str, root: str | Path) -> Source:
    """The domain `bdd100k` in `root`; layouts and splits as above, errors of `Source`."""
    folder, words = official(domain, split)
    place = find_split("BDD100K 10k", root, folder, IMAGES, LABELS, HOMES)
    files = label_pairs(place, lambda stem: [f"{stem}.png", f"{stem}_train_id.png"])
    return Source(files, decoder("train_ids"), place.home, "train_ids", words, kind="bdd100k")
