"""What the resolution benchmark measures of a trained network: views, scores, time, memory."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import RotaryEmbeddingCat
from torch import Tensor, nn

from ibnvision import data, engine
from ibnvision.config import Config
from ibnvision.data.paired import digest as sha256_of
from ibnvision.engine.predict import load_trained
from ibnvision.layers import to_lambda
from ibnvision.metrics.by_image import Statistics, statistics, whole
from ibnvision.tasks import TASKS

from . import by_image, measure
from .live_bytes import LiveBytes
from .plans import Job, dataset_of, digest, slug
from .resolution_scores import PROBES, SCALES, SCENE, SHEET, size

PICTURES = 64  # scenes of the test split at most
FIELD = "miou_pct"
AT_ONCE = 16  # pictures of the trained size, or as many pixels, in a forward pass
NO_PREFIX = {"class_token": False, "num_reg_tokens": 0}

Pair = tuple[Tensor, Tensor]  # image [3, H, W], target [H, W]


@dataclass(frozen=True)
class View:
    """A line of the tables: a trained network, and how its patches see each other.

    trained: name of the training row. sees: "as trained"; "window": a window and no prefix;
    "lambda": a window and the prefix. native: rotary positions keep the trained spacing, else they
    are squeezed into the trained range. limit: patches meet the prefix, which stands at the origin,
    no farther than in training. every: one of so many blocks stays as trained.
    """

    name: str
    trained: str
    sees: str = "as trained"
    native: bool = False
    limit: bool = False
    every: int | None = None

    @property
    def key(self) -> str:
        """Its name as part of a file's."""
        return slug(self.name)


def network(view: View, weights: Path) -> nn.Module:
    """The network of a checkpoint as `view` has it; no weight changes."""
    trained = load_trained(weights)
    model, cfg = trained.model, trained.cfg
    if view.sees == "window":  # the same blocks in a network that was built without a prefix
        mine = model.state_dict()
        inner = cfg.model_args["backbone_args"] | NO_PREFIX
        bare = dataclasses.replace(cfg, model_args=cfg.model_args | {"backbone_args": inner})
        model = engine.build_model(bare, len(trained.classes), fetch=False).eval()
        model.load_state_dict({name: mine[name] for name in model.state_dict()})
    if view.sees != "as trained":
        to_lambda(
            model,
            rope="native" if view.native else "resample",
            prefix_rope="resample" if view.limit else "same",
            dense_every=view.every,
        )
    elif view.native:
        for module in model.modules():
            if isinstance(module, RotaryEmbeddingCat):
                module.ref_feat_shape = None
    return model


