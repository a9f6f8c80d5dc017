"""What do norms, activations and residual adds cost a segmenter?   ibnvision benchmark segmentation

ResNet-50 with IBN-b under DeepLabV3+ with its auxiliary head, output stride 16: a training step
(forward, both cross entropies, backward, SGD with momentum at learning rate 0) and inference. Four
networks with the same convolutions: ours with kernels, ours in plain PyTorch (fallback), timm's and
smp's modules with plain batch norm (plain), and the bare one, without norms, activations and
residual adds. Recovered share = (fallback - kernel) / (fallback - bare).

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
from torch import nn

from ibnvision.layers import fold_norm
from ibnvision.models import create_segmenter
from ibnvision.ops import kernel_report, reference_ops, why_no_kernel
from ibnvision.tasks import TASKS

from . import measure, models, record, targets
from .measure import Call
from .op_rows import DTYPES, FORMATS

TRAINING, INFERENCE = "training step", "inference"
CLASSES = 19


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

    def network(self, backbone: str, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        made = create_segmenter(
            backbone, CLASSES, head="deeplabv3plus", output_stride=16, auxiliary=True, **options
        )
        made.to(self.device).to(memory_format=FORMATS[self.format])
        return made.train(self.part == TRAINING)

    def folded(self) -> nn.Module:
        """Our network with its batch norms folded, for inference."""
        made = self.network(self.model)
        fold_norm(made)
        return made


@dataclass(frozen=True)
class _Loss:
    """The part of a config that the task's loss reads."""

    loss_args: dict[str, Any]


def call_of(model: nn.Module, setup: Setup, *, reference: bool = False) -> Call:
    """A whole training step, or inference of a batch, as a call without arguments."""
    generator = torch.Generator().manual_seed(0)
    shape = (setup.batch, 3, setup.size, setup.size)
    images = torch.randn(shape, generator=generator)
    images = images.to(setup.device, memory_format=FORMATS[setup.format])
    labels = torch.randint(0, CLASSES, (setup.batch, *shape[2:]), generator=generator)
    batch = {"image": images, "target": labels.to(setup.device)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    loss, half = TASKS["segmentation"].compute_loss, setup.dtype != "fp32"
    cast = torch.autocast(setup.device, DTYPES[setup.dtype], enabled=half)

    def step() -> None:
        with reference_ops() if reference else contextlib.nullcontext():
            with cast:
                value = loss(model, batch, _Loss({}))
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def inference() -> None:
        with torch.no_grad(), cast, reference_ops() if reference else contextlib.nullcontext():
            model(images)

    return step if setup.part == TRAINING else inference


def variants(setup: Setup, *, compiled: bool) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls by variant, and why a missing one is missing."""
    calls = {
        "fallback": call_of(setup.network(setup.model), setup, reference=True),
        "plain": call_of(setup.network(setup.plain, fused=False), setup),
        "bare": call_of(models.strip(setup.network(setup.plain, fused=False)), setup),
    }
    skipped: dict[str, str] = {}
    reason = why_no_kernel(
        "ibn_norm_forward", torch.empty(0, device=setup.device, dtype=DTYPES[setup.dtype])
    )
    inference = setup.part == INFERENCE
    if inference:
        calls["folded fallback"] = call_of(setup.folded(), setup, reference=True)
    if reason:
        skipped |= dict.fromkeys(["kernel"] + ["unfolded"] * inference, reason)
    else:
        made = setup.folded() if inference else setup.network(setup.model)
        calls["kernel"] = call_of(made, setup)
        if inference:
            calls["unfolded"] = call_of(setup.network(setup.model), setup)
    if compiled:

        def fallback() -> Call:
            network: Any = torch.compile(setup.network(setup.model))
            return call_of(network, setup, reference=True)

        measure.add_compiled("compiled fallback", fallback, calls, skipped)
    return calls, skipped


def derived(samples: dict[str, measure.Array]) -> list[dict[str, Any]]:
    """Numbers of several variants with their bootstrap intervals, as fields of records."""
    ratio = measure.paired_ratio
    asked: list[tuple[str, str, Callable[..., float], tuple[str, ...]]] = [
        ("recovered", "%", models.recovered, ("fallback", "kernel", "bare")),
        *(
            (f"recovered by {part} alone", "%", models.recovered, ("fallback", variant, "bare"))
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
    setup: Setup, common: record.Record, repeats: int, *, compiled: bool
) -> list[record.Record]:
    """The records of one part and format; reasons of skipped variants are printed."""
    calls, skipped = variants(setup, compiled=compiled)
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


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0 when it ran, whatever it found."""
    parser = record.parser("segmentation", __doc__, "11; quick 3")
    parser.add_argument(
        "--compile", action="store_true", help="also the compiled fallback; always on CUDA"
    )
    args = record.parse(parser, argv)
    cuda = args.device == "cuda"
    names = ("resnet18_ibn_b", "resnet18") if args.quick else ("resnet50_ibn_b", "resnet50")
    size, batch = (64, 2) if args.quick else (768, 8) if cuda else (256, 4)
    repeats = args.repeats or (3 if args.quick else 11)
    shared = record.start("segmentation", argv, args)
    path = record.results_file(args.out, "segmentation")
    print(f"{shared['device']}, torch {shared['torch']}, {kernel_report()}", flush=True)
    dtype = "bf16" if cuda else "fp32"
    records: list[record.Record] = []
    with measure.threads(args.threads):
        for part in (TRAINING, INFERENCE):
            for form in ["channels_last"] if cuda else list(FORMATS):
                setup = Setup(*names, part, size, batch, args.device, form, dtype)
                print(f"{setup.model}, {part}, {form}, batch {batch}, {size} px", flush=True)
                common = shared | {"model": f"{setup.model} DeepLabV3+"}
                common |= {"shape": [batch, 3, size, size], "dtype": dtype, "format": form}
                common |= {"threads": args.threads}
                new = run(setup, common, repeats, compiled=cuda or args.compile)
                record.append(path, new)
                records += new
    print(f"\n{tables(records)}\n")
    print(targets.verdict(records))
    print(f"\n{len(records)} records appended to {path}")
    return 0
