"""What our networks cost beside their counterparts: `ibnvision benchmark models --what table`.

Latency at batch 1, inference and a training step (see network_cost.call_of) at a larger batch, each
by kernel, fallback (the same in plain PyTorch), that compiled, and the counterpart; in inference
also ours with its batch norms folded into convolutions, which users are free to do. Beside every
time stand the share of the floor that it reaches, see `products`, memory, and what compiling took
with an empty cache. Peak memory holds parameters, buffers and all that a call makes; the batch and
the optimizer's state, alike for all, are left out. Inside a compiled call a CPU counts nothing.
"""

import contextlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibnvision.layers import fold_norm
from ibnvision.ops import reference_ops, why_no_kernel

from . import ceilings, live_bytes, measure, products, record, rivals
from .model_rows import Row
from .model_tables import FOLDED, INFERENCE, KERNEL, LATENCY, NAMES, TRAINING, WITH_FOLDED
from .network_cost import Setup, call_of
from .op_rows import DTYPES

COMPILED = "compiled fallback"
CLOSE = {"fp32": 1e-3, "bf16": 1e-1, "fp16": 2e-2}  # of whole networks, by their largest result


@dataclass
class Budget:
    """Seconds that compilers may still begin in."""

    left_s: float


@dataclass(frozen=True)
class Entry:
    """One backend of one part: its network and whether the operators run in plain PyTorch."""

    network: nn.Module
    reference: bool
    plain: bool = False  # the counterpart


def parts(batch: int) -> tuple[str, ...]:
    """The parts of a table; with a batch of 1 the latency is the inference."""
    return (LATENCY, TRAINING) if batch == 1 else (LATENCY, INFERENCE, TRAINING)


def entries(
    row: Row, setup: Setup, against: Collection[str] | None
) -> tuple[dict[str, Entry], dict[str, str]]:
    """Networks of one set of weights by backend, and why the kernel is missing."""

    def made(name: str) -> nn.Module:
        return row.subject.network(setup, name)

    found = {"fallback": Entry(made(setup.model), True)}
    if rivals.wanted(row.rival, against):
        found[row.rival] = Entry(made(row.plain), False, True)
    probe = torch.empty(0, device=setup.device, dtype=DTYPES[setup.dtype])
    if reason := why_no_kernel(row.kernel, probe):
        return found, {KERNEL: reason}
    found[KERNEL] = Entry(made(setup.model), False)
    if row.norms and setup.part != TRAINING:
        found[FOLDED] = Entry(made(setup.model), False)
        fold_norm(found[FOLDED].network)
    return found, {}


def check(row: Row, setup: Setup, found: dict[str, Entry]) -> None:
    """AssertionError where a result of ours is not the fallback's; only what agrees is timed."""
    if setup.part == TRAINING:
        return
    batch, results = row.subject.batch(setup), {}
    for name, entry in found.items():
        if not entry.plain:
            with _context(setup, entry.reference), torch.no_grad():
                result: Any = row.subject.infer(entry.network, batch)
                results[name] = result.float()
    plain = results["fallback"]
    atol = CLOSE[setup.dtype] * float(plain.abs().max())
    for result in results.values():
        torch.testing.assert_close(result, plain, rtol=0, atol=atol)


@contextlib.contextmanager
def _context(setup: Setup, reference: bool) -> Iterator[None]:
    half = setup.dtype != "fp32"
    with torch.autocast(setup.device, DTYPES[setup.dtype], enabled=half):
        with reference_ops() if reference else contextlib.nullcontext():
            yield


