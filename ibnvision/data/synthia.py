"""SYNTHIA-RAND-CITYSCAPES from the folders that people have on disk.

The folder given is the set, or one that holds it as `synthia*` or `rand_cityscapes`. There, names
in any case:

    RGB/*.png  with  GT/LABELS/*.png                           the download: all 9,400 are train
    RGB/{train,val}/*.png  with  GT/LABELS/{train,val}/*.png   as RobustNet split it, 6,580 / 2,820

Labels are 16-bit RGB with the class in the first channel, or `*_labelTrainIds.png` beside them.
With folders, `test` is val: that is what RobustNet reports. All 19 classes are scored where they
occur; papers on domain adaptation score 16 or 13 of them.

Ros et al., CVPR 2016. For research; not in this package.
"""

from pathlib import Path

from .label_files import Source, check_split, label_pairs
from .label_maps import decode_synthia
from .layout import find_labelled, search_labelled

TITLE = "SYNTHIA-RAND-CITYSCAPES"
HOMES = (".", "synthia*", "rand_cityscapes", "synthia*/synthia*", "synthia*/rand_cityscapes")
FLAT = [("rgb", "gt/labels")]
# split -> folder, in words
SPLITS = {
    "train": ("train", "train, folders of RobustNet's split"),
    "val": ("val", "val, folders of RobustNet's split"),
    "test": ("val", "val, folders of RobustNet's split (there is no test)"),
}


def source(domain: str, split: str, root: str | Path) -> Source:
    """The domain `synthia` in `root`; layouts and splits as above.

    Raises what `Source` says; ValueError for val or test where there are no such folders.
    """
    check_split(domain, split, SPLITS)
    folder, words = SPLITS[split]
    if _has_folders(root):
        place = find_labelled(f"{TITLE} ({folder})", root, _folders(folder), HOMES)
    else:
        place = find_labelled(TITLE, root, [*_folders(folder), *FLAT], HOMES)
        words = "all images (there is no official split)"
        if split != "train":
            raise ValueError(
                f"SYNTHIA in {str(place.home)!r} has no {split} split: as published it is one "
                "folder, so all images are train; for RobustNet's split move the images into "
                "RGB/{train,val}/ and the labels into GT/LABELS/{train,val}/"
            )
    files = label_pairs(place, lambda stem: [f"{stem}_labelTrainIds.png", f"{stem}.png"])
    return Source(files, decode_synthia, place.home, "synthia_ids", words)


def splits(root: str | Path) -> tuple[str, ...]:
    """The splits that the set in `root` has; FileNotFoundError where there is none."""
    if _has_folders(root):
        return tuple(
            s for s, (name, _) in SPLITS.items() if search_labelled(root, _folders(name), HOMES)
        )
    find_labelled(TITLE, root, [*_folders("train"), *FLAT], HOMES)
    return ("train",)


def _has_folders(root: str | Path) -> bool:
    return any(search_labelled(root, _folders(name), HOMES) for name in ("train", "val"))


def _folders(name: str) -> list[tuple[str, str]]:
    return [(f"rgb/{name}", f"gt/labels/{name}")]
