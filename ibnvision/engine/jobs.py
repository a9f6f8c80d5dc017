"""One thing done to many files: where each result goes, what came of it, a bar on the way."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .files import KINDS, PICTURES, VIDEOS, find


class Job(NamedTuple):
    """A file and where its result goes: a .png, of a video an .mp4."""

    source: Path
    target: Path

    @property
    def is_video(self) -> bool:
        """Whether the source is one, by its suffix."""
        return self.source.suffix.lower() in VIDEOS

    def named(self, word: str) -> Path:
        """<target>_<word>, beside the target."""
        return self.target.with_name(f"{self.target.stem}_{word}{self.target.suffix}")


class Report(NamedTuple):
    """What became of the files."""

    written: list[Path]
    failed: list[tuple[Path, str]]

    def check(self) -> None:
        """Raise a ValueError that names every file that failed, and why."""
        if self.failed:
            reasons = "; ".join(
                reason if str(path) in reason else f"{path}: {reason}"
                for path, reason in self.failed
            )
            total = len({path for path, _ in self.failed})
            raise ValueError(f"{total} files failed, the others are done: {reasons}")


def plan_jobs(paths: Sequence[str | Path], out: Path) -> list[Job]:
    """A job for each file of the paths, in `out` in the same folders; same names get numbers.

    Raises: FileNotFoundError: a path leads to no file.
    """
    taken: set[Path] = set()
    jobs = []
    for source, folder in (found for path in paths for found in find(path, out)):
        suffix = ".mp4" if source.suffix.lower() in VIDEOS else ".png"
        target, number = out / folder / f"{source.stem}{suffix}", 2
        while target in taken:
            target = out / folder / f"{source.stem}_{number}{suffix}"
            number += 1
        taken.add(target)
        jobs.append(Job(source, target))
    return jobs


def refuse_existing(paths: Iterable[Path]) -> None:
    """FileExistsError with advice for the first path that exists."""
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path} exists: pass --overwrite or another --out")


def run_jobs(
    jobs: Sequence[Job],
    do: Callable[[Job], list[Path]],
    verb: str,
    console: Console | None = None,
) -> Report:
    """Do every job; one that fails is listed in the report and the others are done.

    do: gives the files that it wrote; the folder of the job's target is there.
    """
    report = Report([], [])
    with _bar(console or Console(stderr=True)) as bar:
        task = bar.add_task(verb, total=len(jobs), name="")
        for job in jobs:
            bar.update(task, name=job.source.name)
            try:
                if job.source.suffix.lower() not in PICTURES + VIDEOS:
                    raise ValueError(f"must be {KINDS}")
                job.target.parent.mkdir(parents=True, exist_ok=True)
                report.written.extend(do(job))
            except Exception as error:  # decoders, memory and devices fail in many types
                reason = " ".join(str(error).split()) or type(error).__name__
                report.failed.append((job.source, reason))
            bar.advance(task)
    return report


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or console.quiet,
    )
