"""Calibration of the rows of a study, in the columns of its scores; lower is better.

Segmentation has the expected calibration error of its pixels, detection that of its boxes; what
each counts is a rule of `metrics.rules`. Dehazing gives no confidence and so has none.
"""

import math
from collections.abc import Mapping

from . import record, scores
from .measure import cell
from .run_results import Found

METRIC = "ECE"
FIELDS = ("ece_pct", "d_ece_pct")  # of the metric: of segmentation, of detection


def calibration_cells(found: Found, roles: scores.Roles) -> list[record.Record]:
    """One record per row and column, without what all records of a study share.

    The worst target is the one with the largest error; there is no gap. `field`: which error it is.
    Undefined errors, and what averages them, are left out.

    Args:
        found: row -> seed -> domain -> the metric's fields after the last step, as of
            `run_results.found_by_row`.
        roles: domain -> role, as of `plans.roles_of`.
    """
    records: list[record.Record] = []
    for name, runs in found.items():
        field = _field(runs)
        if field is None:
            continue
        by_seed = {seed: of_run(domains, roles, field) for seed, domains in sorted(runs.items())}
        for column in scores.columns(roles):
            errors = {s: row[column] for s, row in by_seed.items() if column in row}
            defined = {s: error for s, error in errors.items() if not math.isnan(error)}
            if defined:
                role = roles.get(column, "source" if column == scores.SOURCE else "derived")
                place = {"model": name, "column": column, "role": role}
                head = {"metric": METRIC, "field": field, "unit": "%"}
                records.append(head | place | cell(defined))
    return records


def _field(runs: Mapping[int, Mapping[str, Mapping[str, object]]]) -> str | None:
    """The error that the runs of a row have, if any."""
    rows = [row for domains in runs.values() for row in domains.values()]
    return next((field for field in FIELDS if any(field in row for row in rows)), None)


def of_run(
    domains: Mapping[str, Mapping[str, float | None]], roles: scores.Roles, field: str
) -> dict[str, float]:
    """A run's error in every column of `scores.of_run` but the gap; NaN where undefined."""
    row = scores.of_run({d: fields.get(field) for d, fields in domains.items()}, roles)
    row.pop(scores.GAP, None)
    targets = [row[d] for d, role in roles.items() if role == "target"]
    if targets:
        row[scores.WORST] = math.nan if any(map(math.isnan, targets)) else max(targets)
    return row
