"""Inference of the network of each row of a study: images per CPU second and live memory.

The network runs as `ibnvision predict` runs it, in eval mode and folded, on the study's own test
pictures, by the task's `predict`, on one thread: with kernels and in plain PyTorch (reference_ops),
all rows interleaved. Its weights are those of the row's first complete run, since what a detector
finds is part of its cost; where there is none they are untrained.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibnvision import data, engine
from ibnvision.config import Config
from ibnvision.engine.predict import Trained, detect_function, label_function, load_trained
from ibnvision.ops import reference_ops, why_no_kernel
from ibnvision.tasks import TASKS

from . import measure, record
from .by_image import Again
from .live_bytes import LiveBytes
from .measure import Call
from .plans import Job, dataset_of, digest, final_scores

RATE, LIVE = "inference images/s", "live memory"
RATIO = "inference, times the speed of plain PyTorch"
KERNEL, FALLBACK = "kernel", "fallback"
NAMES = {KERNEL: "kernels", FALLBACK: "plain PyTorch"}
REPEATS_TO_JUDGE = 3  # below, no row is called slower or faster


def network(job: Job) -> nn.Module:
    """The network of a training in eval mode, folded for inference; see the head of this file."""
    cfg = job.cfg
    if final_scores(job):
        trained = load_trained(job.folder / "last.pt")
    else:
        source = cfg.train_domains[0]
        classes = data.classes(source, data.root_of(source, cfg.data))
        fresh = engine.build_model(cfg, len(classes)).eval()
        image = dataset_of(cfg, source, "test", 1)[0]["image"]
        trained = Trained(fresh, cfg, tuple(classes), (image.shape[1], image.shape[2]))
    return _folded(trained)


def _folded(trained: Trained) -> nn.Module:
    model: Any = trained.model
    if trained.cfg.task == "segmentation":
        label_function(trained)  # folds the model
    elif trained.cfg.task == "detection":
        detect_function(trained)  # folds the backbone
    elif hasattr(model, "fuse"):
        model.fuse()
    return model


def images(cfg: Config, count: int) -> Any:
    """A batch of the source's test pictures of one size, as the task's `predict` takes it.

    Pictures of another size than the first are passed over; where too few are left, they repeat.
    """
    dataset = dataset_of(cfg, cfg.train_domains[0], "test", count)
    items = [dataset[i] for i in range(min(count, len(dataset)))]
    alike = [item for item in items if item["image"].shape == items[0]["image"].shape]
    return TASKS[cfg.task].collate([alike[i % len(alike)] for i in range(count)])["image"]


def _call(task: str, model: nn.Module, batch: Any, backend: str) -> Call:
    def run() -> None:
        with torch.no_grad(), reference_ops() if backend == FALLBACK else contextlib.nullcontext():
            TASKS[task].predict(model, batch)

    return run


def records(jobs: Sequence[Job], repeats: int, more: Sequence[Again] = ()) -> list[record.Record]:
    """Of every row, for each batch and backend: RATE; at batch 1 LIVE, in MB of 10^6 bytes; and for
    each batch RATIO with its bootstrap interval. Without what all records of a study share.

    Batches are 1 and the config's batch_size. Rows that differ in no part of the model, as by their
    augmentation alone, are measured once: `network_of` names the row whose network that was. LIVE
    is the most at any time of the images and of all tensors made, without weights; see LiveBytes.

    Args:
        jobs: of one plan.
        repeats: interleaved repetitions.
        more: rows that train nothing; the first run of each is measured.
    """
    shared: dict[str, Job] = {}  # what makes a network -> the training that it is taken from
    of_row: dict[str, Job] = {}
    for name in dict.fromkeys(job.row.name for job in jobs):
        mine = [job for job in jobs if job.row.name == name]
        first = next((job for job in mine if final_scores(job)), mine[0])
        of_row[name] = shared.setdefault(digest(first.cfg.model, first.cfg.model_args), first)
    if not jobs:
        return []
    added: dict[str, Again] = {}
    with measure.threads(1):
        models = {job.row.name: network(job) for job in shared.values()}
        for run in more:
            added.setdefault(run.row, run)
        models |= {name: _folded((run.at_work or run.load)()) for name, run in added.items()}
        measured = _measured(jobs[0].base, models, repeats)
    found = []
    for name, job in of_row.items():
        weights = "trained" if final_scores(job) else "untrained"
        head = {"model": name, "network_of": job.row.name, "weights": weights, "threads": 1}
        found += [head | fields for fields in measured[job.row.name]]
    for name, run in added.items():
        head = {"model": name, "network_of": name, "weights": "trained", "threads": 1}
        head |= {"beside": "at work"} if run.at_work else {}
        found += [head | fields for fields in measured[name]]
    return found


def _measured(
    cfg: Config, models: dict[str, nn.Module], repeats: int
) -> dict[str, list[record.Record]]:
    """Name -> the fields of its records."""
    found: dict[str, list[record.Record]] = {name: [] for name in models}
    for count in dict.fromkeys((1, cfg.batch_size)):
        batch = images(cfg, count)
        given = list(batch)
        size = {"batch": count, "size": list(given[0].shape[1:])}
        backends = [FALLBACK] if why_no_kernel("ibn_norm_forward", given[0]) else [KERNEL, FALLBACK]
        calls = {
            (name, backend): _call(cfg.task, model, batch, backend)
            for name, model in models.items()
            for backend in backends
        }
        samples = _interleaved(calls, repeats)
        for (name, backend), seconds in samples.items():
            rate = count / seconds
            place = {"backend": backend, **size}
            fields = {"value": float(np.median(rate)), "spread": measure.spread(rate)}
            head = {"metric": RATE, "unit": "images/CPU-s", "n": repeats}
            found[name].append(head | place | fields)
            if count == 1:
                bytes_ = _peak(calls[name, backend], given)
                head = {"metric": LIVE, "unit": "MB", "n": 1}
                found[name].append(head | place | {"value": bytes_ / 1e6})
        for name in models:
            mine = {backend: samples[name, backend] for backend in backends}
            asked = [(RATIO, "x", measure.paired_ratio, (FALLBACK, KERNEL))]
            for fields in measure.derived(mine, asked):
                found[name].append(fields | {"backend": KERNEL, "n": repeats, **size})
    return found


def _interleaved(calls: dict[tuple[str, str], Call], repeats: int) -> dict[Any, measure.Array]:
    """CPU seconds a call, by repetition."""
    keys = {f"{name}: {backend}": (name, backend) for name, backend in calls}
    named = {text: calls[key] for text, key in keys.items()}
    found = measure.interleave(named, repeats, warmup=1)
    return {key: found[text][:, measure.CPU] for text, key in keys.items()}


def _peak(call: Call, given: Sequence[Tensor]) -> int:
    with LiveBytes(*given) as live:
        call()
    return live.peak


def table(found: Sequence[record.Record]) -> str:
    """Images per CPU second and live memory of each row, and where kernels are slower.

    found: of `records`; others do not count. Empty where there are none.
    """
    cells = {
        (r["model"], r["metric"], r["batch"], r["backend"]): r["value"]
        for r in found
        if r["metric"] in (RATE, LIVE)
    }
    if not cells:
        return ""
    kinds = [
        (m, b, backend) for m in (RATE, LIVE) for _, metric, b, backend in cells if metric == m
    ]
    columns = list(dict.fromkeys(kinds))
    lines = [
        [row, *(record.number(cells.get((row, *column))) for column in columns)]
        for row in dict.fromkeys(row for row, *_ in cells)
    ]
    head = [
        f"batch {batch}, {NAMES[backend]}" if metric == RATE else f"live MB, {NAMES[backend]}"
        for metric, batch, backend in columns
    ]
    text = record.table(["inference, images/CPU-s", *head], lines)
    return f"{text}\n\n{shown(found)}"


def shown(found: Sequence[record.Record]) -> str:
    """Where kernels are slower than plain PyTorch, faster, and not told apart."""
    rates = [r for r in found if r["metric"] == RATE]
    if not rates:
        return ""
    height, width = rates[0]["size"]
    text = f"Inference of pictures of {width}x{height}, folded, on one thread; memory at batch 1, "
    text += "without weights. "
    if any(r["model"] != r["network_of"] for r in rates):
        text += "Rows that share a network are measured once; below the first one stands for them. "
    if any("beside" in r for r in rates):
        text += "Rows behind a restorer are timed with their gate open, as they run in haze. "
    ratios = [r for r in found if r["metric"] == RATIO and r["model"] == r["network_of"]]
    if not ratios:
        return text + "No kernels are at hand here, so there is nothing to compare."
    if ratios[0]["n"] < REPEATS_TO_JUDGE:
        return text + f"{ratios[0]['n']} repetition(s) tell no row's kernels from plain PyTorch."
    slow = [r for r in ratios if r["high"] < 1]
    fast = [r for r in ratios if r["low"] > 1]
    between = [r for r in ratios if r not in slow and r not in fast]
    parts = [
        f"behind plain PyTorch in: {_listed(slow)}" if slow else "in no row slower",
        f"ahead of it in: {_listed(fast)}" if fast else "in none faster",
    ]
    parts += [f"not told apart in: {_listed(between)}"] if between else []
    return f"{text}Kernels are {'; '.join(parts)} (95 % bootstrap interval of the ratio of speeds)."


def _listed(ratios: Sequence[record.Record]) -> str:
    return ", ".join(f"{r['model']} at batch {r['batch']} ({r['value']:.2f} x)" for r in ratios)
