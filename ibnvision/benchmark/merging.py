"""One table over the records of several files, of one protocol only."""

from collections.abc import Sequence
from pathlib import Path

from . import manifest, over_tasks, record


def merged(files: Sequence[Path]) -> str:
    """The table over tasks of the newest run of each question in each file, as Markdown.

    A row that an earlier file has, too, is told apart by the name of its file.

    Raises: ValueError where the files hold no study, or where two runs of a question were made by
    different protocols: the error says in what they differ, if their manifests lie beside them.
    """
    runs: dict[str, list[record.Record]] = {}
    first: dict[str, Path] = {}
    for path in files:
        for bench, found in _studies(path).items():
            if bench in runs:
                _check(bench, runs[bench][0], first[bench], found[0], path)
            first.setdefault(bench, path)
            taken = {r["model"] for r in runs.get(bench, ()) if "model" in r}
            runs.setdefault(bench, []).extend(_renamed(r, taken, path) for r in found)
    if not runs:
        names = ", ".join(map(str, files))
        raise ValueError(f"files must hold records of {', '.join(over_tasks.QUESTIONS)}: {names}")
    return over_tasks.of_runs({bench: [run] for bench, run in runs.items()})


def _studies(path: Path) -> dict[str, list[record.Record]]:
    """Question -> its newest run in a file, quick or not."""
    found: dict[str, list[record.Record]] = {}
    for r in sorted(record.read(path), key=lambda r: r["run"]):
        if r["bench"] in over_tasks.QUESTIONS:
            mine = found.setdefault(r["bench"], [])
            if mine and mine[0]["run"] != r["run"]:
                mine.clear()
            mine.append(r)
    return found


def _renamed(r: record.Record, taken: set[str], path: Path) -> record.Record:
    names = {key: r[key] for key in ("model", "row", "rival") if r.get(key) in taken}
    return r | {key: f"{name} ({path.stem})" for key, name in names.items()}


def _check(bench: str, a: record.Record, at: Path, b: record.Record, path: Path) -> None:
    if a.get("protocol") == b.get("protocol"):
        return
    this = manifest.find(bench, a.get("protocol", ""), at)
    that = manifest.find(bench, b.get("protocol", ""), path)
    apart = manifest.differences(this, that) if this and that else []
    words = f": they differ in {'; '.join(apart)}" if apart else ""
    raise ValueError(
        f"tables of different protocols cannot be merged; {bench} in {at} was made by "
        f"{str(a.get('protocol'))[:16]}, in {path} by {str(b.get('protocol'))[:16]}{words}"
    )
