"""How fast is each op against the official layer, plain and compiled?   ibnvision benchmark ops

The unit is the copy: the time of y.copy_(x) on the same tensor, measured in the same repetitions.
"""

import copy
import itertools
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibnvision.ops import kernel_report, reference_ops, why_no_kernel
from ibnvision.testing import TOLERANCE

from . import ceilings, compare, findings, measure, op_tables, record, rivals
from .measure import Call
from .op_rows import DTYPES, FORMATS, OPS, TIMED, Case
from .rivals import COMPILED, wanted


def pass_call(module: Any, x: Tensor, dy: Tensor, name: str) -> Call:
    """The pass `name` as a call without arguments; x requires a gradient.

    The forward alone, in training mode too, runs without autograd: a compiled module that records
    also writes masks for its backward, at several times the cost; that belongs to the second pass.
    """
    leaves = [x, *module.parameters()]

    def forward() -> Tensor:
        with torch.no_grad():
            return module(x)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(module(x), leaves, dy)

    return both if name == "forward+backward" else forward


def in_reference(call: Call) -> Call:
    """The call with every op in plain PyTorch."""

    def run() -> object:
        with reference_ops():
            return call()

    return run


def graphed(call: Call) -> Call:
    """The call as the replay of a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def check(case: Case, layer: nn.Module, official: nn.Module, x: Tensor) -> None:
    """AssertionError where our layer does not compute what the official one does.

    On the device: the large cases would take minutes elsewhere. Where parameters are in half
    precision too, both err: ours at most twice as far from float32 as the official layer.
    """
    rtol, atol = TOLERANCE[DTYPES[case.dtype]]
    with torch.no_grad():
        ours, theirs = (copy.deepcopy(module)(x) for module in (layer, official))
        if OPS[case.op].cast and case.dtype != "fp32":
            true = copy.deepcopy(official).float()(x.float())
            rtol, atol = 0.0, atol + 2 * float((theirs - true).abs().max())
            theirs = true
    torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=rtol, atol=atol)


def backends(
    case: Case, name: str, *, compiled: bool, against: Collection[str] | None = None
) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of one pass by backend, and why the missing ones are missing.

    against: the rivals that are wanted, None for all; others are left out without a word.
    """
    op = OPS[case.op]
    x, dy = case.tensor(0).requires_grad_(), case.tensor(1)
    official, layer = (case.module(m) for m in (op.official, op.layer))
    layer.load_state_dict(official.state_dict())
    official.train(name != "eval")
    layer.train(name != "eval")
    target = torch.empty_like(x)
    calls: dict[str, Call] = {}
    skipped = {}
    reason = why_no_kernel(case.kernel, x)
    if reason:
        skipped["kernel"] = reason
    else:
        check(case, layer, official, x.detach())
        calls["kernel"] = pass_call(layer, x, dy, name)
    calls["eager"] = pass_call(official, x, dy, name)
    calls["fallback"] = in_reference(pass_call(layer, x, dy, name))
    tried: dict[str, Callable[[], Any]] = {
        "compiled": lambda: torch.compile(copy.deepcopy(official), dynamic=False)
    }
    for rival, make in op.rivals.items():
        tried[rival] = lambda make=make: case.module(make).train(name != "eval")  # type: ignore[misc]
    tried = {rival: module for rival, module in tried.items() if wanted(rival, against)}
    for backend in sorted(COMPILED & set(tried)) * (not compiled):
        del tried[backend]
        skipped[backend] = "--no-compile, or no time left for it"
    if COMPILED & set(tried):
        torch._dynamo.reset()
    for backend, module in tried.items():
        try:
            call = pass_call(module(), x, dy, name)
            call()
            calls[backend] = call
        except Exception as error:  # one that is missing or fails must not end the others
            skipped[backend] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    calls["copy"] = lambda: target.copy_(x.detach())
    return calls, skipped


def kept_bytes(call: Callable[..., Tensor], *inputs: Tensor) -> int:
    """Bytes of activations that `call` keeps for its backward, each storage once.

    Parameters and buffers are left out; x counts where it is kept.
    """
    activations = (
        max(i.untyped_storage().nbytes() for i in inputs) // 64
    )  # masks count, statistics do not
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.nbytes() >= activations:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = call(*inputs)
        total = sum(kept.values())
    del y
    return total


def kept_records(case: Case, common: record.Record) -> list[record.Record]:
    """Kept bytes of the row's calls; for a norm: without and with a residual."""
    op = OPS[case.op]
    x, residual = case.tensor(0).requires_grad_(), case.tensor(1).requires_grad_()
    modules = {"eager": case.module(op.official)}
    if not why_no_kernel(case.kernel, x):
        modules["kernel"] = case.module(op.layer)
    parts = {name: (x, residual)[:count] for name, count in op.kept.items()}
    return [
        common
        | {"metric": "kept", "backend": backend, "pass": part, "launch": "launches"}
        | {"value": kept_bytes(module, *inputs), "unit": "bytes", "n": 1}
        for backend, module in modules.items()
        for part, inputs in parts.items()
    ]


