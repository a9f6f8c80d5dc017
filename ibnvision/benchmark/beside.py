"""What every study measures beside its scores: other selectors, calibration, costs, redrawn images.

`of_study` measures it from finished trainings, as plain values for results.json; `added` and
`merged` bring it into the records of the study, `block` makes Markdown of those.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import (
    by_image,
    calibration,
    record,
    redraws,
    row_costs,
    scores,
    selector_table,
    selectors,
)
from .plans import Job, roles_of

Records = Sequence[record.Record]
COLUMNS = (scores.SOURCE, scores.WORST, scores.MEAN)  # of selectors and calibration, that are kept

NOTHING: dict[str, Any] = {"records": [], "intervals": {}, "differences": []}  # where none ended


def of_study(
    jobs: Sequence[Job],
    field: str,
    pairs: Callable[[Sequence[str]], list[tuple[str, str]]],
    repeats: int,
    say: Callable[[str], None],
    more: Sequence[by_image.Again] = (),
) -> dict[str, Any]:
    """`records`, and by row and column the `intervals` over images, of scores and of `differences`.

    Args:
        jobs: the trainings that ended, all of one plan.
        field: of the metric, whose score is redrawn.
        pairs: from names of rows to the (row, rival) that are compared.
        repeats: interleaved repetitions of what is timed.
        more: rows that train nothing, a run each.
    """
    if not jobs:
        return NOTHING
    roles = roles_of(jobs[0].cfg)
    say("score of each image")
    stats: dict[str, dict[int, Any]] = {}
    found: dict[str, dict[int, Any]] = {}
    for run in [*map(by_image.as_trained, jobs), *more]:
        stats.setdefault(run.row, {})[run.job.seed] = by_image.of_run(run, list(roles), say)
        found.setdefault(run.row, {})[run.job.seed] = run.logged
    drawn = redraws.redraw(stats, roles, field)
    apart = redraws.difference_intervals(drawn, pairs(list(stats)))
    say("speed and memory of each row")
    cells = [*selectors.records(jobs), *calibration.calibration_cells(found, roles)]
    costs = row_costs.records(jobs, repeats, more)
    return {
        "records": [r for r in cells if r["column"] in COLUMNS] + costs,
        "intervals": redraws.intervals(drawn),
        "differences": [[row, rival, cells] for (row, rival), cells in apart.items()],
    }


def merged(
    found: Records, metrics: Sequence[str], difference: str, measured: Mapping[str, Any]
) -> list[record.Record]:
    """The records of a study, cells of `metrics` and `difference` with their image intervals."""
    cells = measured["intervals"]
    apart = {(row, rival): columns for row, rival, columns in measured["differences"]}

    def fields(r: record.Record) -> record.Record:
        if r["metric"] in metrics:
            return cells.get(r["model"], {}).get(r["column"], {})
        if r["metric"] == difference:
            row = r["row"] if "row" in r else r["model"]
            return apart.get((row, r["rival"]), {}).get(r["column"], {})
        return {}

    return [r | fields(r) for r in found]


def after(text: str, found: Records, metric: str, unit: str, digits: int = 1) -> str:
    """The Markdown of a study, with what stands beside its scores below it."""
    return "\n\n".join(filter(None, [text, block(found, metric, unit, digits)]))


def block(found: Records, metric: str, unit: str, digits: int = 1) -> str:
    """The Markdown of what stands beside the scores, which are records of `metric` in `unit`."""
    lost = {r["model"] for r in found if r.get("not_converged")}
    mine = [r for r in found if r.get("model") not in lost]
    cells = [r for r in mine if r["metric"] == metric]
    chosen = [r for r in mine if r["metric"] == selectors.METRIC]
    parts = [redraws.table(cells, unit, digits), selector_table.table(chosen)]
    parts += [_calibration(mine), row_costs.table(found)]
    return "\n\n".join(filter(None, parts))


def _calibration(found: Records) -> str:
    """Expected calibration error at home, on the worst target and as the mean over them."""
    cells = {(r["model"], r["column"]): r["value"] for r in found if r["metric"] == "ECE"}
    columns = [c for c in COLUMNS if any(column == c for _, column in cells)]
    rows = [
        [name, *(f"{cells[name, c]:.1f}" if (name, c) in cells else "-" for c in columns)]
        for name in dict.fromkeys(name for name, _ in cells)
    ]
    if not rows:
        return ""
    return record.table(["ECE, %, less is better", *columns], rows)
