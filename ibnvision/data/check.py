"""Reads every picture of a set on disk and says what is wrong with it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import DOMAINS, build_domain, domain_of, splits
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
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
    read: dict[tuple, list[str]] | None = None,
) -> Iterator[Checked]:
    """Every split of the domain `name`, or of all that `--data NAME=DIR` serves, under a label of
    one's own too.

    size: also report pairs of hazy and clear pictures smaller than such a crop (height, width) in
    splits for training. watch: is handed the indices before they are read, to show progress; files
    that stand in a second split (test is val) or domain (labels under two maps) are not read again.
    read: a dict that calls share, so that this holds between them too. Raises KeyError for an
    unknown name.
    """
    base, colon, label = name.partition(":")
    real = {domain: row for domain, row in DOMAINS.items() if row.data_key}
    known("set", base, [*real, *(row.data_key for row in real.values())])
    read = {} if read is None else read  # item -> its problems
    for single, row in real.items():
        if single != base and (base in real or row.data_key != base):
            continue
        domain = f"{single}{colon}{label}"
        for split in _splits(domain, root):
            try:
                dataset: Any = build_domain(domain, split, root=root)
            except (ValueError, OSError, ImportError) as error:
                yield Checked(domain, split, 0, [str(error)])
                continue
            crop = size if split == "train" else None
            items = [(row.data_key, type(dataset), item, crop) for item in _items(dataset, split)]
            left = [index for index, item in enumerate(items) if item not in read]
            for index in watch(left) if left else ():
                read[items[index]] = dataset.check(crop, [index])
            # what is wrong with a file of all items is said with each of them
            problems = list(dict.fromkeys(problem for item in items for problem in read[item]))
            yield Checked(domain, split, len(dataset), problems)


def _items(dataset: Any, split: str) -> Sequence[Any]:
    """What decides the problems of each item of a set: its files, where the set names them."""
    for name in ("files", "pairs"):
        if hasattr(dataset, name):
            return getattr(dataset, name)
    return [(dataset.domain, split, index) for index in range(len(dataset))]


def _splits(domain: str, root: str | Path) -> tuple[str, ...]:
    """Those that the folder has; where it is the wrong one all, so that an error says so."""
    try:
        return splits(domain, root)
    except OSError:
        return domain_of(domain).splits
