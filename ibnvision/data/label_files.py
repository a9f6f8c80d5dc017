"""What a split of a set of images with label files is: its files, and what its labels mean."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .layout import Place, find_labelled, pictures_below

Pair = tuple[Path, Path]  # image, label

# Split -> (folder, in words) of the sets whose official test labels are not public: numbers on
# them are of val, so that is their test.
OFFICIAL = {
    "train": ("train", "train, official folders"),
    "val": ("val", "val, official folders"),
    "test": ("val", "val, official folders (the test labels are not public)"),
}


class Source(NamedTuple):
    """One split of a set; the fields are arguments of `labelled.Labelled`, which explains them.

    A file of a set has `source(domain, split, root) -> Source` for the rows of `data.DOMAINS` that
    name it. It raises FileNotFoundError (no such layout in `root`, an image without label) and
    ValueError (a split that the domain does not have).
    """

    files: list[Pair]
    decode: Callable[[Path], np.ndarray]
    home: Path
    label_map: str
    split: str
    kind: str = ""
    notes: Sequence[str] = ()
    misfit: float = 0.0


def official(domain: str, split: str) -> tuple[str, str]:
    """The row of OFFICIAL; ValueError for an unknown split."""
    check_split(domain, split, OFFICIAL)
    return OFFICIAL[split]


def find_split(
    title: str,
    root: str | Path,
    folder: str,
    images: Sequence[str],
    labels: Sequence[str],
    homes: Sequence[str],
) -> Place:
    """`layout.find_labelled` where any folder of images goes with any of labels; `{}` in them is
    `folder`, that of the split.
    """
    folders = [(i.format(folder), label.format(folder)) for i in images for label in labels]
    return find_labelled(f"{title} ({folder})", root, folders, homes)


def check_split(domain: str, split: str, splits: Iterable[str], hint: str = "") -> None:
    """ValueError, with the hint, for a split that is none of the domain's."""
    splits = list(splits)
    if split not in splits:
        raise ValueError(
            f"split of {domain} must be one of {', '.join(splits)}, got {split!r}"
            + (f" ({hint})" if hint else "")
        )


def label_pairs(
    place: Place, names: Callable[[str], Sequence[str]], *, end: str = "", deep: bool = True
) -> list[Pair]:
    """Each image with its label, in natural order.

    The label lies in the folder of labels as the image in that of images, and has the first of the
    `names` (of an image's stem without `end`) that is there, in any case. end: images have stems
    that end so, in any case; others are left out. deep: images in sub-folders count.

    Raises FileNotFoundError for an image without label, and where no image has that end.
    """
    pairs, single = [], []
    listed: dict[Path, tuple[Path, dict[str, str]]] = {}  # folder of images -> labels, names there
    images = [
        image
        for image in pictures_below(place.images)
        if image.stem.lower().endswith(end.lower()) and (deep or image.parent == place.images)
    ]
    if not images:
        raise FileNotFoundError(
            f"{str(place.images)!r} must hold images named *{end}.*, found none"
        )
    for image in images:
        if image.parent not in listed:
            labels = place.labels / image.parent.relative_to(place.images)
            listed[image.parent] = labels, _listed(labels)
        folder, there = listed[image.parent]
        wanted = names(image.stem[: len(image.stem) - len(end)])
        found = (there.get(name) or there.get(name.lower()) for name in wanted)
        label = next(filter(None, found), None)
        if label is None:
            single.append((image, folder, wanted))
        else:
            pairs.append((image, folder / label))
    if single:
        image, folder, wanted = single[0]
        raise FileNotFoundError(
            f"{len(single)} of {len(images)} images have no label, such as {str(image)!r}: looked "
            f"for {' or '.join(wanted)} in {str(folder)!r}"
        )
    return pairs


def _listed(folder: Path) -> dict[str, str]:
    """The names in a folder, under themselves and in lower case."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return {**{name.lower(): name for name in names}, **{name: name for name in names}}
