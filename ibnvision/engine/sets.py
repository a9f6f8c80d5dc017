"""Data sets of a run and the order in which training reads them."""

import bisect
import dataclasses
import hashlib
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, Subset

from ibnvision import data
from ibnvision.config import Config, nearest
from ibnvision.data.class_index import class_index, draw_centre, load_index, save_index
from ibnvision.tasks import Task

from .state import find_task

_TILE = 1024  # pixels of a side, of the grid whose tiles are searched for classes
_SETTLING = ("coco_json", "voc_xml")  # domains whose classes a file of one's own may set
_SETTLED = "; a classes.txt of the same names, one a line, in each folder settles it"
_DRAW = 1  # tells the chance of a drawn item from that of an augmented batch


def available(cfg: Config) -> tuple[Config, list[str]]:
    """`cfg` without the test domains that are read from a folder and were given none, and those.

    Raises: KeyError for a key of `data` that names no domain and no family of domains, ValueError
    for one with a label that no domain of `cfg` has.
    """
    keys = {*data.DOMAINS, *(row.data_key for row in data.DOMAINS.values() if row.data_key)}
    for key in cfg.data:
        if key.partition(":")[0] not in keys:
            raise KeyError(f"unknown data key {key!r}: {nearest(key, keys)}")
        if ":" in key and key not in (*cfg.train_domains, *cfg.test_domains):
            raise ValueError(
                f"data key {key!r} must be a domain of the run, which has {list(cfg.train_domains)}"
                f" and the test_domains {list(cfg.test_domains)}: add it to these"
            )
    missing = [
        name for name in cfg.test_domains if data.key_of(name) and not data.root_of(name, cfg.data)
    ]
    kept = tuple(name for name in cfg.test_domains if name not in missing)
    return dataclasses.replace(cfg, test_domains=kept), missing


def build(cfg: Config, domain: str, split: str) -> Dataset:
    """A split of a domain as `cfg` asks for it; a set without images is a ValueError naming it."""
    root = data.root_of(domain, cfg.data)
    size = (cfg.size[0], cfg.size[1]) if cfg.size else None
    dataset: Any = data.build_domain(
        domain,
        split,
        preset=cfg.preset,
        root=root,
        size=size,
        protocol=cfg.protocol,
        empty=cfg.empty_images,
    )
    if len(dataset) == 0:
        raise ValueError(f"domain {domain!r} has no images in its {split} split (root {root})")
    if cfg.scenes and hasattr(dataset, "keep"):
        dataset.keep(cfg.scenes)
    return dataset


def corrupted(
    cfg: Config,
    domain: str,
    dataset: Dataset,
    corruptions: Sequence[str],
    severities: Sequence[int],
) -> dict[str, Dataset]:
    """DOMAIN@CORRUPTION_SEVERITY -> the set under that corruption.

    Raises: ValueError in dehazing, whose images are the answer, and where a protocol shows images
    of another size than their labels.
    """
    from ibnvision.data.corrupted import Corrupted  # which imports OpenCV

    if cfg.task == "dehazing":
        raise ValueError("corruptions must be left out in dehazing: they need labels or boxes")
    if getattr(dataset, "protocol", "native") != "native":
        raise ValueError(
            f"corruptions must come with protocol native, got {cfg.protocol!r} for {domain}"
        )
    return {
        f"{domain}@{name}_{severity}": Corrupted(dataset, name, severity)
        for name in corruptions
        for severity in severities
    }


class Drawn(NamedTuple):
    """An index of a DrawnSet."""

    item: int
    position: int  # in the stream of training samples


