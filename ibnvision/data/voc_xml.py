"""Your own pictures with boxes in Pascal VOC's format.

    DIR/{JPEGImages,Annotations,ImageSets/Main/{train,val,test}.txt}   DIR may also be above it, as
                                                                      VOCdevkit/VOC2012 is
    DIR/{train,val,test}/{images,annotations}/*                       or images and XML side by side
    DIR/{images,annotations}/*                                        a test set, as JPEGImages
    DIR/classes.txt                                                   optional, one name a line

Names in any case; of several sets in DIR the first one. Each picture has an XML file of its name,
one without <object> where it shows none: such pictures stay. Pixels count from 1 and the last ones
are included, so x0 = xmin - 1 and x1 = xmax. Objects that are `difficult` are ignored; that tag,
pose and truncated may be missing.

A second folder is `voc_xml:LABEL`; without a test split val is tested on; see `coco_json`.

Classes are those of classes.txt in its order, objects of others are left out; or else all names in
the XML files of all splits, in alphabetical order, in their most frequent spelling.

Everingham et al., IJCV 2010, https://doi.org/10.1007/s11263-009-0275-4.
"""

from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path

from torch.utils.data import Dataset

from . import voc
from .boxes import ClassNames, plain
from .label_files import check_split
from .layout import Place, find_labelled, matching, search_labelled
from .own_classes import listed, own_split, unlike

SPLITS = {"train": "train", "val": "val*", "test": "test"}
HOMES = (".", "voc*", "vocdevkit*/voc*", "*/vocdevkit*/voc*")
LISTED = [("jpegimages", "annotations")]
FLAT = [("jpegimages", "annotations"), ("images", "annotations"), ("images", "labels")]


def build(
    domain: str, split: str, *, root: str | Path, limit: int | None = None, empty: str = "keep"
) -> Dataset:
    """Your pictures and boxes in `root`; layouts and splits as above.

    Raises FileNotFoundError (no such layout in `root`, a picture or XML file
    that is not there) and ValueError (split, limit, empty, classes, a file that is not of this
    format, pictures without train/).
    """
    check_split(domain, split, SPLITS)
    root = Path(root).expanduser()
    split, said = own_split(root, split, splits(root))
    home, files, words = _files(root, split)
    names = ClassNames(classes(root))
    return voc.boxed(
        domain,
        files,
        names=names,
        home=home,
        split=f"{said}, {words}",
        empty=empty,
        limit=limit,
    )


def splits(root: str | Path) -> tuple[str, ...]:
    """The splits that `root` has: one without lists and folders of splits is a test set.

    Raises FileNotFoundError where there are no pictures with XML files.
    """
    root = Path(root).expanduser()
    named = _named(root)
    if not named:
        _files(root, "test")
    return named or ("test",)


def classes(root: str | Path) -> tuple[str, ...]:
    """Names of the classes in the order of their labels; without classes.txt all XML files of all
    splits are read, once.

    Raises FileNotFoundError (no such layout) and ValueError (no objects, a file that is not of this
    format).
    """
    root = Path(root).expanduser()
    own = listed(root)
    if own:
        return own
    sources = {source for split in splits(root) for _, source in _files(root, split)[1]}
    return unlike(_names(tuple(sorted((path, path.stat().st_mtime_ns) for path in sources))), root)


@lru_cache(maxsize=8)
def _names(files: tuple[tuple[Path, int], ...]) -> list[str]:
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for path, _ in files:
        for row in voc.read(path)[0]:
            spellings[plain(row.name)][row.name] += 1
    return [spellings[name].most_common(1)[0][0] for name in sorted(spellings)]


def _named(root: Path) -> tuple[str, ...]:
    place = search_labelled(root, LISTED, HOMES)
    lists = tuple(split for split in SPLITS if place and _list(place, split))
    return lists or tuple(split for split in SPLITS if search_labelled(root, _folders(split)))


def _list(place: Place, split: str) -> Path | None:
    found = matching(place.home, f"imagesets/main/{split}.txt")
    return found[0] if found else None


def _folders(split: str) -> list[tuple[str, str]]:
    name = SPLITS[split]
    inner = [(f"{name}/{images}", f"{name}/{labels}") for images, labels in FLAT]
    return [*inner, *[(f"{i}/{name}", f"{j}/{name}") for i, j in FLAT], (name, name)]


def _files(root: Path, split: str) -> tuple[Path, list[tuple[Path, Path]], str]:
    """Home, (picture, XML file) pairs, where they come from in words."""
    place = search_labelled(root, LISTED, HOMES)
    path = _list(place, split) if place else None
    if place and path:
        return place.home, voc.listed_files(place, path), f"your list {path.name}"
    folders = _folders(split) + ([] if _named(root) else FLAT)
    place = find_labelled(f"boxes of VOC's format ({split})", root, folders, HOMES)
    return place.home, voc.all_files(place), "your folders"
