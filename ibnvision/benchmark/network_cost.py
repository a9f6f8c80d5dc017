"""What norms, activations and residual adds cost a whole network: the part that is alike for all.

A training step, with SGD with momentum at learning rate 0, and inference. Four networks with the
same convolutions: ours with kernels, ours in plain PyTorch (fallback), timm's modules with plain
batch norm (plain), and the bare one, without norms, activations and residual adds. Recovered
share: see `models.recovered`.

In inference, kernel is the network as layers.fold_norm leaves it: batch norms inside convolutions,
3x3 ones by the op conv3x3. As that op is faster than the convolution of the bare network, the share
may pass 100 %. Two more variants tell the parts apart: folded fallback, the same network in plain
PyTorch, and unfolded, ours with kernels as it was trained.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibnvision.layers import fold_norm
from ibnvision.ops import kernel_report, reference_ops, why_no_kernel

from . import compare, findings, measure, models, record
from .measure import Call
from .model_tables import INFERENCE, TRAINING
from .op_rows import DTYPES, FORMATS


@dataclass(frozen=True)
class Setup:
    """What a call works on; the names of the backbones with IBN-b and without."""

    model: str
    plain: str
    part: str
    size: int
    batch: int
    device: str
    format: str
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, 3, self.size, self.size


@dataclass(frozen=True)
class Subject:
    """A kind of network.

    bench, title: names of the question and, in records behind the backbone's, of the network.
    make: (backbone, setup, further arguments) -> the network, on the CPU. batch: setup -> what loss
    and infer take beside the network. core: the part whose norms, activations and adds are judged.
    sizes: (pixels, batch) of a quick run, one on CUDA and one on the CPU.
    """

    bench: str
    title: str
    make: Callable[..., nn.Module]
    batch: Callable[[Setup], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    infer: Callable[[nn.Module, Any], object]
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    core: Callable[[Any], nn.Module] = lambda network: network

    def network(self, setup: Setup, backbone: str, **options: Any) -> nn.Module:
        """On the device of a setup, in its format and mode, always of the same weights."""
        torch.manual_seed(0)
        made = self.make(backbone, setup, **options)
        made.to(setup.device).to(memory_format=FORMATS[setup.format])
        return made.train(setup.part == TRAINING)

    def bare(self, setup: Setup) -> nn.Module:
        """Without norms, activations and residual adds in the core."""
        made = self.network(setup, setup.plain, fused=False)
        models.strip(self.core(made))
        return made

    def folded(self, setup: Setup) -> nn.Module:
        """Our network with the batch norms of the core folded, for inference."""
        made = self.network(setup, setup.model)
        fold_norm(self.core(made))
        return made


def call_of(subject: Subject, model: nn.Module, setup: Setup, *, reference: bool = False) -> Call:
    """A whole training step, or inference of a batch, as a call without arguments.

    Every call draws the same random numbers.
    """
    batch = subject.batch(setup)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    half = setup.dtype != "fp32"
    cast = torch.autocast(setup.device, DTYPES[setup.dtype], enabled=half)

    def step() -> None:
        torch.manual_seed(0)
        with reference_ops() if reference else contextlib.nullcontext():
            with cast:
                value = subject.loss(model, batch)
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def inference() -> None:
        with torch.no_grad(), cast, reference_ops() if reference else contextlib.nullcontext():
            subject.infer(model, batch)

    return step if setup.part == TRAINING else inference


def variants(
    subject: Subject, setup: Setup, *, compiled: bool
) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls by variant, and why a missing one is missing."""

    def call(network: nn.Module, **how: Any) -> Call:
        return call_of(subject, network, setup, **how)

    calls = {
        "fallback": call(subject.network(setup, setup.model), reference=True),
        "plain": call(subject.network(setup, setup.plain, fused=False)),
        "bare": call(subject.bare(setup)),
    }
    skipped: dict[str, str] = {}
    reason = why_no_kernel(
        "ibn_norm_forward", torch.empty(0, device=setup.device, dtype=DTYPES[setup.dtype])
    )
    inference = setup.part == INFERENCE
    if inference:
        calls["folded fallback"] = call(subject.folded(setup), reference=True)
    if reason:
        skipped |= dict.fromkeys(["kernel"] + ["unfolded"] * inference, reason)
    else:
        made = subject.folded(setup) if inference else subject.network(setup, setup.model)
        calls["kernel"] = call(made)
        if inference:
            calls["unfolded"] = call(subject.network(setup, setup.model))
    if compiled:

        def fallback() -> Call:
            network: Any = torch.compile(subject.network(setup, setup.model))
            return call(network, reference=True)

        measure.add_compiled("compiled fallback", fallback, calls, skipped)
    return calls, skipped