class Scores:
    """What each scene adds to the scores of views of runs, kept in the runs' folders, as of
    `by_image`; and the pictures for it."""

    def __init__(self, cfg: Config, say: Callable[[str], None]) -> None:
        self.cfg, self.say = cfg, say
        source = cfg.train_domains[0]
        self.classes = data.classes(source)
        first = dataset_of(cfg, source, "train", 1)[0]["image"]
        self.size = (int(first.shape[1]), int(first.shape[2]))  # of the training images
        self.facts = [dataset_of(cfg, source, "test", PICTURES).fingerprint(), PICTURES]
        self._drawn: dict[tuple[str, int], list[Pair]] = {}

    def pictures(self, probe: str, scale: int) -> list[Pair]:
        """Images and targets of a probe, `scale` times as high and wide as in training.

        SCENE: the first PICTURES scenes of the source's test split, drawn that large. SHEET: the
        same scenes at the trained size, `scale` x `scale` of them side by side.
        """
        if (probe, scale) not in self._drawn:
            self._drawn[probe, scale] = self._draw(probe, scale)
        return self._drawn[probe, scale]

    def _draw(self, probe: str, scale: int) -> list[Pair]:
        if probe == SHEET:
            scenes = self.pictures(SCENE, 1)
            parts = [scenes[at : at + scale**2] for at in range(0, len(scenes), scale**2)]
            return [_sheet(part, scale) for part in parts if len(part) == scale**2]
        size = (self.size[0] * scale, self.size[1] * scale)
        larger = dataclasses.replace(self.cfg, size=size)
        dataset = dataset_of(larger, self.cfg.train_domains[0], "test", PICTURES)
        items = [dataset[i] for i in range(len(dataset))]
        return [(item["image"], item["target"]) for item in items]

    def of(self, job: Job, view: View) -> dict[str, list[Statistics]]:
        """Probe -> what each scene adds at each of SCALES, of a finished run.

        As `metrics.by_image.statistics` gives it, and `scenes`, which tells sets of scenes apart.
        """
        weights = job.folder / "last.pt"
        identity = [sha256_of(weights), *self.facts]
        scenes = np.array(digest(self.facts))  # of all probes: a sheet's parts are the first ones
        found: dict[str, list[Statistics]] = {}
        model: nn.Module | None = None
        for probe in PROBES:
            for scale in SCALES:
                key = digest(identity, dataclasses.asdict(view), probe, scale, by_image.FORMAT)
                path = job.folder / by_image.FOLDER / f"{view.key}_{probe}_{size(scale)}.npz"
                kept = by_image.read(path, key)
                if kept is None:
                    model = model or network(view, weights)
                    kept = self._measured(model, probe, scale)
                    by_image.write(path, key, kept)
                found.setdefault(probe, []).append({**kept, "scenes": scenes})
        parts = [
            f"{p} {', '.join(f'{whole(one, FIELD):.1f}' for one in row)}"
            for p, row in found.items()
        ]
        self.say(f"{view.name}, seed {job.seed}: mIoU % from 1x on: {'; '.join(parts)}")
        return found

    @torch.no_grad()
    def _measured(self, model: nn.Module, probe: str, scale: int) -> Statistics:
        task, pairs = TASKS[self.cfg.task], self.pictures(probe, scale)
        side = scale if probe == SHEET else 1  # of scenes in a picture
        count = max(1, AT_ONCE * self.size[0] * self.size[1] // pairs[0][1].numel())
        metrics = []
        for at in range(0, len(pairs), count):
            images, targets = zip(*pairs[at : at + count], strict=True)
            batch = {"image": torch.stack(images), "target": torch.stack(targets)}
            for whole_picture in zip(*task.evaluate(model, batch, self.cfg), strict=True):
                for part in zip(*(_parts(each, side) for each in whole_picture), strict=True):
                    metrics.append(task.new_metric(self.classes))
                    metrics[-1].update(*(each[None] for each in part))
        return statistics(metrics)


def _sheet(pairs: Sequence[Pair], side: int) -> Pair:
    """Equally large pictures as one, `side` in a row."""

    def joined(parts: Sequence[Tensor]) -> Tensor:
        rows = [torch.cat(list(parts[i : i + side]), -1) for i in range(0, len(parts), side)]
        return torch.cat(rows, -2)

    images, targets = zip(*pairs, strict=True)
    return joined(images), joined(targets)


def _parts(picture: Tensor, side: int) -> list[Tensor]:
    """A sheet [H, W] as the scenes that it is made of."""
    return [p for row in picture.chunk(side, -2) for p in row.chunk(side, -1)]


def form_of(networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The trained grid and the window of the converted networks, in patches."""
    for model in networks.values():
        for module in model.modules():
            form: Any = getattr(module, "lambda_form", None)
            if form is not None:
                return {"grid": list(form.trained), "window": list(form.window)}
    return {"grid": [], "window": []}


@torch.no_grad()
def costs(
    networks: Mapping[str, nn.Module], scores: Scores, repeats: int
) -> Iterator[dict[str, Any]]:
    """Per scale and view: CPU seconds of one image on one thread, their spread, live bytes."""
    with measure.threads(1):
        for scale in SCALES:
            image = scores.pictures(SCENE, scale)[0][0][None]
            calls = {name: _call(model, image) for name, model in networks.items()}
            for name, sample in measure.interleave(calls, repeats, warmup=1).items():
                seconds = sample[:, measure.CPU]
                with LiveBytes(image) as live:
                    calls[name]()
                row = {"view": name, "scale": scale, "n": repeats, "peak_bytes": live.peak}
                row |= {"cpu_s": float(np.median(seconds)), "spread": measure.spread(seconds)}
                yield row


def _call(model: nn.Module, image: Tensor) -> Any:
    return lambda: model(image)
