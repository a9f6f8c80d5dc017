"""How fast is each op against the official layer, plain and compiled?   ibnvision benchmark ops

The unit is the copy: the time of y.copy_(x) on the same tensor, measured in the same repetitions.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibnvision.layers import IBNAct2d
from ibnvision.ops import kernel_report, reference_ops, why_no_kernel
from ibnvision.testing import assert_close

from . import measure, record, targets

Call = Callable[[], object]
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PASSES = ("forward", "forward+backward", "eval")
BACKENDS = ("kernel", "eager", "fallback", "compiled", "copy")


class OfficialIBN(nn.Module):
    """The published layer and its ReLU, act(norm(x) + residual), in PyTorch's own operators.

    Source: ibnnet/modules.py of the official repository; the ReLU is not in place.
    """

    def __init__(self, channels: int, ratio: float = 0.5) -> None:
        super().__init__()
        self.instance_channels = int(channels * ratio)
        self.IN = nn.InstanceNorm2d(self.instance_channels, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.instance_channels)
        self.act = nn.ReLU(inplace=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: [N, C, H, W] with an even C."""
        first, second = torch.split(x, self.instance_channels, 1)
        y = torch.cat((self.IN(first.contiguous()), self.BN(second.contiguous())), 1)
        return self.act(y if residual is None else y + residual)


@dataclass(frozen=True)
class Op:
    """One row: our layer, its rival with the same state-dict keys, and shapes of real models."""

    layer: Callable[[int], nn.Module]
    official: Callable[[int], nn.Module]
    cpu_shapes: tuple[tuple[int, ...], ...]
    cuda_shapes: tuple[tuple[int, ...], ...]
    quick_shapes: tuple[tuple[int, ...], ...]
    traffic: dict[str, float]  # least reads + writes of the tensor a pass, for the bandwidth


# forward: IN 1 read + 1 write, BN 2 + 1; backward: IN 2 + 1, BN 4 + 1; half the channels each
IBN_TRAFFIC = {"forward": 2.5, "forward+backward": 6.5}
OPS = {
    "ibn_norm": Op(
        layer=lambda channels: IBNAct2d(channels, inplace=False),
        official=OfficialIBN,
        cpu_shapes=((8, 64, 56, 56), (8, 256, 56, 56), (8, 512, 14, 14), (2, 256, 128, 256)),
        cuda_shapes=((64, 64, 112, 112), (64, 256, 56, 56), (64, 512, 28, 28), (2, 256, 512, 1024)),
        quick_shapes=((2, 64, 28, 28),),
        traffic=IBN_TRAFFIC,
    )
}


