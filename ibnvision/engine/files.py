"""The pictures and videos that the paths of a command name."""

import glob
from pathlib import Path

from ibnvision.data.layout import SUFFIXES as PICTURES

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
KINDS = f"a picture or a video, one of {', '.join(PICTURES + VIDEOS)}"


def find(path: str | Path, leave_out: Path | None = None) -> list[tuple[Path, Path]]:
    """Every file of a path, and its folder as seen from there.

    A folder gives the pictures and videos in it at any depth, a pattern the files that match, of
    whatever kind. leave_out: what lies below this folder is not taken from another one.

    Raises: FileNotFoundError where there is none.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.suffix.lower() in PICTURES + VIDEOS)
        files = [p for p in files if p.is_file() and not _below(p, leave_out)]
        if not files:
            raise FileNotFoundError(f"no pictures or videos in folder {place}")
        return [(file, file.parent.relative_to(place)) for file in files]
    names = [place] if place.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not names:
        raise FileNotFoundError(f"no file, folder or match for {path}")
    return [(file, Path()) for file in names if file.is_file()]


def _below(file: Path, folder: Path | None) -> bool:
    return folder is not None and folder.resolve() in file.resolve().parents
