"""How fast is Lambda-shaped attention against dense attention?   ibnvision benchmark attention

The operator on grids of patches with a prefix of 5 and a window of 15x15 (kernel), the same in
plain PyTorch (halo), scaled_dot_product_attention over all pairs (dense), and compiled
FlexAttention with the mask as block lists, its tokens put into the order of 8x8 tiles beforehand
(flex). Then a ViT-S/16 with registers at 1024 px, whole, dense and converted.
"""

import contextlib
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ibnvision.ops import kernel_report, reference_ops, why_no_kernel

from . import ceilings, compare, findings, measure, record
from .attention_calls import (
    BOTH,
    FORWARD,
    INFERENCE,
    SIZE,
    STEP,
    Case,
    network_calls,
    operator_calls,
    ours,
)
from .op_rows import DTYPES

RIVALS = ("dense", "halo", "flex")


def derived(samples: dict[str, measure.Array]) -> list[dict[str, Any]]:
    """How many times faster the kernel is, and how much longer bf16 takes: medians of pairs."""
    ratio = measure.paired_ratio
    asked = [(f"times faster than {rival}", "x", ratio, (rival, "kernel")) for rival in RIVALS]
    asked.append(("time of bf16 by fp32", "x", ratio, ("kernel bf16", "kernel")))
    return measure.derived(samples, asked)


def run(
    case: Case, common: record.Record, repeats: int, best: ceilings.Ceilings, compiled: bool
) -> list[record.Record]:
    """The records of one case; reasons of skipped backends are printed."""
    whole = case.part in (INFERENCE, STEP)
    calls, skipped = network_calls(case) if whole else operator_calls(case, compiled=compiled)
    for name, reason in skipped.items():
        print(f"  {name} skipped: {reason}", flush=True)
    seconds, wall, clock = measure.clocked(calls, repeats, case.device, common["threads"], warmup=1)
    common = common | {"pass": case.part, "launch": "launches", "n": repeats}
    records = []
    for name, s in seconds.items():
        median = float(np.median(s))
        fields = {"metric": "time", "backend": name, "value": 1e3 * median, "unit": "ms"}
        fields |= {"spread": measure.spread(1e3 * s), "clock": clock}
        fields |= {"wall_ms": 1e3 * float(np.median(wall[name]))}
        if not whole and name in ("kernel", "halo"):  # products: 2, and 5 more for the backward
            products = 2 if case.part == FORWARD else 7
            tensors = 4 if case.part == FORWARD else 12
            flops = 2.0 * products * SIZE * case.pairs * case.batch * case.heads
            moved = tensors * float(np.prod(case.shape)) * DTYPES[case.dtype].itemsize
            fields |= best.fields(median, moved, flops, case.dtype)
        records.append(common | fields)
    return records + [common | {"backend": "kernel"} | fields for fields in derived(seconds)]


