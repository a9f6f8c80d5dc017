"""What do norms, activations and residual adds cost a training step?   ibnvision benchmark models

Four networks with the same convolutions: ours with kernels, ours in plain PyTorch (fallback),
timm's plain ResNet, and the bare one, without norms, activations and residual adds. Recovered
share = (fallback - kernel) / (fallback - bare), of medians. A step is forward, cross entropy,
backward and SGD with momentum at learning rate 0.

With --what table: what our networks cost beside their counterparts, see model_costs.py.
"""

import argparse
import contextlib
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ibnvision.models  # noqa: F401  registers the names
from ibnvision.ops import kernel_report, reference_ops, why_no_kernel

from . import ceilings, compare, findings, measure, model_tables, record, rivals
from .measure import Call
from .op_rows import DTYPES, FORMATS


class _Join(torch.autograd.Function):
    """The residual sum without its cost: passes `main` on, and its gradient to both."""

    @staticmethod
    def forward(ctx: Any, main: Tensor, shortcut: Tensor) -> Tensor:
        return main.view_as(main)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        return dy, dy


class BareBlock(nn.Module):
    """The convolutions of a timm residual block and nothing else.

    An identity shortcut is left out; one with a convolution runs, forward and backward.
    """

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        names = ("conv1", "conv2", "conv3")
        self.main = nn.Sequential(*(getattr(block, n) for n in names if hasattr(block, n)))
        downsample = block.downsample
        self.shortcut = None if downsample is None else strip(downsample)

    def forward(self, x: Tensor) -> Tensor:
        main = self.main(x)
        return main if self.shortcut is None else _Join.apply(main, self.shortcut(x))


def strip(module: nn.Module) -> nn.Module:
    """Replace norms and activations inside `module` by identities, residual blocks by bare ones."""
    for name, child in module.named_children():
        if isinstance(child, (BasicBlock, Bottleneck)):
            setattr(module, name, BareBlock(child))
        elif isinstance(child, (nn.BatchNorm2d, nn.ReLU)):
            setattr(module, name, nn.Identity())
        else:
            strip(child)
    return module


@dataclass(frozen=True)
class Setup:
    """What a step works on."""

    model: str
    plain: str
    size: int
    batch: int
    device: str
    format: str
    dtype: str


