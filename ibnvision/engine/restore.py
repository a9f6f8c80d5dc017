"""Restores picture and video files with a model that has `restore`, such as a DEA-Net."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ibnvision.methods.gate import Gate

from .checkpoint import write_atomic
from .files import KINDS, PICTURES, VIDEOS, find
from .photo import encode_png, read_photo, to_image, to_pixels

Restore = Callable[[Tensor], Tensor]


class Job(NamedTuple):
    """A file to restore and where the result goes."""

    source: Path
    target: Path

    @property
    def comparison(self) -> Path:
        """Where the picture of before beside after goes."""
        return self.target.with_name(f"{self.target.stem}_compare{self.target.suffix}")


class Report(NamedTuple):
    """What became of the files."""

    written: list[Path]
    failed: list[tuple[Path, str]]


def restore_files(
    paths: Sequence[str | Path],
    model: Any,
    out: str | Path,
    *,
    overwrite: bool = False,
    compare: bool = False,
    max_memory: int | None = None,
    gate: Gate | None = None,
    console: Console | None = None,
) -> Report:
    """Write every picture restored as PNG and every video as MP4 into `out`.

    A file that cannot be done is listed in the report and the others are done. Pictures keep their
    size, depth, greyness and alpha; sound and metadata are not kept.

    Args:
        paths: pictures, videos, folders (with all below them), patterns.
        model: has restore(x, max_memory) for x [1, 3, H, W] in [0, 1].
        compare: write <name>_compare too, before on the left and after on the right.
        max_memory: bytes, see DEANet.restore.
        gate: how far each picture and frame is restored, by its haze; None: wholly.

    Raises:
        FileNotFoundError: a path leads to no file.
        FileExistsError: a result is there already; nothing was written.
    """
    jobs = list(_jobs(paths, Path(out)))
    if not overwrite:
        for path in (p for job in jobs for p in (job.target, job.comparison)):
            if path.exists():
                raise FileExistsError(f"{path} exists: pass --overwrite or another --out")

    def whole(image: Tensor) -> Tensor:
        return model.restore(image, max_memory=max_memory)

    def restore(image: Tensor) -> Tensor:
        return (gate.restore(image[None], whole) if gate else whole(image[None]))[0]

    report = Report([], [])
    with _bar(console or Console(stderr=True)) as bar:
        task = bar.add_task("restore", total=len(jobs), name="")
        for job in jobs:
            bar.update(task, name=job.source.name)
            try:
                report.written.extend(_do(job, restore, compare))
            except Exception as error:  # decoders, memory and devices fail in many types
                reason = " ".join(str(error).split()) or type(error).__name__
                report.failed.append((job.source, reason))
            bar.advance(task)
    return report


def _jobs(paths: Sequence[str | Path], out: Path) -> Iterator[Job]:
    taken: set[Path] = set()
    for source, folder in (found for path in paths for found in find(path, out)):
        suffix = ".mp4" if source.suffix.lower() in VIDEOS else ".png"
        target, number = out / folder / f"{source.stem}{suffix}", 2
        while target in taken:
            target = out / folder / f"{source.stem}_{number}{suffix}"
            number += 1
        taken.add(target)
        yield Job(source, target)


def _do(job: Job, restore: Restore, compare: bool) -> list[Path]:
    """Restore one file; the results that were written."""
    suffix = job.source.suffix.lower()
    if suffix not in PICTURES + VIDEOS:
        raise ValueError(f"must be {KINDS}")
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if suffix in VIDEOS:
        return _video(job, restore, compare)
    photo = read_photo(job.source)
    after = restore(photo.image)
    write_atomic(job.target, encode_png(after, photo))
    if not compare:
        return [job.target]
    pair = torch.cat((photo.image, after), 2)
    write_atomic(job.comparison, encode_png(pair, photo._replace(alpha=None)))
    return [job.target, job.comparison]


def _video(job: Job, restore: Restore, compare: bool) -> list[Path]:
    from ibnvision.data.opencv import cv2

    reader = cv2.VideoCapture(str(job.source))
    targets = [job.target, job.comparison] if compare else [job.target]
    partial = [path.with_name(f".{path.stem}.part.mp4") for path in targets]
    rate, writers = reader.get(cv2.CAP_PROP_FPS) or 25.0, []
    try:
        more, frame = reader.read()
        if not more:
            raise ValueError(f"{job.source} cannot be read as a video")
        height, width = frame.shape[:2]
        for path, columns in zip(partial, (width, 2 * width), strict=False):
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writers.append(cv2.VideoWriter(str(path), code, rate, (columns, height)))
            if not writers[-1].isOpened():
                raise OSError(f"{path.parent} takes no MP4 video of {columns}x{height}")
        while more:
            before = to_image(frame)
            after = restore(before)
            writers[0].write(to_pixels(after))
            if compare:
                writers[1].write(to_pixels(torch.cat((before, after), 2)))
            more, frame = reader.read()
        for writer in writers:
            writer.release()
        for path, target in zip(partial, targets, strict=True):
            path.replace(target)
    finally:
        reader.release()
        for writer in writers:
            writer.release()
        for path in partial:
            path.unlink(missing_ok=True)
    return targets


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or console.quiet,
    )
