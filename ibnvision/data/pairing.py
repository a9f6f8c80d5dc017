"""Which clear picture belongs to which hazy one, and which scenes are held out for validation."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .layout import CLEAR_END, HAZY_END, SUFFIXES, Found, Layout, find, natural, search

VAL_SHARE = 20  # one scene of so many is held out


class Pair(NamedTuple):
    """Two files of one view."""

    hazy: Path
    clear: Path


def by_name(found: Found) -> list[Pair]:
    """Pairs every hazy picture with the clear one of its name, whatever the suffix and case.

    The name of `1_1_0.9.png` is `1_1_0.9`, else the part before the first "_", `1`; an end such as
    `_hazy` or `_GT` does not count. Raises FileNotFoundError for a hazy picture without partner
    and ValueError for two clear pictures of one name. Clear pictures may be left over.
    """
    clear = _unique(found.clear, lambda file: CLEAR_END.sub("", file.stem.lower()))

    def names(file: Path) -> list[str]:
        stem = file.stem.lower()
        return [HAZY_END.sub("", stem), stem, stem.partition("_")[0]]

    return _pairs(found, names, clear)


def by_number(found: Found) -> list[Pair]:
    """Pairs by the first number in the names, as `01_outdoor_hazy.jpg` and `01_outdoor_GT.jpg`.

    Errors as `by_name`; also a ValueError for two hazy pictures of one number.
    """

    def number(file: Path) -> str:
        digits = re.search(r"\d+", file.stem)
        return str(int(digits[0])) if digits else file.stem.lower()

    _unique(found.hazy, number)
    return _pairs(found, lambda file: [number(file)], _unique(found.clear, number))


def split_pairs(
    layout: Layout, root: str | Path, split: str, scene: Callable[[Pair], str]
) -> list[Pair]:
    """Pairs of a split by name; where a set has no val folder, val is held out of train.

    scene: the name of what a pair shows; no scene is in both. Raises as `find` and `by_name`.
    """
    if split not in ("train", "val"):
        return by_name(find(layout, root, split))
    own = search(layout, root, "val")
    if split == "val" and own is not None:
        return by_name(own)
    pairs = by_name(find(layout, root, "train"))
    if own is not None:
        return pairs
    scenes = [scene(pair) for pair in pairs]
    held = held_out(scenes)
    return [
        pair for pair, name in zip(pairs, scenes, strict=True) if (name in held) == (split == "val")
    ]


def held_out(scenes: Iterable[str]) -> set[str]:
    """The scenes for val: those whose number is divisible by 20, or, where some have no number,
    every twentieth in natural order; the last one where that gives none or all.

    Raises ValueError for fewer than two scenes.
    """
    every = sorted(set(scenes), key=lambda name: natural(Path(name)))
    if len(every) < 2:
        raise ValueError(
            f"train must show at least two scenes so that one can be held out for val, got "
            f"{every}: add pairs, or give val a folder of its own"
        )
    held = set(every[VAL_SHARE - 1 :: VAL_SHARE])
    if all(name.isdecimal() for name in every):
        held = {name for name in every if int(name) % VAL_SHARE == 0}
    return held if 0 < len(held) < len(every) else {every[-1]}


def _unique(files: Iterable[Path], name: Callable[[Path], str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for file in files:
        other = named.setdefault(name(file), file)
        if other != file:
            raise ValueError(
                f"one picture must be named {name(file)!r}, found {str(other)!r} and {str(file)!r}"
            )
    return named


def _pairs(
    found: Found, names: Callable[[Path], Sequence[str]], clear: dict[str, Path]
) -> list[Pair]:
    pairs, single = [], []
    for hazy in found.hazy:
        match = next((clear[name] for name in names(hazy) if name in clear), None)
        if match is None:
            single.append(hazy)
        else:
            pairs.append(Pair(hazy, match))
    if single:
        wanted = " or ".join(dict.fromkeys(names(single[0])))
        raise FileNotFoundError(
            f"{len(single)} of {len(found.hazy)} hazy pictures have no clear one, such as "
            f"{str(single[0])!r}: looked for {wanted} with {', '.join(SUFFIXES)} in "
            f"{str(found.clear[0].parent)!r}"
        )
    return pairs
