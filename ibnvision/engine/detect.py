"""Writes what a detector finds in picture and video files: drawn boxes, JSON, and COCO's format."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from ibnvision import data

from .checkpoint import write_atomic, write_json
from .jobs import Job, Report, plan_jobs, refuse_existing, run_jobs
from .paint import paint_boxes
from .photo import read_photo, to_image
from .video import read_video, write_videos

DETECTIONS, COCO = "detections.json", "coco.json"
THRESHOLD = 0.5  # score below which a detection is left out, unless asked for

Detect = Callable[[Tensor], dict[str, Tensor]]


class Seen(NamedTuple):
    """What was found in a picture, or in a frame of a video."""

    file: Path
    frame: int | None  # counted from 0
    size: tuple[int, int]  # height and width in pixels
    objects: dict[str, Tensor]  # boxes float [m, 4] x0 y0 x1 y1 in pixels, labels from 1, scores


def detector(model: nn.Module, *, threshold: float = THRESHOLD, half: bool = False) -> Detect:
    """A function from an image, float [3, H, W] in [0, 1], to the objects that `model` finds in it:
    {"boxes": float [m, 4] x0 y0 x1 y1 in pixels, "labels": int64 [m] from 1, "scores": [m]} on the
    CPU, best first, those with a score of at least `threshold`.

    half: run the model in bfloat16 where autocast does.

    Raises: ValueError for a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    device = next(model.parameters()).device

    @torch.inference_mode()
    def detect(image: Tensor) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            found = model([image.to(device)])[0]
        kept = found["scores"] >= threshold
        return {key: found[key][kept].cpu() for key in ("boxes", "labels", "scores")}

    return detect


def detect_files(
    paths: Sequence[str | Path],
    detect: Detect,
    classes: Sequence[str],
    out: str | Path,
    *,
    overwrite: bool = False,
    stride: int = 1,
    console: Console | None = None,
) -> tuple[Report, list[Seen]]:
    """Write what `detect` finds in every picture and video into `out`.

    <name>_boxes.png, of a video .mp4, with the boxes drawn. detections.json: for each picture or
    frame its file, size and objects, a class name, score and box (x0, y0, x1, y1) each. coco.json:
    the same as a COCO data set whose annotations have a score, for tools that read COCO. A file
    that cannot be done is listed in the report and the others are done.

    Args:
        paths: pictures, videos, folders (with all below them), patterns.
        detect: as `detector` gives it.
        classes: the name of label i is classes[i - 1].
        stride: every so many frames of a video; it plays as long as before.

    Raises:
        FileNotFoundError: a path leads to no file.
        FileExistsError: a result is there already; nothing was written.
        ValueError: stride below 1.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    folder, jobs = Path(out), plan_jobs(paths, Path(out))
    if not overwrite:
        refuse_existing([*(job.named("boxes") for job in jobs), folder / DETECTIONS, folder / COCO])
    palette = torch.tensor(data.palette(classes))
    seen: list[Seen] = []

    def do(job: Job) -> list[Path]:
        target = job.named("boxes")
        if job.is_video:
            seen.extend(_video(job.source, target, detect, classes, palette, stride))
        else:
            seen.append(_picture(job.source, target, detect, classes, palette))
        return [target]

    try:
        report = run_jobs(jobs, do, "detect", console)
    finally:  # Ctrl-C keeps what was found in the files that are done
        if seen:
            write_json(folder / DETECTIONS, plain(seen, classes))
            write_json(folder / COCO, as_coco(seen, classes))
    return report, seen


def plain(seen: Sequence[Seen], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One entry for each picture or frame, as detections.json holds them."""
    rows: list[dict[str, Any]] = []
    for one in seen:
        head: dict[str, Any] = {"file": str(one.file)}
        if one.frame is not None:
            head["frame"] = one.frame
        objects = [
            {"class": classes[label - 1], "score": score, "box": box}
            for label, score, box in _objects(one)
        ]
        rows.append({**head, "height": one.size[0], "width": one.size[1], "objects": objects})
    return rows


def as_coco(seen: Sequence[Seen], classes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """A COCO data set: boxes are x, y, width, height; a frame is a picture named FILE#FRAME."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(seen, 1):
        name = str(one.file) if one.frame is None else f"{one.file}#{one.frame}"
        height, width = one.size
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for label, score, (x0, y0, x1, y1) in _objects(one):
            sides = (x1 - x0, y1 - y0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": [x0, y0, *(round(side, 2) for side in sides)],
                    "area": round(sides[0] * sides[1], 2),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _objects(one: Seen) -> list[tuple[int, float, list[float]]]:
    """Label, score and box of each object, in digits that mean something."""
    found = one.objects
    rows = zip(*(found[k].tolist() for k in ("labels", "scores", "boxes")), strict=True)
    return [(label, round(s, 5), [round(v, 2) for v in box]) for label, s, box in rows]


def _picture(
    source: Path, target: Path, detect: Detect, classes: Sequence[str], palette: Tensor
) -> Seen:
    from ibnvision.data.opencv import cv2

    image = read_photo(source).image
    objects = detect(image)
    drawn = paint_boxes(image, objects, classes, palette)
    write_atomic(target, cv2.imencode(".png", drawn)[1].tobytes())
    return Seen(source, None, (image.shape[1], image.shape[2]), objects)


def _video(
    source: Path,
    target: Path,
    detect: Detect,
    classes: Sequence[str],
    palette: Tensor,
    stride: int,
) -> list[Seen]:
    seen = []
    with (
        read_video(source) as clip,
        write_videos([target], [clip.size], clip.rate / stride) as (add,),
    ):
        for index, frame in enumerate(clip.frames):
            if index % stride == 0:
                image = to_image(frame)
                objects = detect(image)
                add(paint_boxes(image, objects, classes, palette))
                seen.append(Seen(source, index, clip.size, objects))
    return seen
