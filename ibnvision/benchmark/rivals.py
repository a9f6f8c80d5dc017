"""Options of `ibnvision benchmark ops` and `models`: rivals by name, dtypes and formats."""

import argparse
from collections.abc import Collection, Iterable

import torch

from ibnvision.config import nearest

from .op_rows import DTYPES, FORMATS

WORDS = {  # of --against -> backends, as records name them
    "timm": ("timm",),
    "published": ("published",),
    "torch.compile": ("compiled", "compiled fallback"),
    "sdpa": ("sdpa",),
    "flex": ("flex",),
    "batch_norm": ("batch norm",),
    "cudnn": ("batch norm",),
    "five_convolutions": ("five convolutions",),
    "folded": ("folded",),
}
COMPILED = frozenset(("compiled", "compiled fallback", "flex"))  # what a compiler prepares


def add_options(made: argparse.ArgumentParser, dtype: str, form: str) -> None:
    """--dtype, --format and --against; dtype, form: the defaults in words."""
    made.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        action="append",
        help=f"default: {dtype}; may be repeated",
    )
    made.add_argument(
        "--format", choices=list(FORMATS), action="append", help=f"default: {form}; may be repeated"
    )
    made.add_argument(
        "--against",
        metavar="NAME,...",
        help=f"rivals to run beside our own forms, default all that can: {', '.join(WORDS)}",
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def chosen(text: str | None) -> frozenset[str] | None:
    """The backends that --against names; None, which is all, where it is not given.

    Raises: KeyError for an unknown name, with the nearest one.
    """
    if text is None:
        return None
    words = _words(text)
    for word in words:
        if word not in WORDS:
            raise KeyError(f"unknown rival {word!r} in --against: {nearest(word, WORDS)}")
    return frozenset(backend for word in words for backend in WORDS[word])


def absent(text: str | None, present: Collection[str], device: str) -> list[str]:
    """Why a name in --against chooses nothing here, a sentence each.

    present: the backends that the rows of this run have.
    """
    words, found = _words(text or ""), []
    for word in words:
        if not set(WORDS[word]) & set(present):
            found.append(f"{word} skipped: no row of this run has it")
        elif word == "cudnn" and device != "cuda":
            found.append("cudnn needs CUDA: here PyTorch's own batch norm stands in its place")
    return found


def wanted(backend: str, against: Collection[str] | None) -> bool:
    """Whether a rival is among those that `chosen` gave."""
    return against is None or backend in against


def cudnn(device: str) -> dict[str, int]:
    """A field of records on CUDA: the version of cuDNN, whose convolutions all backends run."""
    version = torch.backends.cudnn.version() if device == "cuda" else None
    return {} if version is None else {"cudnn": version}


def cudnn_note(records: Iterable[dict]) -> str:
    """What a table of records on CUDA says of cuDNN; "" of others."""
    versions = sorted({r["cudnn"] for r in records if "cudnn" in r})
    if not versions:
        return ""
    named = " and ".join(map(str, versions))
    return f"Convolutions and the plain batch norm are cuDNN's, version {named}, in all backends."
