"""Trained runs to predict with: finding one, loading it, and scenes to try it on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ibnvision import config, data
from ibnvision.config import Config
from ibnvision.layers import fold_norm
from ibnvision.tasks.labels import Label, labeller

from . import build_model, checkpoint, find_task
from .detect import Detect, detector
from .jobs import refuse_existing
from .pictures import save_png
from .sets import build

_WEIGHTS = ("segmenter.pt", "dehazer.pt", "detector.pt", "last.pt")
_CONFIGS = {  # what trains a task
    "segmentation": "streets_quick",
    "dehazing": "streets_dehaze",
    "detection": "streets_detect",
}
_SCENES = 2


class Trained(NamedTuple):
    """A model with what its run says about it."""

    model: nn.Module
    cfg: Config
    classes: tuple[str, ...]
    size: tuple[int, int]  # height and width of the training images
    step: int = 0  # of the training, at which these weights were saved
    crops: bool = False  # whether those are crops of pictures of native size


def find_weights(
    given: str | Path | None, runs: str | Path = "runs", task: str | None = None
) -> Path:
    """The checkpoint of a file, a run or benchmark folder; by default the newest one below `runs`.

    task: by default only runs of this task count.

    Raises: FileNotFoundError that says where was looked.
    """
    if given is not None and Path(given).is_file():
        return Path(given)
    if given is not None:
        for name in _WEIGHTS:
            if (Path(given) / name).is_file():
                return Path(given) / name
        raise FileNotFoundError(
            f"--weights must be a checkpoint or a folder with {_either()}: {given}"
        )
    found = [path for name in _WEIGHTS for path in Path(runs).rglob(name)]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        if task is None or checkpoint.task_of(path) == task:
            return path
    recipe = _CONFIGS.get(task or "segmentation")
    advice = f"train first (ibnvision train {recipe}), or " if recipe else ""
    raise FileNotFoundError(
        f"no {_either()}{f' of {task}' if task else ''} below {Path(runs)}: "
        f"{advice}pass --weights RUN or FILE"
    )


def load_trained(path: str | Path, device: str | torch.device = "cpu") -> Trained:
    """The model of a checkpoint file, ready to evaluate; ValueError where the file does not fit."""
    state = checkpoint.load(path)
    cfg = config.from_dict(state["config"])
    model = build_model(cfg, len(state["classes"]), fetch=False)
    try:
        model.load_state_dict(checkpoint.weights(state))
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the model {cfg.model} of its config: {error}"
        ) from error
    height, width = state["size"]
    model = model.to(device).eval()
    crops = state.get("crops", bool(cfg.scale))  # younger than some runs
    step = state.get("step", 0)
    return Trained(model, cfg, tuple(state["classes"]), (height, width), step, crops)


def usable_device(name: str) -> torch.device:
    """The device of that name; ValueError where it is none, or torch cannot use it here."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name}, but torch sees no CUDA device: use cpu")
    return device


def label_function(trained: Trained, **how: Any) -> Label:
    """`tasks.labels.labeller`, with its arguments `how`, for a trained segmentation model.

    The batch norms of a model in eval mode are folded into its convolutions, in place: it cannot
    train any more.

    Raises: ValueError for another task, for more classes than a label file holds, and as there.
    """
    if trained.cfg.task != "segmentation":
        raise ValueError(f"trained must be of the task segmentation, got {trained.cfg.task!r}")
    if len(trained.classes) > data.IGNORED:
        raise ValueError(
            f"trained must have at most {data.IGNORED} classes, got {len(trained.classes)}"
        )
    if not trained.model.training:
        _fold(trained.model, trained.size)
    return labeller(trained.model, trained.size, crops=trained.crops, **how)


def _fold(model: nn.Module, size: tuple[int, int]) -> None:
    """fold_norm, on a small image or, where the model takes none, on one of its training size."""
    try:
        fold_norm(model)
    except ValueError:
        like = next(model.parameters())
        fold_norm(model, like.new_zeros(1, 3, *size))


def detect_function(trained: Trained, **how: Any) -> Detect:
    """`detect.detector`, with its arguments `how`, for a trained detection model.

    The batch norms of the backbone of a model in eval mode are folded into its convolutions, and a
    restorer in front of it is fused, in place: it cannot train any more.

    Raises: ValueError for another task, and as there.
    """
    if trained.cfg.task != "detection":
        raise ValueError(f"trained must be of the task detection, got {trained.cfg.task!r}")
    if not trained.model.training:
        for name, part in list(trained.model.named_modules()):
            if name.rpartition(".")[2] == "backbone":
                _fold(part, trained.size)
            elif name.rpartition(".")[2] == "restorer" and hasattr(part, "fuse"):
                part.fuse()
    return detector(trained.model, **how)


def draw_scenes(
    trained: Trained,
    see: Label | Detect,
    out: str | Path,
    *,
    overwrite: bool = False,
) -> Iterator[Path]:
    """Label, or find the objects of, drawn test scenes of the source of `streets` and three shifts.

    Writes <name>_overlay.png, input, target and prediction side by side, and in segmentation
    <name>_label.png, class ids, into `out`; yields the overlays. The target is shown where the
    classes agree.

    see: what is found in an image, float [3, H, W] in [0, 1], as of `label_function` or
    `detect_function`.

    Raises: FileExistsError unless `overwrite`.
    """
    task, folder = find_task(trained.cfg), Path(out)
    palette = torch.tensor(data.palette(trained.classes))
    ending = "_boxes" if trained.cfg.task == "detection" else ""
    for name in ("streets_day", "streets_fog", "streets_night", "streets_dusk"):
        domain = name + ending
        dataset = build(trained.cfg, domain, "test")
        labelled = data.classes(domain) == trained.classes
        for index in range(_SCENES):
            item = dataset[index]
            paths = [folder / f"{domain}_{index}_{word}.png" for word in ("overlay", "label")]
            if not overwrite:
                refuse_existing(paths)
            image, target = item["image"], item["target"] if labelled else None
            found = see(image)
            picture = task.draw(image, target, found, classes=trained.classes, palette=palette)
            save_png(picture, paths[0])
            if isinstance(found, Tensor):
                save_png(found[None], paths[1])
            yield paths[0]


def _either() -> str:
    return " or ".join(_WEIGHTS)
