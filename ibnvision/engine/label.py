"""Writes what a segmentation model sees in picture and video files, and the share of each class."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ibnvision import data
from ibnvision.config import nearest
from ibnvision.tasks.labels import Label
from ibnvision.tasks.panels import legend

from .checkpoint import write_atomic
from .jobs import Job, Report, plan_jobs, refuse_existing, run_jobs
from .paint import paint, paint_over
from .photo import read_photo, to_image
from .pictures import save_png
from .video import read_video, write_videos

RESULTS = ("overlay", "color", "label")
SHARES, LEGEND = "shares.csv", "legend.png"


class Share(NamedTuple):
    """How much of a picture, or of a frame of a video, each class covers."""

    file: Path
    frame: int | None  # counted from 0
    percent: list[float]  # one for each class; they add to 100


class Style(NamedTuple):
    """What is written, and how."""

    palette: Tensor  # uint8 RGB [K, 3]
    results: tuple[str, ...]
    opacity: float
    stride: int


def label_files(
    paths: Sequence[str | Path],
    label: Label,
    classes: Sequence[str],
    out: str | Path,
    *,
    overwrite: bool = False,
    only: Sequence[str] = RESULTS,
    opacity: float = 0.6,
    stride: int = 1,
    console: Console | None = None,
) -> tuple[Report, list[Share]]:
    """Write what `label` finds in every picture as PNG and in every video as MP4 into `out`.

    Of each picture, at its own size: <name>_overlay.png, it under translucent colours,
    <name>_color.png, the colours alone, and <name>_label.png, class ids in 8 bits. Of a video
    overlay and color, since MP4 does not keep ids. Besides shares.csv, the percentage of each class
    in each picture or frame, and legend.png. A file that cannot be done is listed in the report and
    the others are done. Alpha, sound and metadata are not kept.

    Args:
        paths: pictures, videos, folders (with all below them), patterns.
        label: class ids, uint8 [H, W] on the CPU, of an image, float [3, H, W] in [0, 1].
        only: which of overlay, color and label.
        opacity: of the colours of an overlay, in [0, 1].
        stride: every so many frames of a video; it plays as long as before.

    Raises:
        FileNotFoundError: a path leads to no file.
        FileExistsError: a result is there already; nothing was written.
        KeyError, ValueError: an argument is not as above.
    """
    for name in only:
        if name not in RESULTS:
            raise KeyError(f"only names the unknown result {name!r}: {nearest(name, RESULTS)}")
    if not only:
        raise ValueError(f"only must name at least one of {', '.join(RESULTS)}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in [0, 1], got {opacity}")
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    folder, jobs = Path(out), plan_jobs(paths, Path(out))
    if not overwrite:
        results = (job.named(word) for job in jobs for word in RESULTS)
        refuse_existing([*results, folder / SHARES, folder / LEGEND])
    style = Style(torch.tensor(data.palette(classes)), tuple(only), opacity, stride)
    shares: list[Share] = []

    def do(job: Job) -> list[Path]:
        written, found = (_video if job.is_video else _picture)(job, label, style)
        shares.extend(found)
        return written

    try:
        report = run_jobs(jobs, do, "label", console)
    finally:  # Ctrl-C keeps those of the files that are done
        if shares:
            _write_shares(shares, classes, folder / SHARES)
            save_png(legend(classes, style.palette), folder / LEGEND)
    return report, shares


def mean_shares(shares: Sequence[Share]) -> list[float]:
    """The mean over files; that of a video is the mean over its frames."""
    files: dict[Path, list[list[float]]] = {}
    for share in shares:
        files.setdefault(share.file, []).append(share.percent)
    return np.mean([np.mean(rows, 0) for rows in files.values()], 0).tolist()


def _picture(job: Job, label: Label, style: Style) -> tuple[list[Path], list[Share]]:
    from ibnvision.data.opencv import cv2

    image = read_photo(job.source).image
    ids = label(image)
    written = []
    for word in style.results:
        pixels = ids.numpy() if word == "label" else _drawn(word, image, ids, style)
        written.append(job.named(word))
        write_atomic(written[-1], cv2.imencode(".png", pixels)[1].tobytes())
        del pixels
    return written, [Share(job.source, None, _percent(ids, style))]


def _video(job: Job, label: Label, style: Style) -> tuple[list[Path], list[Share]]:
    words = [word for word in style.results if word != "label"]
    if not words:
        raise ValueError("only must name overlay or color for a video: MP4 does not keep class ids")
    targets, shares = [job.named(word) for word in words], []
    with (
        read_video(job.source) as clip,
        write_videos(targets, [clip.size] * len(words), clip.rate / style.stride) as write,
    ):
        for index, frame in enumerate(clip.frames):
            if index % style.stride:
                continue
            image = to_image(frame)
            ids = label(image)
            for word, add in zip(words, write, strict=True):
                add(_drawn(word, image, ids, style))
            shares.append(Share(job.source, index, _percent(ids, style)))
    return targets, shares


def _drawn(word: str, image: Tensor, ids: Tensor, style: Style) -> Any:
    if word == "color":
        return paint(ids, style.palette)
    return paint_over(image, ids, style.palette, style.opacity)


def _percent(ids: Tensor, style: Style) -> list[float]:
    counts = torch.bincount(ids.flatten(), minlength=len(style.palette))
    return (counts.double() * (100 / ids.numel())).tolist()


def _write_shares(shares: Sequence[Share], classes: Sequence[str], path: Path) -> None:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "frame", *(f"{name}_pct" for name in classes)])
    for share in shares:
        frame = "" if share.frame is None else share.frame
        rows.writerow([share.file, frame, *(f"{value:.6f}" for value in share.percent)])
    write_atomic(path, text.getvalue().encode())