@contextlib.contextmanager
def empty_compile_cache() -> Iterator[None]:
    """A cache of compiled code of its own, so that compiling takes what it takes at first."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        yield


def add_compiled(
    row: Row, setup: Setup, calls: dict[str, measure.Call], skipped: dict[str, str], budget: Budget
) -> float:
    """The compiled fallback among `calls`, or why not in `skipped`; seconds of its first call."""
    if budget.left_s <= 0:
        skipped[COMPILED] = "--compile-minutes are spent"
        return 0.0
    network: Any = torch.compile(row.subject.network(setup, setup.model), dynamic=False)
    start = time.perf_counter()
    measure.add_compiled(
        COMPILED, lambda: call_of(row.subject, network, setup, reference=True), calls, skipped
    )
    seconds = time.perf_counter() - start
    budget.left_s -= seconds
    return seconds


def work_of(row: Row, setup: Setup, entry: Entry, kernels: bool) -> products.Work:
    """What a network must do. Ours is counted by its kernels only where the row says so."""
    reference = not entry.plain and (row.reference or not kernels)
    return products.count(call_of(row.subject, entry.network, setup, reference=reference))


def memory(
    row: Row, setup: Setup, entry: Entry, call: measure.Call, *, compiled: bool
) -> dict[str, float]:
    """Peak in MiB and, in training, what the forward keeps for the backward.

    compiled: of a compiled network the peak alone is known, and that on CUDA.
    """
    if compiled and setup.device != "cuda":
        return {}
    own: list[Tensor] = [*entry.network.parameters(), *entry.network.buffers()]
    fields = {"peak_mb": live_bytes.peak_bytes(call, own, setup.device) / 2**20}
    if setup.part == TRAINING and not compiled:
        batch = row.subject.batch(setup)
        with _context(setup, entry.reference):
            kept = live_bytes.kept_bytes(lambda: row.subject.loss(entry.network, batch), own)
        fields["kept_mb"] = kept / 2**20
    return fields


def timm_fields(
    setup: Setup, wall_s: float, work: products.Work, network: nn.Module
) -> dict[str, float]:
    """The fields, units and rounding of the tables that timm publishes.

    Its GMACs also hold the norms, half a percent of a ResNet's.
    """
    count = sum(p.numel() for p in network.parameters())
    of, each = "train" if setup.part == TRAINING else "infer", setup.batch
    fields: dict[str, float] = {
        f"{of}_samples_per_sec": round(each / wall_s, 2),
        f"{of}_step_time": round(1e3 * wall_s, 3),
        f"{of}_batch_size": each,
        f"{of}_img_size": setup.size,
        "param_count": round(count / 1e6, 2),
    }
    if of == "infer":
        fields["infer_gmacs"] = round(work.flops / 2e9 / each, 2)
        fields["infer_macts"] = round(work.activations / 1e6 / each, 2)
    return fields


def derived(samples: dict[str, measure.Array], rival: str) -> list[dict[str, Any]]:
    """How many times faster ours is, medians of pairs with their bootstrap intervals."""
    found = []
    for ours, end in ((KERNEL, ""), (FOLDED, WITH_FOLDED)):
        asked = [
            (f"times faster than {NAMES[b]}{end}", "x", measure.paired_ratio, (b, ours))
            for b in ("fallback", COMPILED, rival)
        ]
        found += [{"backend": ours} | fields for fields in measure.derived(samples, asked)]
    return found


def calls_of(
    row: Row,
    setup: Setup,
    found: dict[str, Entry],
    *,
    against: Collection[str] | None,
    budget: Budget,
) -> tuple[dict[str, measure.Call], dict[str, str], float]:
    """The calls by backend, why the compiled one is missing, and seconds of its first call."""
    calls = {
        name: call_of(row.subject, entry.network, setup, reference=entry.reference)
        for name, entry in found.items()
    }
    skipped: dict[str, str] = {}
    if not rivals.wanted(COMPILED, against):
        return calls, skipped, 0.0
    return calls, skipped, add_compiled(row, setup, calls, skipped, budget)


def run(
    row: Row,
    setup: Setup,
    common: record.Record,
    best: ceilings.Ceilings,
    *,
    repeats: int,
    against: Collection[str] | None,
    budget: Budget,
) -> list[record.Record]:
    """The records of one part; reasons of skipped backends are printed."""
    found, missing = entries(row, setup, against)
    check(row, setup, found)
    calls, skipped, compile_s = calls_of(row, setup, found, against=against, budget=budget)
    for name, reason in {**missing, **skipped}.items():
        print(f"  {name} skipped in {setup.part}: {reason}", flush=True)
    seconds, wall, clock = measure.clocked(
        calls, repeats, setup.device, common["threads"], warmup=1
    )
    kernels = KERNEL in found
    ours = work_of(row, setup, found[KERNEL if kernels else "fallback"], kernels)
    common = common | {"pass": setup.part, "launch": "launches", "n": repeats, "rival": row.rival}
    records = []
    for name, sample in seconds.items():
        entry = found.get(name, found["fallback"])
        work = work_of(row, setup, entry, kernels) if entry.plain else ours
        median, wall_s = float(np.median(sample)), float(np.median(wall[name]))
        fields: dict[str, Any] = {"metric": "time", "backend": name, "unit": "ms", "clock": clock}
        fields |= {"value": 1e3 * median, "spread": measure.spread(1e3 * sample)}
        fields |= {"wall_ms": 1e3 * wall_s, "images_per_s": setup.batch / wall_s}
        fields |= best.fields(median, work.bytes, work.flops, setup.dtype)
        fields |= timm_fields(setup, wall_s, work, entry.network)
        fields |= memory(row, setup, entry, calls[name], compiled=name == COMPILED)
        fields |= {"compile_s": compile_s} if name == COMPILED else {}
        records.append(common | fields)
    return records + [common | fields for fields in derived(seconds, row.rival)]
