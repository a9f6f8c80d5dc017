"""Restores picture and video files with a model that has `restore`, such as a DEA-Net."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ibnvision.methods.gate import Gate

from .checkpoint import write_atomic
from .jobs import Job, Report, plan_jobs, refuse_existing, run_jobs
from .photo import encode_png, read_photo, to_image, to_pixels
from .video import read_video, write_videos

Restore = Callable[[Tensor], Tensor]


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
    jobs = plan_jobs(paths, Path(out))
    if not overwrite:
        refuse_existing(p for job in jobs for p in (job.target, job.named("compare")))

    def whole(image: Tensor) -> Tensor:
        return model.restore(image, max_memory=max_memory)

    def restore(image: Tensor) -> Tensor:
        return (gate.restore(image[None], whole) if gate else whole(image[None]))[0]

    return run_jobs(jobs, lambda job: _do(job, restore, compare), "restore", console)


def _do(job: Job, restore: Restore, compare: bool) -> list[Path]:
    """Restore one file; the results that were written."""
    targets = [job.target, job.named("compare")] if compare else [job.target]
    if job.is_video:
        return _video(job, restore, targets)
    photo = read_photo(job.source)
    after = restore(photo.image)
    write_atomic(job.target, encode_png(after, photo))
    if compare:
        pair = torch.cat((photo.image, after), 2)
        write_atomic(targets[1], encode_png(pair, photo._replace(alpha=None)))
    return targets


def _video(job: Job, restore: Restore, targets: list[Path]) -> list[Path]:
    with read_video(job.source) as clip:
        height, width = clip.size
        sizes = [(height, width), (height, 2 * width)][: len(targets)]
        with write_videos(targets, sizes, clip.rate) as write:
            for frame in clip.frames:
                before = to_image(frame)
                after = restore(before)
                write[0](to_pixels(after))
                if len(write) > 1:
                    write[1](to_pixels(torch.cat((before, after), 2)))
    return targets