def derived(samples: dict[str, measure.Array]) -> list[dict[str, Any]]:
    """Numbers of several variants with their bootstrap intervals, as fields of records."""
    ratio, recovered = measure.paired_ratio, models.recovered
    asked: list[tuple[str, str, Callable[..., float], tuple[str, ...]]] = [
        ("recovered", "%", recovered, ("fallback", "kernel", "bare")),
        *(
            (f"recovered by {part} alone", "%", recovered, ("fallback", variant, "bare"))
            for part, variant in (("folding", "folded fallback"), ("kernels", "unfolded"))
        ),
    ]
    for rival in ("fallback", "folded fallback", "unfolded", "plain", "compiled fallback"):
        asked.append((f"times faster than {rival}", "x", ratio, (rival, "kernel")))
    return measure.derived(samples, asked)


def peak_mb(call: Call) -> float:
    """Peak of the GPU's allocator over one call, in MiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def run(
    subject: Subject, setup: Setup, common: record.Record, repeats: int, *, compiled: bool
) -> list[record.Record]:
    """The records of one part and format; reasons of skipped variants are printed."""
    calls, skipped = variants(subject, setup, compiled=compiled)
    for name, reason in skipped.items():
        print(f"  {name} skipped: {reason}", flush=True)
    seconds, wall, clock = measure.clocked(
        calls, repeats, setup.device, common["threads"], warmup=2
    )
    common = common | {"pass": setup.part, "n": repeats}
    found = []
    for name, sample in seconds.items():
        fields: dict[str, Any] = {"metric": "time", "backend": name, "unit": "ms", "clock": clock}
        fields |= {"value": 1e3 * float(np.median(sample)), "spread": measure.spread(1e3 * sample)}
        fields |= {"images_per_s": setup.batch / float(np.median(wall[name]))}
        fields |= {"samples_ms": [round(1e3 * float(s), 3) for s in sample]}
        if setup.device == "cuda":
            fields |= {"peak_mb": peak_mb(calls[name])}
        found.append(common | fields)
    return found + [common | {"backend": "kernel"} | f for f in derived(seconds)]


def tables(records: Sequence[record.Record]) -> str:
    """Times of all variants, then the derived numbers with their intervals."""

    def name(r: record.Record) -> str:
        size = "x".join(map(str, r["shape"]))
        return f"{r['pass']}, {size} {r['dtype']} {r['format']}"

    times = [
        [f"{name(r)}: {r['backend']}", f"{r['value']:.1f}"]
        + [f"{r['spread']['q1']:.1f} to {r['spread']['q3']:.1f}", f"{r['images_per_s']:.2f}"]
        + [f"{r['peak_mb']:.0f}" if "peak_mb" in r else "-"]
        for r in records
        if r["metric"] == "time"
    ]
    found = [r for r in records if r["metric"] != "time"]
    text = record.table(
        [records[0]["model"], "ms", "quartiles", "images/s (wall)", "peak MiB"], times
    )
    if found:
        names = [f"{name(r)}: {r['metric']}" for r in found]
        text += "\n\n" + record.interval_table("kernel", names, found)
    return text


def main(subject: Subject, about: str | None, argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where --compare-with shows a regression.

    about: its question, for --help.
    """
    parser = record.parser(subject.bench, f"{about}\n{__doc__}", "11; quick 3")
    parser.add_argument(
        "--compile", action="store_true", help="also the compiled fallback; always on CUDA"
    )
    args = record.parse(parser, argv)
    cuda = args.device == "cuda"
    names = ("resnet18_ibn_b", "resnet18") if args.quick else ("resnet50_ibn_b", "resnet50")
    size, batch = subject.sizes[0 if args.quick else 1 if cuda else 2]
    repeats = args.repeats or (3 if args.quick else 11)
    shared = record.start(subject.bench, argv, args)
    then = compare.earlier(args, shared)
    path = record.results_file(args.out, subject.bench)
    print(f"{shared['device']}, torch {shared['torch']}, {kernel_report()}", flush=True)
    dtype = "bf16" if cuda else "fp32"
    records: list[record.Record] = []
    with measure.threads(args.threads):
        for part in (TRAINING, INFERENCE):
            for form in ["channels_last"] if cuda else list(FORMATS):
                setup = Setup(*names, part, size, batch, args.device, form, dtype)
                print(f"{setup.model}, {part}, {form}, batch {batch}, {size} px", flush=True)
                common = shared | {"model": f"{setup.model} {subject.title}"}
                common |= {"shape": list(setup.shape), "dtype": dtype, "format": form}
                common |= {"threads": args.threads}
                new = run(subject, setup, common, repeats, compiled=cuda or args.compile)
                record.append(path, new)
                records += new
    print(f"\n{tables(records)}\n")
    print(findings.verdict(records))
    print(f"\n{len(records)} records appended to {path}")
    return compare.finish(then, records)
