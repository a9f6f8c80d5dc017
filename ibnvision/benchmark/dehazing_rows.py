"""What the dehazing benchmark measures itself: rows without training, and the gate of a run."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibnvision.config import Config
from ibnvision.engine import build_model
from ibnvision.engine.gate import find_gate
from ibnvision.engine.predict import Trained, load_trained
from ibnvision.methods import dark_channel
from ibnvision.methods.gate import Gate, mixed
from ibnvision.metrics import RestorationMetric, psnr

from .by_image import Again
from .dehazing_scores import FULL, GATED, IDENTITY, PRIOR, TUNED_PRIOR
from .plans import Job, dataset_of

Restore = Callable[[Tensor], Tensor]
Found = dict[str, dict[str, Any]]
PATCHES = (3, 5, 7, 9, 15)  # of the prior, in pixels; 15 is the paper's
TUNED_ON = 100  # pictures at most


def untrained(patch: int) -> dict[str, Restore]:
    """Row -> what it does to an image; patch: of the prior as tuned."""
    return {
        IDENTITY: lambda image: image,
        PRIOR: dark_channel.restore,
        TUNED_PRIOR: partial(dark_channel.restore, patch=patch),
    }


def tuned_patch(cfg: Config) -> int:
    """The patch of the prior that is best on the source's validation pictures.

    Small pictures want a smaller one than the paper's, so the baseline gets the choice too.
    """

    def score(patch: int) -> float:
        restore = partial(dark_channel.restore, patch=patch)
        found = measured(cfg, cfg.train_domains, restore, "val", TUNED_ON)
        return sum(row["psnr_rgb_db"] for row in found.values())

    return max(PATCHES, key=score)


@torch.no_grad()
def measured(
    cfg: Config,
    domains: Sequence[str],
    restore: Restore,
    split: str = "test",
    limit: int | None = None,
) -> Found:
    """Domain -> the metric's fields over a split.

    restore: takes and gives [1, 3, H, W] in [0, 1]. limit: pictures at most.
    """
    found = {}
    for domain in domains:
        dataset, metric = dataset_of(cfg, domain, split, limit), RestorationMetric()
        for i in range(len(dataset)):
            item = dataset[i]
            metric.update(restore(item["image"][None]), item["target"][None])
        found[domain] = metric.compute()
    return found


class Gated(nn.Module):
    """A restoration network behind its identity gate, which acts on the hazy images of a batch."""

    def __init__(self, network: nn.Module, gate: Gate) -> None:
        super().__init__()
        self.network, self.gate = network, gate

    def restore(self, images: Tensor) -> Tensor:
        """images: [N, 3, H, W] in [0, 1]."""
        act: Any = self.network.restore
        weights = [self.gate.weight(image[None]) for image in images]
        hazy, found = [i for i, g in enumerate(weights) if g], list(images)
        for i, restored in zip(hazy, act(images[hazy]) if hazy else (), strict=True):
            found[i] = mixed(images[i], restored, weights[i])
        return torch.stack(found)


def again(jobs: Sequence[Job], found: Mapping[int, Found]) -> list[Again]:
    """Runs behind their gates, for what is measured beside the scores; found: seed -> `gated`."""

    def load(weights: Path) -> Trained:
        trained, gate = load_trained(weights), find_gate(weights)
        assert gate is not None
        model: Any = trained.model
        return trained._replace(model=Gated(model.fuse(), gate))

    return [
        Again(GATED, job, "gate", partial(load, job.folder / "last.pt"), found[job.seed])
        for job in jobs
        if job.row.name == FULL and job.seed in found
    ]


@torch.no_grad()
def gated(weights: Path, cfg: Config, domains: Sequence[str]) -> Found:
    """As `measured`, of a run's network behind its own gate.

    Beside the metric's fields each domain has `weight` (mean of the gate), `untouched_pct` (of the
    pictures, those that come back to the bit) and `worst_db` (least PSNR of a picture). Empty where
    the run has no gate, since its validation pairs gave none.
    """
    found: Found = {}
    gate = find_gate(weights)
    if gate is None:
        return found
    model: Any = load_trained(weights).model
    model.fuse()
    for domain in domains:
        shares: list[float] = []
        errors: list[float] = []
        dataset, metric = dataset_of(cfg, domain, "test"), RestorationMetric()
        for i in range(len(dataset)):
            item = dataset[i]
            hazy, clear = item["image"][None], item["target"][None]
            result = gate.restore(hazy, model.restore)
            shares.append(gate.weight(hazy))
            errors.append(psnr(result, clear).item())
            metric.update(result, clear)
        untouched = 100 * sum(share == 0 for share in shares) / len(shares)
        found[domain] = metric.compute() | {"weight": sum(shares) / len(shares)}
        found[domain] |= {"untouched_pct": untouched, "worst_db": min(errors)}
    return found


def folded_parameters(cfg: Config) -> int:
    """Weights of the network as it runs after training, its convolutions folded."""
    model: Any = build_model(cfg, 0)
    return sum(p.numel() for p in model.fuse().parameters())