class DrawnSet(ConcatDataset):
    """Sets in a row whose items are drawn: an item is decided by (seed, position) alone.

    A set without `draw` gives its items as they are.

    Args:
        size: height and width of the crops.
        options: further keyword arguments of `draw`.
        indexes: for each set where its classes lie, as `data.class_index` gives it, or nothing.
        share: of the crops that are drawn around a class instead, within the same set.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        size: tuple[int, int],
        seed: int,
        options: dict[str, Any] | None = None,
        indexes: Sequence[Any] = (),
        share: float = 0.0,
    ) -> None:
        super().__init__(datasets)
        self.size, self.seed, self.options = size, seed, options or {}
        self.indexes, self.share = indexes, share

    def __getitem__(self, index: Any) -> Any:
        item, position = index
        part = bisect.bisect_right(self.cumulative_sizes, item)
        place = item - (self.cumulative_sizes[part - 1] if part else 0)
        dataset: Any = self.datasets[part]
        if not hasattr(dataset, "draw"):
            return dataset[place]
        chance, options = step_generator(self.seed, position, _DRAW), dict(self.options)
        if self.share and torch.rand((), generator=chance).item() < self.share:
            place, options["centre"] = draw_centre(self.indexes[part], chance)
        return dataset.draw(place, chance, self.size, **options)


def training_set(cfg: Config, watch: Callable[[range], Iterable[int]] = iter) -> Dataset:
    """The train splits of all source domains in a row; drawn where a set can `draw`, but whole
    where the task takes pictures of several sizes and `cfg` names none.

    watch: is handed the indices of the pictures whose labels are read for `class_uniform`, to show
    progress; what was found is kept in <out>/class_index.

    Raises: ValueError where `scale` or `class_uniform` is set for sets whose pictures are no crops.
    """
    datasets: list[Any] = [build(cfg, domain, "train") for domain in cfg.train_domains]
    drawn = [hasattr(dataset, "draw") for dataset in datasets]
    if (cfg.scale or cfg.class_uniform) and not all(hasattr(d, "protocol") for d in datasets):
        raise ValueError(
            "scale and class_uniform must be left out where training reads no crops of labelled "
            f"pictures on disk, got scale={list(cfg.scale)}, class_uniform={cfg.class_uniform} for "
            f"{', '.join(cfg.train_domains)}"
        )
    if find_task(cfg).RAGGED and not cfg.size:
        if cfg.scale:
            raise ValueError(
                f"scale must come with size in {cfg.task}, which reads whole pictures without it, "
                f"got {list(cfg.scale)}"
            )
        drawn = []
    if not any(drawn):
        return ConcatDataset(datasets)
    preset = data.PRESETS[cfg.preset]
    size = (cfg.size[0], cfg.size[1]) if cfg.size else (preset.height, preset.width)
    options = {"scale": (cfg.scale[0], cfg.scale[1])} if cfg.scale else {}
    found = [_class_index(cfg, d, watch) for d in datasets] if cfg.class_uniform else []
    return DrawnSet(datasets, size, cfg.seed, options, found, cfg.class_uniform)


def _class_index(cfg: Config, dataset: Any, watch: Callable[[range], Iterable[int]]) -> Any:
    """Where the classes of a set lie, read once and kept in <out>/class_index."""
    domain = dataset.domain
    count = len(data.classes(domain, data.root_of(domain, cfg.data)))
    whole = f"{dataset.fingerprint()} {count} {_TILE}"
    name = hashlib.sha256(whole.encode()).hexdigest()[:16]
    path = Path(cfg.out) / "class_index" / f"{domain}_{name}.npz"
    found = load_index(path, whole)
    if found is None:
        found = class_index(dataset, count, _TILE, watch)
        save_index(path, found, whole)
    return found


def evaluation_batch(task: Task, dataset: Any) -> int:
    """Images per forward pass of an evaluation, 0: the config's batch_size; see `tasks.Task`."""
    return 1 if hasattr(getattr(dataset, "dataset", dataset), "protocol") else task.EVALUATION_BATCH


def share(dataset: Any, accelerator: Accelerator) -> Dataset:
    """The items that this process evaluates: every n-th of n processes, each item once."""
    rank, world = accelerator.process_index, accelerator.num_processes
    return dataset if world == 1 else Subset(dataset, range(rank, len(dataset), world))


