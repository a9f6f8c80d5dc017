"""What the trainings of a benchmark left, for its results.json, and the files made from that."""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ibnvision.config import to_dict
from ibnvision.ops import kernel_report

from . import findings, manifest, record, scores
from .kept_pictures import DRAWN, keep_pictures
from .plans import Job, final_scores, fingerprints, roles_of
from .runs import Outcome, State

Found = Mapping[str, Mapping[int, Mapping[str, Mapping[str, Any]]]]


def results_of(
    jobs: Sequence[Job],
    outcome: Outcome,
    state: State,
    config_name: str,
    common: record.Record,
    selection: str,
) -> dict[str, Any]:
    """What every results.json holds: where, by which configs and data, and the rows.

    selection: the rule by which checkpoints are chosen, for people. `protocol` is the hash of
    `manifest`.
    """
    cfg = jobs[0].cfg
    rows = rows_of(jobs, outcome, state, config_name)
    fields = next(f for row in rows for run in row["runs"] for f in run["found"].values())
    made = manifest.of_study(jobs, fingerprints(cfg), fields, selection)
    return {
        "environment": common,
        "config": to_dict(cfg),
        "config_name": config_name,
        "roles": roles_of(cfg),
        "images": {domain: row["facts"]["images"] for domain, row in made["sets"].items()},
        "selection": selection,
        "manifest": made,
        "protocol": manifest.digest(made),
        "ops": kernel_report(),
        "rows": rows,
    }


def found_by_row(rows: Sequence[Mapping[str, Any]]) -> Found:
    """Row -> seed -> domain -> the metric's fields, from `rows_of`."""
    return {row["name"]: {run["seed"]: run["found"] for run in row["runs"]} for row in rows}


def summary_of(found: Found, field: str, roles: scores.Roles) -> scores.Summary:
    """`scores.summarize` of one field of the metric; rows without a run are left out."""
    runs = {
        name: {seed: {d: r[field] for d, r in domains.items()} for seed, domains in runs.items()}
        for name, runs in found.items()
        if runs
    }
    return scores.summarize(runs, roles)


def batch_words(cfg: Mapping[str, Any], seen: str) -> str:
    """What a step of training sees, from the config of a results.json; seen: name of its parts."""
    size = "x".join(map(str, cfg["size"])) or f"{cfg['preset']}-sized"
    return f"{cfg['batch_size']} {seen} of {size}"


def cell_records(
    summary: scores.Summary, roles: scores.Roles, columns: Sequence[str], head: record.Record
) -> list[record.Record]:
    """A record of each cell; head: what all of them share, as metric and unit."""
    found = []
    for row, cells in summary.items():
        for column in (c for c in columns if c in cells):
            cell = dict(cells[column])
            role = roles.get(column, "source" if column == scores.SOURCE else "derived")
            place = {"model": row, "column": column, "role": role}
            found.append(head | place | {"value": cell.pop("mean")} | cell)
    return found


def write(results: Mapping[str, Any], found: Sequence[record.Record], text: str, out: Path) -> None:
    """Leave results.json, manifest.json, table.md and records.jsonl in the folder `out`."""
    manifest.write(results["manifest"], out / manifest.FILE)
    record.replace_file(out / "results.json", json.dumps(results, indent=1) + "\n")
    record.replace_file(out / "table.md", text + "\n")
    (out / "records.jsonl").unlink(missing_ok=True)
    record.append(out / "records.jsonl", found)


def finish(
    results: Mapping[str, Any],
    found: Sequence[record.Record],
    text: str,
    out: Path,
    args: Any,
    left: Mapping[str, object],
) -> int:
    """`write`, keep the records where `args` asks for it, and say what came out and where it lies.

    text: the tables. left: what lies beside table.md -> its place. Returns the exit status: 1 when
    a training failed.
    """
    write(results, found, text, out)
    keep(results, found, out, args.record)
    print(f"\n{text}\n\n{findings.verdict(found)}")
    print(f"\ndone in {results['wall_s']:.0f} s")
    for name, place in {"table": out / "table.md", **left}.items():
        print(f"{name:11} {place}")
    return 1 if any(row["failed"] for row in results["rows"]) else 0


def keep(
    results: Mapping[str, Any], found: Sequence[record.Record], out: Path, file: str | None
) -> None:
    """Append the records to a file, where one is named, with the manifest and those of the pictures
    of the folder `out` that may be passed on beside it.
    """
    if file:
        bench = results["environment"]["bench"]
        manifest.keep(results["manifest"], bench, Path(file))
        if bench in DRAWN:
            keep_pictures(results, found, out / "pictures", file)
        record.append(Path(file), found)


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