def _grown(case: Case, reference: bool, results: Any) -> None:
    """In a process of its own: by how much the forward raises the greatest resident memory."""
    torch.set_num_threads(1)
    q, k, v = case.inputs()
    small = Case(FORWARD, 8, 1, 1, case.dtype, "cpu", True)
    with torch.no_grad(), reference_ops() if reference else contextlib.nullcontext():
        ours(small)(*small.inputs())
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident("VmHWM")
        ours(case)(q, k, v)
        results.put(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {field}")


def memory_records(case: Case, common: record.Record) -> list[record.Record]:
    """Memory that a forward takes beside its inputs, result included; Linux only."""
    if not Path("/proc/self/clear_refs").exists() or why_no_kernel(
        "lambda_attention_forward", torch.empty(0)
    ):
        return []
    found = []
    context = multiprocessing.get_context("spawn")
    for name in ("kernel", "halo"):
        results = context.Queue()
        process = context.Process(target=_grown, args=(case, name == "halo", results))
        process.start()
        grown = results.get(timeout=300)
        process.join()
        fields = {"metric": "extra memory", "backend": name, "pass": FORWARD, "n": 1}
        found.append(common | fields | {"value": grown / 1e6, "unit": "MB", "launch": "launches"})
    return found


def cases(device: str, *, quick: bool) -> list[Case]:
    """Both passes on three grids and the network at 1024 px; on a GPU in bf16 with 12 heads."""
    if quick:
        return [
            Case(part, side, 1, 2, "fp32", device, True)
            for part, side in ((FORWARD, 9), (BOTH, 9), (INFERENCE, 4), (STEP, 4))
        ]
    cuda = device == "cuda"
    sides, heads, dtype = ((64, 128), 12, "bf16") if cuda else ((32, 64, 96), 6, "fp32")
    made = [
        Case(part, s, 1, heads, dtype, device, False) for part in (FORWARD, BOTH) for s in sides
    ]
    batch = 8 if cuda else 1
    return made + [Case(p, 64, batch, 6, dtype, device, False) for p in (INFERENCE, STEP)]


def growth(records: Sequence[record.Record]) -> list[record.Record]:
    """The kernel's forward at 96x96 by that at 64x64: 2.25 times the tokens."""
    times = {
        r["grid"]: r
        for r in records
        if r["metric"] == "time" and r["backend"] == "kernel" and r["pass"] == FORWARD
    }
    if not {64, 96} <= set(times):
        return []
    value = times[96]["value"] / times[64]["value"]
    return [times[96] | {"metric": "time growth from 64x64", "value": value, "unit": "x"}]


def tables(records: Sequence[record.Record]) -> str:
    """Times, ratios with their intervals, and memory."""

    def name(r: record.Record) -> str:
        return f"{r['pass']}, {r['grid']}x{r['grid']} {r['dtype']}, batch {r['shape'][0]}"

    times = [
        [f"{name(r)}: {r['backend']}", f"{r['value']:.1f}"]
        + [f"{r['spread']['q1']:.1f} to {r['spread']['q3']:.1f}"]
        + [f"{100 * r['floor_fraction']:.0f} %" if "floor_fraction" in r else "-"]
        for r in records
        if r["metric"] == "time"
    ]
    ratios = [
        [f"{name(r)}, {r['metric']}", record.number(r["value"])]
        + [f"{record.number(r['low'])} to {record.number(r['high'])}", str(r["n"])]
        for r in records
        if "low" in r
    ]
    memory = [
        [f"{name(r)}: {r['backend']}", f"{r['value']:.1f}"]
        for r in records
        if r["metric"] == "extra memory"
    ]
    best = [r for r in records if r["metric"] == "ceiling"]
    parts = [f"Ceilings: {ceilings.text(best)}."] if best else []
    parts.append(record.table(["attention", "ms", "quartiles", "of the ceiling"], times))
    if ratios:
        parts.append(record.table(["ratio", "x", "95 % bootstrap", "repetitions"], ratios))
    if memory:
        parts.append(record.table(["memory beside the inputs, result included", "MB"], memory))
    return "\n\n".join(parts)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where --compare-with shows a regression."""
    parser = record.parser("attention", __doc__, "9, and 3 of calls of seconds; quick 2")
    parser.add_argument("--no-compile", action="store_true", help="leave FlexAttention out")
    args = record.parse(parser, argv)
    shared = record.start("attention", argv, args) | {"threads": args.threads}
    then = compare.earlier(args, shared)
    path = record.results_file(args.out, "attention")
    print(f"{shared['device']}, torch {shared['torch']}, {kernel_report()}", flush=True)
    records: list[record.Record] = []
    with measure.threads(args.threads):
        made = cases(args.device, quick=args.quick)
        rates = sorted({case.dtype for case in made})
        best, found = ceilings.measure_ceilings(args.device, rates, args.threads, quick=args.quick)
        records += [shared | one for one in found]
        record.append(path, records)
        for case in made:
            print(f"{case.part}, {case.side}x{case.side} {case.dtype}", flush=True)
            slow = case.device == "cpu" and case.part != FORWARD and case.side > 32
            repeats = args.repeats or (2 if args.quick else 3 if slow else 9)
            common = shared | {"shape": case.shape, "grid": case.side, "dtype": case.dtype}
            new = run(case, common, repeats, best, not args.no_compile)
            largest = case == max((c for c in made if c.part == FORWARD), key=lambda c: c.side)
            if largest and args.device == "cpu":
                new += memory_records(case, common)
            record.append(path, new)
            records += new
        last = growth(records)
        record.append(path, last)
    print(f"\n{tables(records)}\n")
    print(findings.verdict(records + last))
    print(f"\n{len(records)} records appended to {path}")
    return compare.finish(then, records)