def time_records(
    case: Case,
    common: record.Record,
    best: ceilings.Ceilings,
    *,
    repeats: int,
    compiled: bool,
    against: Collection[str] | None,
) -> list[record.Record]:
    """All passes and backends on one tensor; the reason of a skipped backend is printed."""
    records = []
    for name in OPS[case.op].passes:
        calls, skipped = backends(case, name, compiled=compiled, against=against)
        for backend, reason in skipped.items():
            print(f"  {backend} skipped for {name}: {reason}", flush=True)
        launches = {"launches": calls}
        if case.device == "cuda":
            launches["graph"] = graphs = {}
            for backend, call in calls.items():
                try:
                    graphs[backend] = graphed(call)
                except RuntimeError as error:
                    print(f"  {backend} skipped for {name}, graph: {str(error).splitlines()[0]}")
        for launch, group in launches.items():
            timed, wall, clock = measure.clocked(group, repeats, case.device, common["threads"])
            records += [
                common
                | {"metric": "time", "pass": name, "launch": launch, "backend": backend}
                | {"value": 1e3 * float(np.median(seconds)), "unit": "ms", "clock": clock}
                | {"spread": measure.spread(1e3 * seconds), "n": len(seconds)}
                | {"wall_ms": 1e3 * float(np.median(wall[backend]))}
                | _floor(case, name, backend, float(np.median(seconds)), best)
                for backend, seconds in timed.items()
            ]
    return records


def _floor(
    case: Case, name: str, backend: str, seconds: float, best: ceilings.Ceilings
) -> dict[str, Any]:
    """Bytes, operations and floor by time, for the backends that compute the row's function."""
    op = OPS[case.op]
    if backend in op.rivals and backend not in op.same:
        return {}
    size = case.size * DTYPES[case.dtype].itemsize
    if backend == "copy":
        return best.fields(seconds, 2.0 * size, 0.0, case.rate)
    work = op.operations(name, case.shape)
    return best.fields(seconds, op.traffic[name] * size, work, case.rate)


def cases(
    names: Sequence[str],
    dtypes: Sequence[str],
    device: str,
    *,
    quick: bool,
    formats: Collection[str] = tuple(FORMATS),
) -> list[Case]:
    """Every row's shapes for this device, in every dtype and in those formats that it has."""
    found = []
    for name in names:
        op = OPS[name]
        shapes = op.quick_shapes if quick else getattr(op, f"{device}_shapes")
        known = [form for form in op.formats if form in formats]
        each = itertools.product(dtypes, known, shapes)
        found += [Case(name, shape, dtype, form, device) for dtype, form, shape in each]
    return found


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where --compare-with shows a regression."""
    parser = record.parser("ops", __doc__, "15; quick 3")
    parser.add_argument("--op", choices=sorted(OPS), action="append", help="default: all")
    rivals.add_options(parser, "fp32; CUDA also bf16", "both, where a row has both")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--compile-minutes", type=float, metavar="M", help="leave it out of what starts later"
    )
    args = record.parse(parser, argv)
    names = args.op or sorted(OPS)
    dtypes, formats = args.dtype or TIMED[args.device], args.format
    against = rivals.chosen(args.against)
    repeats = args.repeats or (3 if args.quick else 15)
    start, limit = time.monotonic(), 60 * (args.compile_minutes or float("inf"))
    shared = record.start("ops", argv, args) | rivals.cudnn(args.device)
    then = compare.earlier(args, shared)
    path = record.results_file(args.out, "ops")
    print(f"{shared['device']}, torch {shared['torch']}, {kernel_report()}", flush=True)
    present = {"compiled", *(rival for name in names for rival in OPS[name].rivals)}
    for reason in rivals.absent(args.against, present, args.device):
        print(reason, flush=True)
    with measure.threads(args.threads):
        made = cases(names, dtypes, args.device, quick=args.quick, formats=formats or FORMATS)
        rates = sorted({*dtypes, *(case.rate for case in made)})
        best, found = ceilings.measure_ceilings(args.device, rates, args.threads, quick=args.quick)
        records = [shared | {"threads": args.threads} | one for one in found]
        record.append(path, records)
        for case in made:
            print(f"{case.op} {case.dtype} {case.format} {case.shape}", flush=True)
            common = shared | {"op": case.op, "shape": list(case.shape), "dtype": case.dtype}
            common |= {"format": case.format, "threads": args.threads}
            compiled = not args.no_compile and time.monotonic() - start < limit
            new = time_records(
                case, common, best, repeats=repeats, compiled=compiled, against=against
            )
            new += kept_records(case, common)
            record.append(path, new)
            records += new
    print(f"\n{op_tables.tables(records)}\n")
    print(findings.verdict(records))
    print(f"\n{len(records)} records appended to {path}")
    return compare.finish(then, records)
