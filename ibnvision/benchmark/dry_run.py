"""What a benchmark would train: its sets checked, its trainings named, and how long they may take.

Nothing is written, and nothing trained but a few steps whose time is taken.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from accelerate.utils import send_to_device

from ibnvision import data, engine
from ibnvision.config import Config
from ibnvision.engine import sets
from ibnvision.tasks import TASKS

from . import measure, record
from .plans import Job, dataset_of, roles_of, splits_of

STEPS = 2  # timed, after one that is not
_WRONG = (OSError, ValueError, KeyError, TypeError)


def show(cfg: Config, tests: Sequence[str], workers: int, jobs: Callable[[], list[Job]]) -> int:
    """Print it; 0, or 1 where a set cannot be read.

    cfg: what all rows share. tests: the domains that every training is tested on. jobs: makes the
    plan, which reads every set.
    """
    left_out = [name for name in cfg.test_domains if name not in tests]
    cfg = dataclasses.replace(cfg, test_domains=tuple(tests))
    lines, wrong = checked(cfg)
    print(record.table(["domain", "role", "split", "images", "folder"], lines))
    for name in left_out:
        print(f"{name} is left out: no --data {data.key_of(name)}=DIR")
    for text in wrong:
        print(f"cannot be read: {text}")
    if wrong:
        return 1
    planned = jobs()
    seeds = len({job.seed for job in planned})
    rows, total = [], 0.0
    for job in planned[: len(planned) // seeds]:
        with measure.threads(1):  # as in a study
            found = cost(job)
        total += found.run_s * seeds
        rows.append([job.row.name, str(seeds), str(job.cfg.steps), f"{found.step_s:.3f}"])
        rows[-1] += [str(found.images), f"{found.image_s:.3f}", _words(found.run_s)]
    header = ["row", "seeds", "steps", "s a step", "evaluated images", "s an image", "a training"]
    print(f"\n{record.table(header, rows)}\n")
    print(
        f"{len(planned)} trainings, {workers} side by side: about {_words(total / workers)} on "
        f"this machine, from {STEPS} steps and one evaluated batch of each row. What is drawn for "
        "the first time, and what follows the trainings, comes on top. Nothing was written."
    )
    return 0


def _words(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.1f} min"


def checked(cfg: Config) -> tuple[list[list[str]], list[str]]:
    """A line for every split that is read, and what is wrong with those that cannot be."""
    lines, wrong = [], []
    roles = roles_of(cfg)
    for domain in roles:
        try:
            splits = [split for name, split in splits_of(cfg) if name == domain]
        except _WRONG as error:
            wrong.append(f"{domain}: {error}")
            continue
        for split in splits:
            root = data.root_of(domain, cfg.data)
            try:
                count = str(len(dataset_of(cfg, domain, split)))
            except _WRONG as error:
                wrong.append(f"{domain}, {split}: {error}")
                count = "-"
            lines.append([domain, roles[domain], split, count, root or "drawn"])
    return lines, wrong


class Cost(NamedTuple):
    """Of one training, in seconds of wall time."""

    step_s: float
    image_s: float  # evaluated
    images: int  # evaluated, counted as often as they are
    run_s: float


def cost(job: Job) -> Cost:
    """What a training may take, by STEPS steps and one evaluated batch of the source's test split.

    On the device that it would be trained on.
    """
    cfg, task = dataclasses.replace(job.cfg, scenes=""), TASKS[job.cfg.task]
    cuda = cfg.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    classes = sets.class_names(cfg, [*cfg.train_domains, *cfg.test_domains])
    model = engine.build_model(cfg, len(classes)).to(device).train()
    training = sets.training_set(cfg)
    order = sets.order(cfg, training, 0, (STEPS + 1) * cfg.grad_accum)
    batches = iter(sets.loader(cfg, training, batch_sampler=order))

    def step(index: int) -> None:
        for _ in range(cfg.grad_accum):
            batch = task.augment(next(batches), cfg.augment, sets.step_generator(cfg.seed, index))
            task.compute_loss(model, send_to_device(batch, device), cfg).backward()
        model.zero_grad(set_to_none=True)

    step(0)
    begin = time.perf_counter()
    for index in range(STEPS):
        step(index + 1)
    step_s = _since(begin, cuda) / STEPS
    tested = [dataset_of(cfg, domain, split) for domain, split in splits_of(cfg)[1:]]
    single = sets.evaluation_batch(task, tested[-1])
    batch = send_to_device(next(iter(sets.loader(cfg, tested[-1], batch_size=single))), device)
    with torch.no_grad():
        begin = time.perf_counter()
        task.evaluate(model.eval(), batch, cfg)
        image_s = _since(begin, cuda) / len(batch["image"])
    rounds = math.ceil(cfg.steps / cfg.eval_every) if cfg.eval_every else 1
    images = rounds * sum(map(len, tested))
    return Cost(step_s, image_s, images, cfg.steps * step_s + images * image_s)


def _since(begin: float, cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin
