"""Predictions of a trained run for pictures, folders, patterns and videos."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transform

from ibnvision import config, data
from ibnvision.config import Config

from . import build_model, checkpoint, explained, find_task
from .files import KINDS, PICTURES, VIDEOS, find
from .photo import read_photo, to_image
from .pictures import save_png
from .sets import build

_WEIGHTS = ("segmenter.pt", "dehazer.pt", "last.pt")
_CONFIGS = {"segmentation": "streets_quick", "dehazing": "streets_dehaze"}  # what trains a task
_SCENES = 2


class Trained(NamedTuple):
    """A model with what its run says about it."""

    model: nn.Module
    cfg: Config
    classes: tuple[str, ...]
    size: tuple[int, int]  # height and width of the training images


class Frame(NamedTuple):
    """One input: a name for its files, the image float [3, H, W] in [0, 1], the labels if known."""

    name: str
    image: Tensor
    target: Tensor | None


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
    model = build_model(cfg, len(state["classes"]))
    try:
        model.load_state_dict(checkpoint.weights(state))
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the model {cfg.model} of its config: {error}"
        ) from error
    height, width = state["size"]
    return Trained(model.to(device).eval(), cfg, tuple(state["classes"]), (height, width))


@torch.no_grad()
def predict(
    paths: Sequence[str | Path],
    trained: Trained,
    out: str | Path,
    *,
    overwrite: bool = False,
    stride: int = 1,
) -> Iterator[Path]:
    """Write <name>_overlay.png and <name>_label.png (class ids) into `out`; yields the overlays.

    paths: picture or video files, folders of pictures, patterns; none: drawn scenes with their
    labels. A picture is brought to the height of the training images and its labels back to its own
    size. stride: every so many frames of a video. Raises: FileNotFoundError and ValueError naming
    the path; FileExistsError unless `overwrite`.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    task, folder = find_task(trained.cfg), Path(out)
    device = next(trained.model.parameters()).device
    files = [file for path in paths for file in _files(path)]
    palette = torch.tensor(data.palette(trained.classes))
    used: dict[str, int] = {}
    for name, image, target in _frames(files, stride) if files else _scenes(trained):
        used[name] = used.get(name, 0) + 1
        name = name if used[name] == 1 else f"{name}_{used[name]}"
        overlay, label = folder / f"{name}_overlay.png", folder / f"{name}_label.png"
        if not overwrite and (overlay.exists() or label.exists()):
            raise FileExistsError(f"{overlay} exists: pass --overwrite or another --out")
        with explained(trained.cfg):
            ids = task.predict(trained.model, _resized(image, trained.size)[None].to(device))[
                0
            ].cpu()
        ids = transform.resize(
            ids[None], list(image.shape[1:]), interpolation=transform.InterpolationMode.NEAREST
        )[0]
        picture = task.draw(image, target, ids, classes=trained.classes, palette=palette)
        save_png(picture, overlay)
        save_png(ids[None].to(torch.uint8), label)
        yield overlay


def _either() -> str:
    return " or ".join(_WEIGHTS)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """To the height of the training images, the aspect kept to a multiple of 8 pixels."""
    height, width = size[0], max(8, round(image.shape[2] * size[0] / image.shape[1] / 8) * 8)
    if tuple(image.shape[1:]) == (height, width):
        return image
    return transform.resize(image, [height, width], antialias=True).clamp(0, 1)


def _files(path: str | Path) -> list[Path]:
    files = [file for file, _ in find(path)]
    for file in files:
        if file.suffix.lower() not in PICTURES + VIDEOS:
            raise ValueError(f"{file} must be {KINDS}")
    return files


def _frames(files: Sequence[Path], stride: int) -> Iterator[Frame]:
    for file in files:
        if file.suffix.lower() in PICTURES:
            yield Frame(file.stem, read_photo(file).image, None)
        else:
            yield from _video(file, stride)


def _video(file: Path, stride: int) -> Iterator[Frame]:
    from ibnvision.data.opencv import cv2

    video, index = cv2.VideoCapture(str(file)), 0
    try:
        while True:
            more, pixels = video.read()
            if not more:
                break
            if index % stride == 0:
                yield Frame(f"{file.stem}_{index:06d}", to_image(pixels), None)
            index += 1
    finally:
        video.release()
    if index == 0:
        raise ValueError(f"{file} cannot be read as a video")


def _scenes(trained: Trained) -> Iterator[Frame]:
    """Drawn test scenes of the source and three shifts, with labels where the classes agree."""
    for domain in ("streets_day", "streets_fog", "streets_night", "streets_dusk"):
        dataset = build(trained.cfg, domain, "test")
        labelled = data.classes(domain) == trained.classes
        for index in range(_SCENES):
            item = dataset[index]
            yield Frame(f"{domain}_{index}", item["image"], item["target"] if labelled else None)
