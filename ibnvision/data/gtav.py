"""GTAV ("Playing for Data") from the folders that people have on disk.

The folder given is the set, or one that holds it as `gta*`. There, names in any case:

    images/{train,valid,test}/<folder>/*.png  with  labels/ likewise      as RobustNet wants it
    images/00001.png  with  labels/00001.png                              the flat download

Labels are palettes of Cityscapes ids, or their colours, or `00001_labelTrainIds.png` beside them.

    gtav        the official split: of the folders, or of the download's `split.mat` in the set's
                folder or one in it; 12,403 train, 6,382 val, 6,181 test images
    gtav_val    test is the official val, as in the published numbers on GTAV as a target (C -> G)
    gtav_all    every image is train; there is no val

BAD_IDS are left out, as in RobustNet's lists. A few further images of the download differ in size
from their labels; by up to MISFIT of a side they are resized to these (RobustNet takes the next
image instead), by more it is an error. `ibnvision data check gtav=DIR` lists them all.

Richter et al., ECCV 2016, https://arxiv.org/abs/1608.02192. For research; not in this package.
"""

import os
from pathlib import Path

import numpy as np

from .label_files import Pair, Source, check_split, label_pairs
from .label_maps import decode_gtav
from .layout import Place, find_labelled, search_labelled

HOMES = (".", "gta*", "gta*/gta*")
FLAT = [("images", "labels")]
FOLDERS = {"train": "train", "val": "valid", "test": "test"}
BAD_IDS = (12160, 12166, 12167, 12191, 12192, 12193, 12195, *range(12202, 12209), 19993)
MISFIT = 0.05
DOMAINS = {"gtav": tuple(FOLDERS), "gtav_val": ("test",), "gtav_all": ("train",)}


def source(domain: str, split: str, root: str | Path) -> Source:
    """A domain of DOMAINS in `root`; layouts and splits as above.

    Raises what `Source` says, FileNotFoundError (no split), ImportError (split.mat without scipy)
    and ValueError (a split.mat of other content).
    """
    hint = "gtav has the official val and test" if domain == "gtav_all" else ""
    check_split(domain, split, DOMAINS[domain], hint)
    if domain == "gtav_all":
        home, found, words = _all(root, split)
    else:
        home, found, words = _official(root, "val" if domain == "gtav_val" else split)
    files = [pair for pair in found if not _bad(pair)]
    ids = ", ".join(map(str, BAD_IDS))
    notes = [
        f"left out as bad: {len(found) - len(files)} of the ids {ids}",
        f"an image within {MISFIT:.0%} of a side of its label's size is resized to it",
    ]
    return Source(files, decode_gtav, home, "gtav_ids", words, notes=notes, misfit=MISFIT)


def _official(root: str | Path, split: str) -> tuple[Path, list[Pair], str]:
    folder = FOLDERS[split]
    folders = [(f"images/{folder}", f"labels/{folder}")]
    place = search_labelled(root, folders, HOMES)
    if place is not None:
        return place.home, _pairs(place), f"{split} of the official split, folder {folder}"
    place = find_labelled(f"GTAV ({split})", root, [*folders, *FLAT], HOMES)
    files = sorted(
        file for pattern in ("", "*/") for file in place.home.glob(f"{pattern}split.mat")
    )
    if not files:
        raise FileNotFoundError(
            f"the official split of GTAV needs images/{{train,valid,test}}/ or split.mat (from the "
            f"download's read_mapping.zip) in {str(place.home)!r}, found neither; to train on all "
            "images use the domain gtav_all"
        )
    wanted = _split_ids(files[0], split)
    pairs = [pair for pair in _pairs(place, deep=False) if _number(pair) in wanted]
    words = f"{split} of the official split, split.mat"
    if len(pairs) < len(wanted):
        words += f" ({len(pairs)} of its {len(wanted)} images are there)"
    return place.home, pairs, words


def _all(root: str | Path, split: str) -> tuple[Path, list[Pair], str]:
    parts = [
        search_labelled(root, [(f"images/{folder}", f"labels/{folder}")], HOMES)
        for folder in FOLDERS.values()
    ]
    places = [part for part in parts if part is not None]
    if not places:
        places = [find_labelled("GTAV", root, FLAT, HOMES)]
    pairs = [pair for place in places for pair in _pairs(place)]
    home = Path(os.path.commonpath([place.home for place in places]))
    return home, pairs, "all images, the official val and test among them"


def _pairs(place: Place, *, deep: bool = True) -> list[Pair]:
    def names(stem: str) -> list[str]:
        return [f"{stem}_labelTrainIds.png", f"{stem}.png"]

    return label_pairs(place, names, deep=deep)


def _split_ids(path: Path, split: str) -> set[int]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(
            f"{str(path)!r} is read with SciPy, which could not be imported ({error}): pip install "
            "scipy, or use the domain gtav_all"
        ) from error
    content, key = loadmat(path), f"{split}Ids"
    if key not in content:
        names = ", ".join(sorted(name for name in content if not name.startswith("__")))
        raise ValueError(f"{str(path)!r} must hold {key}, as GTAV's split.mat does, got {names}")
    return {int(number) for number in np.ravel(content[key])}


def _number(pair: Pair) -> int:
    stem = pair[0].stem
    return int(stem) if stem.isdecimal() else -1


def _bad(pair: Pair) -> bool:
    return _number(pair) in BAD_IDS