def facts(cfg: Config, dataset: Any, split: str) -> dict[str, Any]:
    """What is stored beside every number of an evaluated set, as plain values."""
    if hasattr(dataset, "dataset"):  # a corrupted set
        return {**facts(cfg, dataset.dataset, split), **dataset.facts()}
    if hasattr(dataset, "facts"):
        return dataset.facts()
    digest = dataset.fingerprint() if hasattr(dataset, "fingerprint") else None
    size = "the size that the run reads it at, under every protocol"
    return {"input": size, "split": split, "images": len(dataset), "files_sha256": digest}


def training_facts(training: Any) -> dict[str, dict[str, Any]]:
    """By domain what is stored of a set of labelled pictures that is trained on."""
    found = {d.domain: d.facts() for d in training.datasets if hasattr(d, "facts")}
    told = ("label_map", "split", "images", "images_without_objects", "left_out", "notes")
    kept = (*told, "files_sha256", "annotations_sha256")
    return {domain: {k: row[k] for k in kept if k in row} for domain, row in found.items()}


def image_size(training: Dataset) -> list[int]:
    """Height and width of the first training image; whatever stops its reading is raised."""
    first: Any = Drawn(0, 0) if isinstance(training, DrawnSet) else 0
    return [int(n) for n in training[first]["image"].shape[1:]]


def class_names(
    cfg: Config, domains: Sequence[str], trained: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The one class list that all domains share; trained: that of a model, which it must be.

    Raises: KeyError for an unknown domain; ValueError for one of another task than `cfg.task`, or
    where the lists differ.
    """
    lists = {domain: data.classes(domain, data.root_of(domain, cfg.data)) for domain in domains}
    first = lists[domains[0]] if trained is None else tuple(trained)
    owner = domains[0] if trained is None else "the trained model"
    for domain, found in lists.items():
        task = data.domain_of(domain).task
        if task != cfg.task:
            fitting = [name for name, row in data.DOMAINS.items() if row.task == cfg.task]
            raise ValueError(
                f"a run of the task {cfg.task} needs domains of that task, but {domain!r} is for "
                f"{task}; there are: {', '.join(fitting) or 'none'}"
            )
        if found != first:
            raise ValueError(
                f"all domains of a run must share one class list: {owner} has {list(first)}, "
                f"{domain} has {list(found)}{_SETTLED if domain.startswith(_SETTLING) else ''}"
            )
    return tuple(first)


def order(cfg: Config, training: Dataset, start: int, stop: int) -> Sampler:
    """The sampler of the training batches `start` to `stop`."""
    kind = DrawSampler if isinstance(training, DrawnSet) else StepSampler
    length: int = len(training)  # type: ignore[arg-type]
    return kind(length, cfg.batch_size, cfg.seed, start, stop)


class StepSampler(Sampler[list]):
    """Batches `start` to `stop` of an endless stream of shuffled passes over `length` samples.

    Batch i is a pure function of (seed, i), so a position is one number and resuming needs no
    history.
    """

    def __init__(self, length: int, batch_size: int, seed: int, start: int, stop: int) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list]:
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


class DrawSampler(StepSampler):
    """The batches of StepSampler as indices of a DrawnSet."""

    def __iter__(self) -> Iterator[list]:
        for batch, items in zip(range(self.start, self.stop), super().__iter__(), strict=True):
            first = batch * self.batch_size
            yield [Drawn(item, first + i) for i, item in enumerate(items)]


def step_generator(seed: int, *position: int) -> torch.Generator:
    """The source of chance of one place in a run: the same for the same seed and position."""
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
    batch_size: int = 0,
) -> DataLoader:
    """A DataLoader in set order or that of `batch_sampler`, leaving the global generators alone.

    batch_size: of the set order; 0: that of the config.
    """
    in_order = {"batch_size": batch_size or cfg.batch_size}
    return DataLoader(
        dataset,
        collate_fn=find_task(cfg).collate,
        **({"batch_sampler": batch_sampler} if batch_sampler else in_order),
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
