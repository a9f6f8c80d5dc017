"""`ibnvision data`: a drawn set on disk, and the check of a real one."""

import argparse
from collections.abc import Sequence
from typing import Any

from .arguments import pairs, split_option

_SHOWN = 20  # problems of a split that a check prints


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", choices=("make", "check"))
    command.add_argument(  # `_dispatch` adds what follows an option to `overrides`
        "overrides", nargs="*", metavar="NAME=DIR", help="check: such as its=DIR"
    )
    command.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="check: the crop to train with"
    )
    command.add_argument("--out", help="make: the folder to write")
    command.add_argument("--domain", default="streets_day")
    command.add_argument("--preset", default="quick")
    split_option(command, "train")
    command.add_argument("--limit", type=int, help="at most so many scenes")
    command.add_argument("--overwrite", action="store_true")


def run(options: argparse.Namespace) -> int:
    if options.action == "check":
        return _check(options)
    if options.overrides or not options.out:
        raise ValueError("data make takes --out DIR and no NAME=DIR")
    _make(options)
    return 0


def _check(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from ibnvision.data.check import check_set

    def watch(indices: Sequence[int]) -> Any:
        return track(indices, "reading", console=Console(stderr=True), transient=True)

    if not options.overrides:
        raise ValueError("data check must be followed by NAME=DIR, such as its=DIR")
    wrong, size = 0, tuple(options.size) if options.size else None
    read: dict[tuple, list[str]] = {}
    for name, root in pairs(options.overrides, "data check"):
        for found in check_set(name, root, size=size, watch=watch, read=read):
            count = len(found.problems)
            wrong += count
            title = f"{found.domain} {found.split}"
            print(f"{title:24} {found.items} items, {count} problem{'s' * (count != 1)}")
            for problem in found.problems[:_SHOWN]:
                print(f"  {problem}")
            if count > _SHOWN:
                print(f"  and {count - _SHOWN} more")
    return 2 if wrong else 0


def _make(options: argparse.Namespace) -> None:
    from ibnvision.data.streets_set import write_set

    out = write_set(
        options.out,
        options.domain,
        options.preset,
        options.split,
        limit=options.limit,
        overwrite=options.overwrite,
    )
    print(f"folder    {out}")
    print(f"pictures  {out / 'contact_sheet.png'}")
