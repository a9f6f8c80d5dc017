"""What the arguments of several verbs share."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def data_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", action="append", default=[], metavar="NAME=DIR", help="such as camvid=DIR"
    )


def split_option(command: argparse.ArgumentParser, default: str = "test") -> None:
    command.add_argument("--split", default=default, choices=("train", "val", "test"))


def pairs(items: Sequence[str], name: str = "--data") -> list[tuple[str, str]]:
    """(NAME, DIR) of every item; ValueError, with `name`, for one that does not read NAME=DIR."""
    for item in items:
        if "=" not in item:
            raise ValueError(f"{name} must read NAME=DIR, got {item!r}")
    return [(name, root) for name, _, root in (item.partition("=") for item in items)]


def free_folder(path: Path) -> Path:
    """`path`, or `path` with the first number that is still free."""
    choice, number = path, 2
    while choice.exists():
        choice, number = path.with_name(f"{path.name}{number}"), number + 1
    return choice