@dataclass(frozen=True)
class Case:
    """One tensor that all backends get."""

    op: str
    shape: tuple[int, ...]
    dtype: str
    format: str
    device: str

    def tensor(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(self.shape, generator=generator) * 2 + 1
        return values.to(self.device, DTYPES[self.dtype], memory_format=FORMATS[self.format])


def pass_call(module: Any, x: Tensor, dy: Tensor, name: str) -> Call:
    """`name` of PASSES as a call without arguments; x requires a gradient.

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


def backends(case: Case, name: str, *, compiled: bool) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of one pass by backend, and why the missing ones are missing."""
    op = OPS[case.op]
    x, dy = case.tensor(0).requires_grad_(), case.tensor(1)
    official = op.official(case.shape[1]).to(case.device).train(name != "eval")
    layer = op.layer(case.shape[1]).to(case.device).train(name != "eval")
    layer.load_state_dict(official.state_dict())
    target = torch.empty_like(x)
    calls: dict[str, Call] = {
        "eager": pass_call(official, x, dy, name),
        "fallback": in_reference(pass_call(layer, x, dy, name)),
        "copy": lambda: target.copy_(x.detach()),
    }
    skipped = {}
    reason = why_no_kernel(f"{case.op}_forward", x)
    if reason:
        skipped["kernel"] = reason
    else:
        with torch.no_grad():
            expected = copy.deepcopy(official)(x)
            assert_close(copy.deepcopy(layer)(x), expected, DTYPES[case.dtype])
        calls["kernel"] = pass_call(layer, x, dy, name)
    if compiled:
        torch._dynamo.reset()
        graph = torch.compile(copy.deepcopy(official), dynamic=False)
        try:
            pass_call(graph, x, dy, name)()
            calls["compiled"] = pass_call(graph, x, dy, name)
        except Exception as error:  # a compiler that is missing or fails must not end the others
            skipped["compiled"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    else:
        skipped["compiled"] = "--no-compile"
    return {backend: calls[backend] for backend in BACKENDS if backend in calls}, skipped


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
    """Kept bytes of the norm and the activation, without and with a residual."""
    op = OPS[case.op]
    x, residual = case.tensor(0).requires_grad_(), case.tensor(1).requires_grad_()
    modules = {"eager": op.official(case.shape[1]).to(case.device)}
    if not why_no_kernel(f"{case.op}_forward", x):
        modules["kernel"] = op.layer(case.shape[1]).to(case.device)
    parts = {"norm+act": (x,), "norm+residual+act": (x, residual)}
    return [
        common
        | {"metric": "kept", "backend": backend, "pass": part, "launch": "launches"}
        | {"value": kept_bytes(module, *inputs), "unit": "bytes", "n": 1}
        for backend, module in modules.items()
        for part, inputs in parts.items()
    ]


def time_records(
    case: Case, common: record.Record, *, repeats: int, compiled: bool
) -> list[record.Record]:
    """All passes and backends on one tensor; the reason of a skipped backend is printed."""
    records = []
    for name in PASSES:
        calls, skipped = backends(case, name, compiled=compiled)
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
            records += [
                common
                | {"metric": "time", "pass": name, "launch": launch, "backend": backend}
                | fields
                for backend, fields in _timed(case, group, repeats, common["threads"]).items()
            ]
    return records


def _timed(case: Case, calls: dict[str, Call], repeats: int, threads: int) -> dict[str, dict]:
    if case.device == "cuda":
        samples = measure.interleave_cuda(calls, repeats)
        return {name: _fields(s, s, "CUDA events") for name, s in samples.items()}
    column, clock = (
        (measure.CPU, "process CPU time") if threads == 1 else (measure.WALL, "wall time")
    )
    return {
        name: _fields(s[:, column], s[:, measure.WALL], clock)
        for name, s in measure.interleave(calls, repeats).items()
    }


def _fields(seconds: measure.Array, wall: measure.Array, clock: str) -> dict[str, Any]:
    return {
        "value": 1e3 * float(np.median(seconds)),
        "unit": "ms",
        "spread": measure.spread(1e3 * seconds),
        "n": len(seconds),
        "clock": clock,
        "wall_ms": 1e3 * float(np.median(wall)),
    }


def tables(records: Sequence[record.Record]) -> str:
    """Per dtype, format and launch: the backends in copies, and the kernel's advantage."""
    times = [r for r in records if r["metric"] == "time"]
    parts = []
    for key in sorted({(r["dtype"], r["format"], r["launch"]) for r in times}):
        group = [r for r in times if (r["dtype"], r["format"], r["launch"]) == key]
        cuda = group[0]["device_type"] == "cuda"
        header = ["pass, shape", "kernel ms"]
        header += [f"{name}, copies" for name in BACKENDS[:-1]]
        header += ["eager / kernel", "compiled / kernel"] + (
            ["% of copy bandwidth"] if cuda else []
        )
        rows = []
        for name in PASSES:
            cases: dict[tuple, dict[str, float]] = {}
            for r in group:
                if r["pass"] == name:
                    cases.setdefault(tuple(r["shape"]), {})[r["backend"]] = r["value"]
            traffic = OPS[group[0]["op"]].traffic.get(name, math.nan) if cuda else None
            rows += [_row(f"{name} {shape}", v, traffic) for shape, v in cases.items()]
            if len(cases) > 1:
                rows.append(_mean_row(f"{name}, geometric mean", list(cases.values()), traffic))
        dtype, form, launch = key
        title = f"{dtype}, {form}" + (
            f", {launch}" if cuda else f", {group[0]['threads']} thread(s)"
        )
        parts.append(f"**{title}**\n\n{record.table(header, rows)}")
    kept = [r for r in records if r["metric"] == "kept"]
    if kept:
        parts.append(_kept_table(kept))
    return "\n\n".join(parts)


def _ratio(values: dict[str, float], top: str, bottom: str) -> float:
    return values[top] / values[bottom] if {top, bottom} <= set(values) else math.nan


def _columns(values: dict[str, float], traffic: float | None) -> list[float]:
    columns = [_ratio(values, name, "copy") for name in BACKENDS[:-1]]
    columns += [_ratio(values, name, "kernel") for name in ("eager", "compiled")]
    if traffic is not None:
        columns.append(100 * traffic / 2 * _ratio(values, "copy", "kernel"))
    return columns


def _row(title: str, values: dict[str, float], traffic: float | None) -> list[str]:
    return [title, _number(values.get("kernel", math.nan))] + [
        _number(c) for c in _columns(values, traffic)
    ]


def _mean_row(title: str, cases: list[dict[str, float]], traffic: float | None) -> list[str]:
    columns = zip(*(_columns(values, traffic) for values in cases), strict=True)
    return [title, ""] + [_number(measure.geometric_mean(column)) for column in columns]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _kept_table(kept: list[record.Record]) -> str:
    cases: dict[tuple, dict[str, float]] = {}
    for r in kept:
        key = (r["dtype"], r["format"], r["pass"], tuple(r["shape"]))
        cases.setdefault(key, {})[r["backend"]] = r["value"]
    rows = [
        [f"{dtype} {form} {part} {shape}"]
        + [f"{v[b] / 2**20:.1f}" if b in v else "-" for b in ("kernel", "eager")]
        + [_number(_ratio(v, "kernel", "eager"))]
        for (dtype, form, part, shape), v in cases.items()
    ]
    return "**Kept for the backward**\n\n" + record.table(
        ["tensor", "kernel MiB", "eager MiB", "kernel / eager"], rows
    )


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0 when it ran, whatever it found."""
    parser = record.parser("ops", __doc__, "15; quick 3")
    parser.add_argument("--op", choices=sorted(OPS), default="ibn_norm")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), action="append", help="default: fp32; CUDA also bf16"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    args = record.parse(parser, argv)
    cuda, op = args.device == "cuda", OPS[args.op]
    shapes = op.quick_shapes if args.quick else op.cuda_shapes if cuda else op.cpu_shapes
    dtypes = args.dtype or (["fp32", "bf16"] if cuda else ["fp32"])
    repeats = args.repeats or (3 if args.quick else 15)
    shared = record.environment("ops", argv, args.device, quick=args.quick)
    path = record.results_file(args.out, "ops")
    print(f"{shared['device']}, torch {shared['torch']}, {kernel_report()}", flush=True)
    before, records = torch.get_num_threads(), []
    torch.set_num_threads(args.threads)
    try:
        for case in (
            Case(args.op, shape, dtype, form, args.device)
            for dtype in dtypes
            for form in FORMATS
            for shape in shapes
        ):
            print(f"{case.dtype} {case.format} {case.shape}", flush=True)
            common = shared | {"op": case.op, "shape": list(case.shape), "dtype": case.dtype}
            common |= {"format": case.format, "threads": args.threads}
            new = time_records(case, common, repeats=repeats, compiled=not args.no_compile)
            new += kept_records(case, common)
            record.append(path, new)
            records += new
    finally:
        torch.set_num_threads(before)
    print(f"\n{tables(records)}\n")
    print(targets.verdict(records))
    print(f"\n{len(records)} records appended to {path}")
    return 0
