"""Which networks a run of `ibnvision benchmark models --what table` measures, and the run."""

import argparse
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ibnvision.config import nearest

from . import ceilings, record, rivals
from .model_costs import COMPILED, Budget, empty_compile_cache, parts, run
from .model_rows import ROWS
from .model_tables import LATENCY
from .network_cost import Setup

COMPILE_MINUTES = 2.0  # on a CPU, where a network takes one or two for each of its parts
REPEATS = 5  # with them a run ends in eight or nine minutes on one thread of a quiet CPU


def names_of(asked: Sequence[str] | None, *, quick: bool) -> list[str]:
    """The rows to run; a quick run without names takes the first.

    Raises: KeyError for an unknown name, with the nearest one.
    """
    for name in asked or ():
        if name not in ROWS:
            raise KeyError(f"unknown model {name!r} in --model: {nearest(name, ROWS)}")
    return list(asked or (list(ROWS)[:1] if quick else ROWS))


def setups(args: argparse.Namespace) -> Iterator[Setup]:
    """Every part of every row, in every dtype and format."""
    cuda = args.device == "cuda"
    dtypes, formats = dtypes_of(args), args.format or ["channels_last"]
    for name in names_of(args.model, quick=args.quick):
        row = ROWS[name]
        size, batch = row.subject.sizes[0 if args.quick else 1 if cuda else 2]
        for dtype, form, part in itertools.product(dtypes, formats, parts(batch)):
            each = 1 if part == LATENCY else batch
            yield Setup(name, row.plain, part, size, each, args.device, form, dtype)


def dtypes_of(args: argparse.Namespace) -> list[str]:
    """Those asked for, else the usual one of the device."""
    return args.dtype or ["bf16" if args.device == "cuda" else "fp32"]


def budget_of(args: argparse.Namespace) -> Budget:
    """What compilers may spend; nothing in a quick run that does not ask for it."""
    usual = 0.0 if args.quick else float("inf") if args.device == "cuda" else COMPILE_MINUTES
    return Budget(60 * (usual if args.compile_minutes is None else args.compile_minutes))


def run_table(args: argparse.Namespace, shared: record.Record, path: Path) -> list[record.Record]:
    """All setups, appended to a file as they are measured."""
    against, budget = rivals.chosen(args.against), budget_of(args)
    repeats, wanted = args.repeats or (2 if args.quick else REPEATS), list(setups(args))
    present = {COMPILED, *(ROWS[setup.model].rival for setup in wanted)}
    for reason in rivals.absent(args.against, present, args.device):
        print(reason, flush=True)
    shared = shared | {"what": "table", "threads": args.threads} | rivals.cudnn(args.device)
    dtypes = dtypes_of(args)
    best, found = ceilings.measure_ceilings(args.device, dtypes, args.threads, quick=args.quick)
    records = [shared | one for one in found]
    record.append(path, records)
    with empty_compile_cache() if budget.left_s > 0 else contextlib.nullcontext():
        for setup in wanted:
            print(f"{setup.model} {setup.dtype} {setup.format}, {setup.part}", flush=True)
            common = shared | {"model": setup.model, "plain": setup.plain, "dtype": setup.dtype}
            common |= {"shape": list(setup.shape), "format": setup.format}
            options: dict[str, Any] = {"repeats": repeats, "against": against, "budget": budget}
            new = run(ROWS[setup.model], setup, common, best, **options)
            record.append(path, new)
            records += new
    return records
