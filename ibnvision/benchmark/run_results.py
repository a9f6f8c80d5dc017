"""What the trainings of a benchmark left, for its results.json."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .runs import Job, Outcome, State, final_scores


def rows_of(
    jobs: Sequence[Job], outcome: Outcome, state: State, config_name: str
) -> list[dict[str, Any]]:
    """For every row: its name, command, runs by seed and failures (run name -> last words).

    A run holds seed, folder, wall_s, cpu_s, reused, and as `found` the metric's fields by domain.
    """
    rows: list[dict[str, Any]] = []
    for row in dict.fromkeys(job.row for job in jobs):
        mine = [job for job in jobs if job.row == row]
        runs = [_run(job, outcome, state) for job in outcome.done if job.row == row]
        failed = {n: outcome.failed[n] for j in mine if (n := j.cfg.name) in outcome.failed}
        command = shlex.join(["ibnvision", *mine[0].command(config_name)[3:]])
        runs.sort(key=lambda run: run["seed"])
        rows.append({"name": row.name, "command": command, "runs": runs, "failed": failed})
    return rows


def _run(job: Job, outcome: Outcome, state: State) -> dict[str, Any]:
    found = final_scores(job)
    assert found is not None
    return {
        "seed": job.seed,
        "folder": str(job.folder),
        "found": found,
        "wall_s": state.runs[job.cfg.name].get("wall_s"),
        "cpu_s": state.runs[job.cfg.name].get("cpu_s"),
        "reused": job.cfg.name in outcome.reused,
    }


def leave_weights(results: Mapping[str, Any], names: Sequence[str], target: Path) -> Path | None:
    """Copy last.pt of the first seed of the first of these rows that has one: no score chooses."""
    rows = {row["name"]: row["runs"] for row in results["rows"]}
    runs: list[Mapping[str, Any]] = next((rows[n] for n in names if rows.get(n)), [])
    if not runs:
        return None
    temporary = target.with_name(f".{target.name}")
    shutil.copyfile(Path(runs[0]["folder"]) / "last.pt", temporary)
    temporary.replace(target)
    return target
