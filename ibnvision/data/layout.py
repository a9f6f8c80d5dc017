"""Finds the pictures of a set in the layouts that people have on disk: hazy and clear ones, or
images and their label files.

A pattern names folders below another one: lower case, "/" between names, shell wildcards, "." for
the folder itself. The case of the names on disk does not matter; the first pattern that fits wins.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
HAZY = ("hazy", "haze", "input", "in")
CLEAR = ("clear", "gt", "target", "clean")
HAZY_END = re.compile(r"[-_ ](hazy|haze)$")  # of a stem in lower case
CLEAR_END = re.compile(r"[-_ ](clear|gt|clean)$")


@dataclass(frozen=True)
class Layout:
    """Where the pictures of a set may lie; all fields but the title are patterns.

    Args:
        title: the set's name in messages.
        places: split -> folders of a home that hold its hazy and clear folders.
        homes: folders of the root that hold the set.
        hazy, clear: the folders of pictures, or folders of such folders (part1, part2); no clear:
            the set has none.
        flat: hazy and clear pictures may share a place, told apart as in `01_hazy`, `01_GT`.
    """

    title: str
    places: Mapping[str, tuple[str, ...]]
    homes: tuple[str, ...] = (".",)
    hazy: tuple[str, ...] = HAZY
    clear: tuple[str, ...] = CLEAR
    flat: bool = False


class Place(NamedTuple):
    """Where a set lies: its folder, and those of its images and labels."""

    home: Path
    images: Path
    labels: Path


class Found(NamedTuple):
    """Picture files in natural order: 2 before 10."""

    hazy: list[Path]
    clear: list[Path]


def find(layout: Layout, root: str | Path, split: str) -> Found:
    """The pictures of a split; a FileNotFoundError says what was looked for and what is there."""
    found = search(layout, root, split)
    if found is not None:
        return found
    wanted = f"{_any(layout.homes)}/{_any(layout.places[split])}/{_any(layout.hazy)}"
    if layout.clear:
        wanted += f" with {_any(layout.clear)} beside it"
    if layout.flat:
        wanted += ", or pictures like 01_hazy with 01_GT"
    raise FileNotFoundError(
        f"no {layout.title} ({split}) in {str(root)!r}: looked for {wanted}, in any case; "
        f"{_nearest(layout, Path(root).expanduser(), split)}"
    )


def search(layout: Layout, root: str | Path, split: str) -> Found | None:
    """As `find`, but None where there is nothing."""
    for place in _places(layout, Path(root).expanduser(), split):
        clear = _first(place, layout.clear)
        if clear or not layout.clear:
            hazy = _first(place, layout.hazy)
            if hazy:
                return Found(hazy, clear)
        if layout.flat:
            files = sorted(_pictures(place), key=natural)
            hazy = [file for file in files if HAZY_END.search(file.stem.lower())]
            clear = [file for file in files if CLEAR_END.search(file.stem.lower())]
            if hazy and clear:
                return Found(hazy, clear)
    return None


def find_labelled(
    title: str,
    root: str | Path,
    folders: Sequence[tuple[str, str]],
    homes: Sequence[str] = (".",),
) -> Place:
    """The first of the `folders`, patterns of (images, labels) below a home, that are there and
    whose images are; a FileNotFoundError says what was looked for and what is there.
    """
    found = search_labelled(root, folders, homes)
    if found is not None:
        return found
    images, labels = (list(dict.fromkeys(pair[i] for pair in folders)) for i in (0, 1))
    if len(folders) == len(images) * len(labels):
        wanted = f"{_any(images)} with {_any(labels)} beside it"
    else:
        wanted = ", or ".join(f"{image} with {label} beside it" for image, label in folders)
    where = f" in {_any(homes)}" if len(homes) > 1 else ""
    raise FileNotFoundError(
        f"no {title} in {str(root)!r}: looked for {wanted}, in any case{where}; "
        f"{_nearest_labelled(Path(root).expanduser(), folders, homes)}"
    )


def search_labelled(
    root: str | Path, folders: Sequence[tuple[str, str]], homes: Sequence[str] = (".",)
) -> Place | None:
    """As `find_labelled`, but None where there is nothing."""
    root = Path(root).expanduser()
    for home in _homes(root, homes):
        for images, labels in folders:
            for image_folder in _folders(home, images):
                if _holds_pictures(image_folder):
                    for label_folder in _folders(home, labels):
                        return Place(home, image_folder, label_folder)
    return None


def pictures_below(folder: Path) -> Iterator[Path]:
    """The pictures of a folder and of the folders in it, such as cities, in natural order."""
    yield from sorted(_pictures(folder), key=natural)
    for child in sorted(_entries(folder, folders=True)):
        yield from sorted(_pictures(folder / child), key=natural)


def matching(root: Path, pattern: str, *, folders: bool = False) -> list[Path]:
    """The files, or folders, below `root` that fit a pattern, in natural order."""
    if not root.is_dir():
        return []
    above, _, last = pattern.lower().rpartition("/")
    return [
        folder / name
        for folder in _folders(root, above or ".")
        for name in sorted(_entries(folder, folders=folders))
        if fnmatchcase(name.lower(), last)
    ]


def contents(root: Path) -> str:
    """What a folder holds, or that it is none, as the end of a message."""
    if not root.exists():
        return "the folder does not exist"
    if not root.is_dir():
        return "it is a file"
    entries = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    return f"found {', '.join(entries[:8]) or 'nothing'}" + ", ..." * (len(entries) > 8)


def natural(path: Path) -> tuple[list[str | int], str]:
    """Sort key of a file name: its numbers count as numbers. No two names of a folder share one, so
    that the order is that of the names and not that of the disk.
    """
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _places(layout: Layout, root: Path, split: str) -> Iterator[Path]:
    if root.is_dir():
        for home in layout.homes:
            for place in layout.places[split]:
                yield from _folders(root, f"{home}/{place}")


def _homes(root: Path, homes: Iterable[str]) -> list[Path]:
    return [folder for home in homes for folder in _folders(root, home)] if root.is_dir() else []


def _nearest_labelled(root: Path, folders: Iterable[tuple[str, str]], homes: Iterable[str]) -> str:
    """What is there instead: images without labels, a half of the folders, or what root holds."""
    for home in _homes(root, homes):
        for images, labels in folders:
            for folder in _folders(home, images):
                if _holds_pictures(folder):
                    return f"{str(folder)!r} is there, but no {labels}/ beside it"
                if _folders(home, labels):
                    return f"{str(folder)!r} holds no {', '.join(SUFFIXES)}"
    return contents(root)


def _folders(parent: Path, pattern: str) -> list[Path]:
    found = [parent]
    for name in pattern.split("/"):
        if name != ".":
            found = [
                folder / child
                for folder in found
                for child in _entries(folder, folders=True)
                if fnmatchcase(child.lower(), name)
            ]
            found.sort(key=natural)
    return found


def _first(place: Path, names: Iterable[str]) -> list[Path]:
    """Pictures of the first of the named folders that has any."""
    for name in names:
        files = [file for folder in _folders(place, name) for file in _pictures(folder)]
        if not files and name != ".":
            inner = (child for folder in _folders(place, name) for child in _folders(folder, "*"))
            files = [file for folder in inner for file in _pictures(folder)]
        if files:
            return sorted(files, key=natural)
    return []


def _nearest(layout: Layout, root: Path, split: str) -> str:
    """What is there instead: at the first place with a folder of the right name, else in root."""
    for place in _places(layout, root, split):
        names = [name for name in (*layout.hazy, *layout.clear) if _folders(place, name)]
        for name in names:
            if not _first(place, [name]):
                return f"{str(_folders(place, name)[0])!r} holds no {', '.join(SUFFIXES)}"
        if names:
            return f"in {str(place)!r} {contents(place)}"
    return contents(root)


def _holds_pictures(folder: Path) -> bool:
    """Whether `pictures_below` gives any, without sorting them."""
    inner = (folder / child for child in _entries(folder, folders=True))
    return any(_pictures(place) for place in (folder, *inner))


def _pictures(folder: Path) -> list[Path]:
    names = _entries(folder, folders=False)
    return [folder / name for name in names if name.lower().endswith(SUFFIXES)]


def _entries(folder: Path, *, folders: bool) -> list[str]:
    """Names in a folder, less the hidden ones (._a.png, .ipynb_checkpoints)."""
    with os.scandir(folder) as entries:
        return [e.name for e in entries if e.name[0] != "." and e.is_dir() == folders]


def _any(patterns: Iterable[str]) -> str:
    return f"{{{','.join(patterns)}}}"
