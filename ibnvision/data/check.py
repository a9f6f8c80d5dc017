"""Reads every picture of a set on disk and says what is wrong with it."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import DOMAINS, build_domain, splits
from .names import known


class Checked(NamedTuple):
    """One split of a domain: how many items it has, and a sentence for each problem."""

    domain: str
    split: str
    items: int
    problems: list[str]


def check_set(
    name: str,
    root: str | Path,
    *,
    size: tuple[int, int] | None = None,
    watch: Callable[[range], Iterable[int]] = iter,
) -> Iterator[Checked]:
    """Every split of the domain `name`, or of all that `--data NAME=DIR` serves.

    size: also report pairs of hazy and clear pictures smaller than such a crop (height, width) in
    splits for training. watch: is handed the indices before they are read, to show progress; files
    that stand in a second split (test is val) are not read again. Raises KeyError for an unknown
    name.
    """
    real = {domain: row for domain, row in DOMAINS.items() if row.data_key}
    known("set", name, [*real, *(row.data_key for row in real.values())])
    for domain, row in real.items():
        if domain != name and (name in real or row.data_key != name):
            continue
        read: dict[tuple, list[str]] = {}  # files -> their problems
        for split in _splits(domain, root):
            try:
                dataset: Any = build_domain(domain, split, root=root)
            except (ValueError, OSError, ImportError) as error:
                yield Checked(domain, split, 0, [str(error)])
                continue
            files = (*getattr(dataset, "files", (split,)),)
            if files not in read:
                crop = size if split == "train" else None
                read[files] = dataset.check(crop, watch(range(len(dataset))))
            yield Checked(domain, split, len(dataset), read[files])


def _splits(domain: str, root: str | Path) -> tuple[str, ...]:
    """Those that the folder has; where it is the wrong one all, so that an error says so."""
    try:
        return splits(domain, root)
    except OSError:
        return DOMAINS[domain].splits
