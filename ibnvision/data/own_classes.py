"""Classes and splits of your own folders with boxes."""

from collections.abc import Sequence
from pathlib import Path


def listed(root: Path) -> tuple[str, ...]:
    """The names in classes.txt of a folder, one a line; none where there is no such file.

    Raises ValueError for no names and for one that stands twice.
    """
    path = root / "classes.txt"
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return unlike([line.strip() for line in lines if line.strip()], root)


def unlike(names: Sequence[str], root: Path) -> tuple[str, ...]:
    """The names; ValueError where there are none, or one stands twice."""
    if not names or len({name.lower() for name in names}) < len(names):
        raise ValueError(
            f"classes of {str(root)!r} must be unlike names, at least one, got {list(names)}"
        )
    return tuple(names)


def own_split(root: Path, split: str, found: Sequence[str]) -> tuple[str, str]:
    """Which of the splits that are there serves as `split`, and that in words.

    Where there is val but no test, val serves as test too, as in the published sets.

    Raises ValueError for a train or val split of a folder whose only split is a test set.
    """
    if split == "test" and "test" not in found and "val" in found:
        return "val", "val, as there is no test split"
    if split != "test" and tuple(found) == ("test",):
        raise ValueError(
            f"{str(root)!r} must hold train/ to give a {split} split: its images are a test set; "
            "to train on them, move them with their boxes into train/"
        )
    return split, split
