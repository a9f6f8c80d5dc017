"""Reads every picture of a set on disk and says what is wrong with it."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import DOMAINS, build_domain
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
    """Every split of the dehazing domain `name`, or of all that `--data NAME=DIR` serves.

    size: also report pictures smaller than such a crop (height, width) in splits for training.
    watch: is handed the indices before they are read, to show progress. Raises KeyError for an
    unknown name.
    """
    real = {
        domain: row for domain, row in DOMAINS.items() if row.task == "dehazing" and row.data_key
    }
    known("set", name, [*real, *(row.data_key for row in real.values())])
    for domain, row in real.items():
        if domain != name and (name in real or row.data_key != name):
            continue
        for split in row.splits:
            try:
                dataset: Any = build_domain(domain, split, root=root)
            except (ValueError, OSError) as error:
                yield Checked(domain, split, 0, [str(error)])
                continue
            crop = size if split == "train" else None
            problems = dataset.check(crop, watch(range(len(dataset))))
            yield Checked(domain, split, len(dataset), problems)
