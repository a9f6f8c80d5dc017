"""How fast is DEA-Net against plain PyTorch, and how lean?   ibnvision benchmark restoration

Folded inference and a training step, L1 and Adam at learning rate 0, with our operators (kernel),
as published in PyTorch's own (plain), and that compiled. Plain and compiled compute in the format
named; ours chooses its own. Live memory counts tensors and leaves workspace of libraries out.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from ibnvision.models import DEANet
from ibnvision.ops import kernel_report, why_no_kernel

from . import compare, findings, measure, record
from .live_bytes import LiveBytes
from .measure import Call
from .official_dea_net import official
from .op_rows import DTYPES, FORMATS

MODEL = "dea_net"
INFERENCE, TRAINING = "folded inference", "training step"
SMALL: dict[str, Any] = {"width": 8, "depths": (1, 1, 1, 1, 1)}
LIVE_SIZE = 512  # pixels a side


@dataclass(frozen=True)
class Case:
    """What a call works on: a square picture of `size` pixels a side, `batch` times."""

    part: str
    size: int
    batch: int
    device: str
    format: str
    dtype: str
    quick: bool

    def images(self, seed: int) -> Tensor:
        shape = (self.batch, 3, self.size, self.size)
        made = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        return made.to(self.device, DTYPES[self.dtype], memory_format=FORMATS[self.format])

    def network(self) -> DEANet:
        torch.manual_seed(0)
        model: Any = timm.create_model(MODEL, **(SMALL if self.quick else {}))
        model.to(self.device, memory_format=FORMATS[self.format])
        if self.part == TRAINING:
            return model.train()
        return model.fuse().to(DTYPES[self.dtype]).eval()


def inference_call(model: nn.Module, case: Case) -> Call:
    """The image of a folded network as a call without arguments."""
    x = case.images(0)

    def call() -> Tensor:
        with torch.no_grad():
            return model(x)

    return call


def step_call(model: nn.Module, case: Case) -> Call:
    """A whole training step as a call without arguments; half precision by autocast."""
    hazy, clear = (case.images(seed).float() for seed in (0, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    half = case.dtype != "fp32"

    def step() -> None:
        with torch.autocast(case.device, DTYPES[case.dtype], enabled=half):
            loss = nn.functional.l1_loss(model(hazy), clear)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def backends(case: Case, *, compiled: bool) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls by backend, and why a missing one is missing."""
    make = step_call if case.part == TRAINING else inference_call
    ours = case.network()
    plain = official(copy.deepcopy(ours))
    x = case.images(0).to(next(ours.parameters()).dtype)
    calls, skipped = {"plain": make(plain, case)}, {}
    reason = why_no_kernel("content_guided_attention_forward", x)
    if reason:
        skipped["kernel"] = reason
    else:
        with torch.no_grad():
            tolerance = 1e-3 if case.dtype == "fp32" else 5e-2
            torch.testing.assert_close(ours(x), plain(x), rtol=tolerance, atol=tolerance)
        calls["kernel"] = make(ours, case)
    if compiled:

        def rival() -> Call:
            network: Any = torch.compile(copy.deepcopy(plain), dynamic=False)
            return make(network, case)

        measure.add_compiled("compiled", rival, calls, skipped)
    return calls, skipped


def derived(samples: dict[str, measure.Array]) -> list[dict[str, Any]]:
    """How many times faster the kernels are, median of pairs with its bootstrap interval."""
    return measure.derived(
        samples,
        [
            (f"times faster than {rival}", "x", measure.paired_ratio, (rival, "kernel"))
            for rival in ("plain", "compiled")
        ],
    )


def run(case: Case, common: record.Record, repeats: int, compiled: bool) -> list[record.Record]:
    """The records of one case; reasons of skipped backends are printed."""
    calls, skipped = backends(case, compiled=compiled)
    for name, reason in skipped.items():
        print(f"  {name} skipped: {reason}", flush=True)
    seconds, wall, clock = measure.clocked(calls, repeats, case.device, common["threads"], warmup=1)
    common = common | {"pass": case.part, "launch": "launches", "n": repeats}
    records = [
        common
        | {"metric": "time", "backend": name, "value": 1e3 * float(np.median(s)), "unit": "ms"}
        | {"spread": measure.spread(1e3 * s), "clock": clock}
        | {"wall_ms": 1e3 * float(np.median(wall[name]))}
        for name, s in seconds.items()
    ]
    return records + [common | {"backend": "kernel"} | fields for fields in derived(seconds)]


def live_records(case: Case, common: record.Record) -> list[record.Record]:
    """Most bytes a pixel of tensors alive at a time during folded inference, its input included."""
    ours, x = case.network(), case.images(0)
    found = []
    for name, model in (("kernel", ours), ("plain", official(copy.deepcopy(ours)))):
        with torch.no_grad(), LiveBytes(x) as live:
            model(x)
        fields = {"metric": "live", "backend": name, "pass": case.part, "launch": "launches"}
        value = live.peak / case.size**2 / case.batch
        found.append(common | fields | {"value": value, "unit": "bytes/pixel", "n": 1})
    return found


def cases(device: str, *, quick: bool) -> list[Case]:
    """Folded inference at two sizes and a training step; on a GPU in bf16 and channels_last."""
    cuda = device == "cuda"
    dtype = "bf16" if cuda else "fp32"
    formats = ("channels_last",) if cuda else tuple(FORMATS)
    shapes = [(INFERENCE, 32 if quick else 256, 1), (TRAINING, 32 if quick else 128, 2)]
    if not quick:
        shapes.insert(1, (INFERENCE, 1024, 1))
        if cuda:
            shapes = [(part, size, 16 if size < 1024 else 1) for part, size, _ in shapes]
    return [Case(*shape, device, form, dtype, quick) for form in formats for shape in shapes]


def tables(records: Sequence[record.Record]) -> str:
    """Times, ratios with their intervals, and live memory."""

    def name(r: record.Record) -> str:
        n, _, height, width = r["shape"]
        return f"{r['pass']} {n}x{height}x{width} {r['dtype']} {r['format']}: {r['backend']}"

    times = [
        [name(r), f"{r['value']:.1f}", f"{r['spread']['q1']:.1f} to {r['spread']['q3']:.1f}"]
        for r in records
        if r["metric"] == "time"
    ]
    ratios = [r for r in records if r["metric"].startswith("times faster")]
    live = [[name(r), f"{r['value']:.0f}"] for r in records if r["metric"] == "live"]
    parts = [record.table([MODEL, "ms", "quartiles"], times)]
    if ratios:
        names = [f"{name(r)}, {r['metric']}" for r in ratios]
        parts.append(record.interval_table("ratio", names, ratios))
    if live:
        parts.append(record.table(["live tensors at the peak", "bytes a pixel"], live))
    return "\n\n".join(parts)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where --compare-with shows a regression."""
    parser = record.parser("restoration", __doc__, "9, and 3 at 1024 pixels; quick 2")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    args = record.parse(parser, argv)
    shared = record.start("restoration", argv, args) | {"model": MODEL, "threads": args.threads}
    then = compare.earlier(args, shared)
    path = record.results_file(args.out, "restoration")
    print(f"{shared['device']}, torch {shared['torch']}, {kernel_report()}", flush=True)
    records = []
    with measure.threads(args.threads):
        for case in cases(args.device, quick=args.quick):
            print(f"{case.part} {case.format}, batch {case.batch}, {case.size} px", flush=True)
            repeats = args.repeats or (2 if args.quick else 3 if case.size > 512 else 9)
            common = shared | {"shape": [case.batch, 3, case.size, case.size]}
            common |= {"dtype": case.dtype, "format": case.format}
            new = run(case, common, repeats, not args.no_compile)
            if case.part == INFERENCE and case.size == (32 if args.quick else 256):
                side = case.size if args.quick else LIVE_SIZE
                one = Case(INFERENCE, side, 1, *tuple(vars(case).values())[3:])
                new += live_records(one, common | {"shape": [1, 3, side, side]})
            record.append(path, new)
            records += new
    print(f"\n{tables(records)}\n")
    print(findings.verdict(records))
    print(f"\n{len(records)} records appended to {path}")
    return compare.finish(then, records)
