"""Evaluation: every domain is counted over all processes, each image once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    broadcast,
    broadcast_object_list,
    gather_object,
    send_to_device,
)
from torch import nn
from torch.utils.data import Dataset

from ibnvision import data
from ibnvision.config import Config
from ibnvision.metrics import as_text, target_mean, unit, worst_domain
from ibnvision.tasks import Task

from . import pictures, sets
from .processes import explained, start
from .progress import Interrupted, StopRequest
from .state import find_task

_PICTURES_PER_DOMAIN = 3

Results = dict[str, dict[str, Any]]


def evaluate(
    cfg: Config,
    model: nn.Module,
    *,
    domains: Sequence[str] | None = None,
    split: str = "test",
    out: str | Path | None = None,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    classes: Sequence[str] | None = None,
) -> Results:
    """Measure `model` in fp32 on a split of each domain (default: the test domains of `cfg`), and
    under each of the corruptions at each of the severities, as the domain NAME@CORRUPTION_SEVERITY.
    classes: those of `model`, which each domain must have; default: of the first train domain.

    Returns per domain what the task's metric computes, `images`, and `facts`, that is what was
    evaluated and how: protocol, label map, split, hash of the file list. With `out`, also writes
    overlays/<domain>_<i>.png there, and confusion_<domain>.png where the metric has counted one; a
    ":" in a domain becomes "_".
    """
    task, accelerator = find_task(cfg), start(cfg)
    names = list(cfg.test_domains if domains is None else domains)
    source = [cfg.train_domains[0]] if classes is None else []
    classes = sets.class_names(cfg, [*source, *names], classes)
    task.check(cfg)
    with explained(cfg):
        found = {name: sets.build(cfg, name, split) for name in names}
        for name in names if corruptions else ():
            found |= sets.corrupted(cfg, name, found[name], corruptions, severities)
        model = model.to(accelerator.device)
        folder = Path(out) if out is not None and accelerator.is_main_process else None
        return evaluate_sets(cfg, task, model, found, split, classes, accelerator, out=folder)


@torch.no_grad()
def evaluate_sets(
    cfg: Config,
    task: Task,
    model: nn.Module,
    found: Mapping[str, Dataset],
    split: str,
    classes: Sequence[str],
    accelerator: Accelerator,
    *,
    stop: StopRequest | None = None,
    batches: int | None = None,
    out: Path | None = None,
) -> Results:
    """The evaluation loop, without augmentation and autocast; `batches` makes it a quick check."""
    training = model.training
    model.eval()
    if accelerator.num_processes > 1:  # statistics are each process's own: those that are saved
        broadcast(list(model.buffers()))
    results: Results = {}
    overlays = (out or Path()) / "overlays"
    for domain, dataset in found.items():
        metric, shown = task.new_metric(classes), 0
        stem = domain.replace(":", "_")  # which no file on Windows may hold
        single, mine = sets.evaluation_batch(task, dataset), sets.share(dataset, accelerator)
        for index, batch in enumerate(sets.loader(cfg, mine, batch_size=single)):
            if index == batches or (stop and stop.raised):
                break
            batch = send_to_device(batch, accelerator.device)
            given = task.evaluate(model, batch, cfg)
            prediction = given[0]
            metric.update(*given)
            wanted = min(_PICTURES_PER_DOMAIN - shown, len(prediction)) if out else 0
            for i in range(wanted):
                picture = task.draw(
                    batch["image"][i],
                    batch["target"][i],
                    prediction[i],
                    classes=classes,
                    palette=torch.tensor(data.palette(classes)),
                )
                pictures.save_png(picture, overlays / f"{stem}_{shown}.png")
                shown += 1
        stopped = bool(stop and stop.raised)
        if accelerator.num_processes > 1:
            states = gather_object([(metric.state(), stopped)])
            metric = task.new_metric(classes)
            for counted, left in states:
                metric.merge(counted)
                stopped = stopped or left
        if stopped:  # here, where all processes know of it
            raise Interrupted
        # by one for all: the AP of a large set takes minutes and gigabytes
        scores = broadcast_object_list([metric.compute() if accelerator.is_main_process else None])
        told = {**sets.facts(cfg, dataset, split), **task.facts(cfg)}
        results[domain] = {"images": told["images"], **scores[0], "facts": told}
        if out and hasattr(metric, "confusion"):
            path = out / f"confusion_{stem}.png"
            pictures.save_confusion(metric.confusion, classes, domain, path)
    model.train(training)
    return results


def summary_line(cfg: Config, results: Results, score: str) -> str:
    """Source, mean and worst of the targets without stress domains, and gap, where there are both.

    An undefined score is no score: it takes part in nothing.
    """
    found = {
        d: row
        for d, row in results.items()
        if not data.domain_of(d).stress and not np.isnan(row[score])
    }
    targets = {d: row for d, row in found.items() if d not in cfg.train_domains}
    source = {d: row for d, row in found.items() if d in cfg.train_domains}
    if not source or not targets:
        return ""
    home, away = target_mean(source, score), target_mean(targets, score)
    parts = f"source {as_text(score, home)}, mean of {len(targets)} targets {as_text(score, away)}"
    if len(targets) > 1:
        name, worst = worst_domain(targets, score)
        parts += f", worst {as_text(score, worst)} ({name})"
    gap = f"gap {as_text(score, home - away)}"
    return f"{score.rpartition('_')[0]} {unit(score)}: {parts}, {gap}"
