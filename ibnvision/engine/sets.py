"""Data sets of a run and the order in which training reads them."""

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from ibnvision import data
from ibnvision.config import Config


def build(cfg: Config, domain: str, split: str) -> Dataset:
    """A split of a domain as `cfg` asks for it; a set without images is a ValueError naming it."""
    root = data.root_of(domain, cfg.data)
    size = (cfg.size[0], cfg.size[1]) if cfg.size else None
    dataset: Any = data.build_domain(domain, split, preset=cfg.preset, root=root, size=size)
    if len(dataset) == 0:
        raise ValueError(f"domain {domain!r} has no images in its {split} split (root {root})")
    return dataset


def training_set(cfg: Config) -> Dataset:
    """The train splits of all source domains in a row."""
    return ConcatDataset([build(cfg, domain, "train") for domain in cfg.train_domains])


def class_names(domains: Sequence[str]) -> tuple[str, ...]:
    """The one class list that all domains share; ValueError where they differ."""
    first = data.classes(domains[0])
    for domain in domains[1:]:
        if data.classes(domain) != first:
            raise ValueError(
                f"all domains of a run must share one class list: {domains[0]} has {list(first)}, "
                f"{domain} has {list(data.classes(domain))}"
            )
    return tuple(first)


class StepSampler(Sampler[list[int]]):
    """Batches `start` to `stop` of an endless stream of shuffled passes over `length` samples.

    Batch i is a pure function of (seed, i), so a position is one number and resuming needs no
    history.
    """

    def __init__(self, length: int, batch_size: int, seed: int, start: int, stop: int) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        current, order = -1, torch.empty(0)
        for batch in range(self.start, self.stop):
            indices = []
            for sample in range(batch * self.batch_size, (batch + 1) * self.batch_size):
                turn, place = divmod(sample, self.length)
                if turn != current:
                    chance = torch.Generator().manual_seed(_mix(self.seed, turn))
                    current, order = turn, torch.randperm(self.length, generator=chance)
                indices.append(int(order[place]))
            yield indices


def step_generator(seed: int, *position: int) -> torch.Generator:
    """The source of chance of one batch: the same for the same seed and position, in every run."""
    return torch.Generator().manual_seed(_mix(seed, *position, 1))


def _mix(*numbers: int) -> int:
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**61
    return mixed


def loader(
    cfg: Config,
    dataset: Dataset,
    *,
    batch_sampler: Sampler | None = None,
) -> DataLoader:
    """A DataLoader in set order or that of `batch_sampler`, leaving the global generators alone."""
    order = {"batch_sampler": batch_sampler} if batch_sampler else {"batch_size": cfg.batch_size}
    return DataLoader(
        dataset,
        **order,
        num_workers=cfg.workers,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(cfg.seed),
        pin_memory=torch.cuda.is_available() and cfg.device != "cpu",
    )


def _start_worker(_: int) -> None:
    """One thread; Ctrl-C is for the training process, which then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