def step_call(model: nn.Module, setup: Setup, *, reference: bool = False) -> Call:
    """A whole training step as a call without arguments."""
    layout = FORMATS[setup.format]
    model = model.to(setup.device).to(memory_format=layout).train()
    generator = torch.Generator().manual_seed(0)
    shape = (setup.batch, 3, setup.size, setup.size)
    images = torch.randn(shape, generator=generator).to(setup.device, memory_format=layout)
    labels = torch.randint(0, 1000, (setup.batch,), generator=generator).to(setup.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    half = setup.dtype != "fp32"

    def step() -> None:
        with reference_ops() if reference else contextlib.nullcontext():
            with torch.autocast(setup.device, DTYPES[setup.dtype], enabled=half):
                loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def variants(
    setup: Setup, *, compiled: bool, against: Collection[str] | None = None
) -> tuple[dict[str, Call], dict[str, str]]:
    """The steps by variant, and why a missing one is missing; against: as `rivals.chosen` gives."""

    def ours() -> nn.Module:
        return timm.create_model(setup.model)

    calls = {
        "fallback": step_call(ours(), setup, reference=True),
        "bare": step_call(strip(timm.create_model(setup.plain)), setup),
    }
    if rivals.wanted("timm", against):
        calls["timm"] = step_call(timm.create_model(setup.plain), setup)
    skipped = {}
    probe = torch.empty(0, device=setup.device, dtype=DTYPES[setup.dtype])
    reason = why_no_kernel("ibn_norm_forward", probe)
    if reason:
        skipped["kernel"] = reason
    else:
        calls["kernel"] = step_call(ours(), setup)
    if compiled:

        def fallback() -> Call:
            network: Any = torch.compile(ours())
            return step_call(network, setup, reference=True)

        measure.add_compiled("compiled fallback", fallback, calls, skipped)
    return calls, skipped


def recovered(fallback: measure.Array, kernel: measure.Array, bare: measure.Array) -> float:
    """Percent of what norms, activations and adds cost the fallback; samples by repetition.

    Of medians over repetitions, each divided by its level before, the geometric mean of its three
    samples. A load that slows a whole repetition so cancels; in a ratio of differences of numbers
    near each other it would be most of the noise. Of 132 repetitions on a busy CPU, drawn 11 at a
    time, 95 % of the values span 57 points, by the medians as they are 97.
    """
    level = np.cbrt(fallback * kernel * bare)
    slow, fast, floor = (float(np.median(s / level)) for s in (fallback, kernel, bare))
    return 100 * (slow - fast) / (slow - floor)


def derived(samples: dict[str, measure.Array], device: str) -> list[dict[str, Any]]:
    """Numbers of several variants with their bootstrap intervals, as fields of records."""
    ratio = measure.paired_ratio
    asked: list[tuple[str, str, Callable[..., float], tuple[str, ...]]] = [
        ("recovered", "%", recovered, ("fallback", "kernel", "bare"))
    ]
    if device == "cuda":
        for name, rival in (
            ("fallback", "fallback"),
            ("compiled fallback", "compiled fallback"),
            ("timm's resnet50", "timm"),
        ):
            asked.append((f"times faster than {name}", "x", ratio, (rival, "kernel")))
    else:
        asked.append(("time by timm's resnet50", "x", ratio, ("kernel", "timm")))
        asked.append(("time by the fallback", "x", ratio, ("kernel", "fallback")))
    return measure.derived(samples, asked)


def step_flops(setup: Setup) -> int:
    """Operations of the matrix products and convolutions of a step, the same in all variants."""
    with FlopCounterMode(display=False) as counter:
        step_call(strip(timm.create_model(setup.plain)), setup)()
    return counter.get_total_flops()


def run(
    setup: Setup,
    common: record.Record,
    best: ceilings.Ceilings,
    repeats: int,
    compiled: bool,
    against: Collection[str] | None,
) -> list[record.Record]:
    """The records of one format; reasons of skipped variants are printed."""
    calls, skipped = variants(setup, compiled=compiled, against=against)
    for name, reason in skipped.items():
        print(f"  {name} skipped: {reason}", flush=True)
    flops = step_flops(setup)
    seconds, wall, clock = measure.clocked(
        calls, repeats, setup.device, common["threads"], warmup=3
    )
    common = common | {"pass": "training step", "launch": "launches", "n": repeats}
    records = [
        common
        | {"metric": "time", "backend": name, "value": 1e3 * float(np.median(s)), "unit": "ms"}
        | {"spread": measure.spread(1e3 * s), "clock": clock}
        | {"wall_ms": 1e3 * float(np.median(wall[name]))}
        | {"images_per_s": setup.batch / float(np.median(wall[name]))}
        | best.fields(float(np.median(s)), 0.0, flops, setup.dtype)
        for name, s in seconds.items()
    ]
    return records + [
        common | {"backend": "kernel"} | fields for fields in derived(seconds, setup.device)
    ]


def tables(records: Sequence[record.Record]) -> str:
    """Per format the steps of all variants, then the derived numbers with their intervals.

    Of a run with --what table its own tables.
    """
    if records[0].get("what") == "table":
        return model_tables.tables(records)
    header = ["training step", "ms", "quartiles", "images/s (wall)"]
    rows = [
        [f"{r['model']} {r['dtype']} {r['format']}: {r['backend']}", f"{r['value']:.1f}"]
        + [f"{r['spread']['q1']:.1f} to {r['spread']['q3']:.1f}", f"{r['images_per_s']:.1f}"]
        for r in records
        if r["metric"] == "time"
    ]
    found = [r for r in records if r["metric"] not in ("time", "ceiling")]
    best = [r for r in records if r["metric"] == "ceiling"]
    text = record.table(header, rows)
    if best:
        text = f"Ceilings: {ceilings.text(best)}.\n\n{text}"
    if found:
        names = [f"{r['model']} {r['dtype']} {r['format']}: {r['metric']}" for r in found]
        text += "\n\n" + record.interval_table("kernel", names, found)
    return text


def run_steps(args: argparse.Namespace, shared: record.Record, path: Path) -> list[record.Record]:
    """The steps in every dtype and format, appended to a file as they are made."""
    cuda, against = args.device == "cuda", rivals.chosen(args.against)
    names = ("resnet18_ibn_a", "resnet18") if args.quick else ("resnet50_ibn_a", "resnet50")
    size, batch = (64, 2) if args.quick else (224, 128) if cuda else (128, 8)
    repeats = args.repeats or (3 if args.quick else 15)
    dtypes = args.dtype or ["bf16" if cuda else "fp32"]
    formats = args.format or (["channels_last"] if cuda else list(FORMATS))
    compiled = (cuda or args.compile) and rivals.wanted("compiled fallback", against)
    compiled |= against is not None and "compiled fallback" in against
    shared = shared | {"what": "step", "threads": args.threads}
    best, found = ceilings.measure_ceilings(args.device, dtypes, args.threads, quick=args.quick)
    records = [shared | one for one in found]
    record.append(path, records)
    for dtype, form in itertools.product(dtypes, formats):
        setup = Setup(*names, size, batch, args.device, form, dtype)
        print(f"{setup.model} {dtype} {form}, batch {batch}, {size} px", flush=True)
        common = shared | {"model": setup.model, "shape": [batch, 3, size, size]}
        common |= {"dtype": setup.dtype, "format": form}
        new = run(setup, common, best, repeats, compiled, against)
        record.append(path, new)
        records += new
    return records


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where --compare-with shows a regression."""
    parser = record.parser("models", __doc__, "15, of a table 5; quick 3 and 2")
    parser.add_argument(
        "--what",
        choices=("step", "table"),
        default="step",
        help="step: the shares of a training step; table: latency, speed and memory of networks",
    )
    parser.add_argument(
        "--model", metavar="NAME", action="append", help="a row of the table; default: all"
    )
    kinds = "fp32, on CUDA bf16", "step: both, on CUDA channels_last; table: channels_last"
    rivals.add_options(parser, *kinds)
    parser.add_argument(
        "--compile", action="store_true", help="step: also the compiled fallback; always on CUDA"
    )
    parser.add_argument(
        "--compile-minutes",
        type=float,
        metavar="M",
        help="table: begin no compiling after so many spent on it; default 2, on CUDA no limit",
    )
    args = record.parse(parser, argv)
    if args.model and args.what == "step":
        parser.error("--model chooses rows of --what table; a step is of one network")
    shared = record.start("models", argv, args)
    then = compare.earlier(args, shared)
    path = record.results_file(args.out, "models")
    print(f"{shared['device']}, torch {shared['torch']}, {kernel_report()}", flush=True)
    with measure.threads(args.threads):
        if args.what == "table":
            from .model_runs import run_table  # it needs this file's bare network

            records = run_table(args, shared, path)
        else:
            records = run_steps(args, shared, path)
    print(f"\n{tables(records)}\n")
    print(findings.verdict(records))
    print(f"\n{len(records)} records appended to {path}")
    return compare.finish(then, records)
