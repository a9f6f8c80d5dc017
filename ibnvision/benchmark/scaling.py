"""How does cost grow with batch, resolution, channels and threads?   ibnvision benchmark scaling

One variable at a time around a base point, all its sizes and backends in the same interleaved
repetitions: operators and a training step of a network, as kernels, in plain PyTorch (fallback),
as published (eager), and attention over all pairs (dense). A curve's exponent is the slope of the
logarithm of the median time on that of the size, by least squares over the sizes in the table:
1 is linear growth. Resolution counts pixels or patches, not sides. Threads are timed by wall time.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ibnvision.ops import kernel_report

from . import compare, measure, record, scaling_tables
from .measure import Call
from .scaling_rows import BACKENDS, DTYPE, FORMAT, RESOLUTION, ROWS, THREADS, Row

LIMIT_S = 5.0  # a longer call is left out: dense attention, or threads on cores that are busy


def slope(amounts: Sequence[float]) -> Callable[..., float]:
    """A function of samples, one for each amount: the exponent of their medians' growth."""
    centred = np.log(amounts) - np.mean(np.log(amounts))
    weights = centred / (centred @ centred)

    def of(*samples: measure.Array) -> float:
        return float(weights @ np.log(np.median(np.stack(samples), axis=1)))

    return of


def thread_counts(most: int) -> tuple[int, ...]:
    """Powers of two up to the number of cores."""
    return tuple(2**i for i in range(most.bit_length()) if 2**i <= most)


def seconds_of(call: Call, device: str) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def with_threads(call: Call, count: int) -> Call:
    """The call with so many CPU threads."""

    def run() -> object:
        with measure.threads(count):
            return call()

    return run


def curves(
    row: Row, variable: str, sizes: Sequence[int], common: record.Record, repeats: int
) -> list[record.Record]:
    """The records of one variable: times of every size and backend, and each curve's exponent."""
    device, quick = common["device_type"], common["quick"]
    calls: dict[str, Call] = {}
    reasons: dict[str, str] = {}
    for size in sizes:
        made, skipped = row.calls(row.at(variable, size, quick=quick), device, quick)
        reasons |= skipped
        for name, call in made.items():
            taken = with_threads(call, size) if variable == THREADS else call
            once = seconds_of(taken, device)
            if once > LIMIT_S:
                reasons[_key(name, size)] = f"a call takes {once:.1f} s, more than {LIMIT_S:.0f} s"
            else:
                calls[_key(name, size)] = taken
    for name, reason in reasons.items():
        print(f"  {name} skipped: {reason}", flush=True)
    threads = max(sizes) if variable == THREADS else common["threads"]
    seconds, wall, clock = measure.clocked(calls, repeats, device, threads, warmup=1)
    common = common | {"variable": variable, "n": repeats, "clock": clock}
    records = []
    for name in BACKENDS:
        found = [size for size in sizes if _key(name, size) in seconds]
        for size in found:
            at = row.at(variable, size, quick=quick)
            sample = 1e3 * seconds[_key(name, size)]
            fields = {"metric": "time", "backend": name, "size": size, "shape": row.shape(at)}
            fields |= {"value": float(np.median(sample)), "unit": "ms"}
            fields |= {"spread": measure.spread(sample)}
            fields |= {"wall_ms": 1e3 * float(np.median(wall[_key(name, size)]))}
            records.append(common | fields)
        if len(found) > 1:
            shared = common | {"backend": name, "sizes": found}
            if row.pairs and variable == RESOLUTION and name != "dense":
                counts = [row.pairs(row.at(variable, size, quick=quick)) for size in found]
                of_pairs = slope([size**2 for size in found])(*np.reshape(counts, (-1, 1)))
                shared |= {"pairs_exponent": of_pairs}
            records += [
                shared | fields for fields in exponents(row, variable, found, name, seconds)
            ]
    return records


def exponents(
    row: Row, variable: str, sizes: Sequence[int], backend: str, samples: dict[str, measure.Array]
) -> list[dict[str, Any]]:
    """A curve's exponent with its bootstrap interval over repetitions, as fields of a record."""
    side = 2 if variable == RESOLUTION else 1
    amounts = [float(size) ** side for size in sizes]
    unit = f"power of {row.cells if variable == RESOLUTION else variable}"
    names = tuple(_key(backend, size) for size in sizes)
    return measure.derived(samples, [("exponent", unit, slope(amounts), names)])


def _key(backend: str, size: int) -> str:
    return f"{backend} {size}"


def variables(row: Row, device: str, *, quick: bool) -> dict[str, tuple[int, ...]]:
    """Sizes by variable; in full runs on a CPU of several cores also threads."""
    if quick:
        return dict(row.quick_sizes)
    counts = thread_counts(os.cpu_count() or 1)
    return {**row.sizes} | ({THREADS: counts} if device == "cpu" and len(counts) > 1 else {})


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where --compare-with shows a regression."""
    parser = record.parser("scaling", __doc__, "7; quick 2")
    parser.add_argument("--op", choices=sorted(ROWS), action="append", help="default: all")
    args = record.parse(parser, argv)
    shared = record.start("scaling", argv, args) | {"threads": args.threads}
    then = compare.earlier(args, shared)
    path = record.results_file(args.out, "scaling")
    print(f"{shared['device']}, torch {shared['torch']}, {kernel_report()}", flush=True)
    records: list[record.Record] = []
    with measure.threads(args.threads):
        for name in args.op or ROWS:
            row = ROWS[name]
            common = shared | {"op": name, "pass": row.part, "dtype": DTYPE, "format": FORMAT}
            common |= {"base": row.quick_base if args.quick else row.base, "cells": row.cells}
            for variable, sizes in variables(row, args.device, quick=args.quick).items():
                print(f"{name}, {variable} {', '.join(map(str, sizes))}", flush=True)
                new = curves(row, variable, sizes, common, args.repeats or (2 if args.quick else 7))
                record.append(path, new)
                records += new
    print(f"\n{scaling_tables.tables(records)}")
    print(f"\n{len(records)} records appended to {path}")
    return compare.finish(then, records)
