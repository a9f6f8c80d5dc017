"""From scores under corruptions and at scales to the records of the severity benchmark."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ibnvision import metrics
from ibnvision.data.corruptions import GROUPS
from ibnvision.engine.robustness import critical_scales, robustness

from . import comparisons, dehazing_scores, detection_scores, paired, record
from .measure import cell
from .runs import UNITS
from .scores import BASE, Summary
from .severity_rows import Condition

Found = Mapping[Condition, float | None]  # of one network
Values = Mapping[int, Found]  # of one row, by seed

SEVERITY, SCALE = "severity", "scale"  # metrics of records
GROUP, CORRUPTION = "group", "corruption"
MPC, RPC = "mPC", "rPC"
CRITICAL, CRITICAL_SCALE = "critical severity", "critical scale"
DIFFERENCE, COST = "mPC difference", "measuring, CPU seconds"
CLEAN, NEVER, MEAN = "clean", "never", "mean"
SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)  # times height and width, where no others are named
COLUMNS = (MPC, CLEAN, *GROUPS)  # in which rows are compared


def rivals(rows: Sequence[str]) -> list[tuple[str, str]]:
    """(row, rival): every row against the one without a method, batch norm or the whole network;
    in a study of augmentation each norm with it against batch norm with it, too.
    """
    found = [(row, base) for row in rows for base in _bases(row) if base in rows and base != row]
    jitter = BASE + comparisons.AUGMENTED
    both = [row for row in rows if row.endswith(comparisons.AUGMENTED) and row != jitter]
    return found + [(row, jitter) for row in both if jitter in rows]


def _bases(row: str) -> list[str]:
    """The names that the row without a method may have, one in each study."""
    detectors = [d for d in detection_scores.DETECTORS if row.startswith(d)]
    return [*(f"{d} {detection_scores.BASE}" for d in detectors), BASE, dehazing_scores.FULL]


def summary_of(values: Values, domain: str) -> dict[str, dict[str, Any]]:
    """Column -> `cell` over the seeds of one row: clean, mPC, rPC, each group, corruption and
    severity. An undefined score is no score.
    """
    tables = {seed: _columns(found, domain) for seed, found in values.items()}
    names = next(iter(tables.values()))
    cells = {name: _cell({seed: row[name] for seed, row in tables.items()}) for name in names}
    return {name: mine for name, mine in cells.items() if mine}


def _columns(found: Found, domain: str) -> dict[str, float]:
    kept = _robustness(found, domain)
    row, by = {CLEAN: kept["p"], MPC: kept["mpc"], RPC: kept["rpc_pct"]}, kept["by_corruption"]
    for group, names in GROUPS.items():
        if values := [by[name] for name in names if name in by]:
            row[group] = math.fsum(values) / len(values)
    return row | by | {f"{SEVERITY} {s}": value for s, value in kept["by_severity"].items()}


def _robustness(found: Found, domain: str) -> dict[str, Any]:
    mine = {c.name: v for c, v in found.items() if c.domain == domain and not c.scale}
    return robustness({name: {"score": _number(v)} for name, v in mine.items()}, "score")[domain]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _cell(values: Mapping[int, float]) -> dict[str, Any]:
    kept = {seed: value for seed, value in values.items() if not math.isnan(value)}
    return cell(kept) if kept else {}


def records_of(
    values: Values, cells: Mapping[str, dict[str, Any]], domain: str, key: str
) -> list[record.Record]:
    """The records of one row on one domain; cells: of `summary_of`, key: of the task's score."""
    found: list[record.Record] = []
    for column, mine in cells.items():
        word, _, severity = column.partition(" ")
        head: record.Record = {"metric": column}
        if column in GROUPS:
            head = {"metric": GROUP, "group": column}
        elif column == CLEAN or word == SEVERITY:
            head = {"metric": SEVERITY, "severity": int(severity or 0)}
        elif column not in (MPC, RPC):
            group = next((g for g, names in GROUPS.items() if column in names), "")
            head = {"metric": CORRUPTION, "corruption": column, "group": group}
        found.append(head | {"unit": "%" if column == RPC else metrics.unit(key)} | mine)
    return found + _critical_severities(values, domain) + _scales(values, domain, key)


def _critical_severities(values: Values, domain: str) -> list[record.Record]:
    """Of the curve of the mean over seeds, and as `values` of each seed's own curve."""
    together = {
        c: _cell({seed: _number(found[c]) for seed, found in values.items()}).get("value")
        for c in next(iter(values.values()))
    }
    defined = {s: f for s, f in values.items() if f[Condition(domain)] is not None}
    if not defined:
        return []
    whole = _robustness(together, domain)["critical_severity"]
    own = {str(s): _robustness(f, domain)["critical_severity"] for s, f in defined.items()}
    return [
        {"metric": CRITICAL, "corruption": name, "value": _said(place), "n": len(defined)}
        | {"values": {seed: _said(row[name]) for seed, row in own.items()}}
        for name, place in whole.items()
    ]


def _said(place: float | None) -> float | str:
    return NEVER if place is None else place


def _scales(values: Values, domain: str, key: str) -> list[record.Record]:
    """The curve against scale and its critical places; nothing where none was measured."""
    curves = {
        seed: {c.scale: _number(v) for c, v in found.items() if c.scale and c.domain == domain}
        for seed, found in values.items()
    }
    scales = next(iter(curves.values()))
    cells = {scale: _cell({s: row[scale] for s, row in curves.items()}) for scale in scales}
    head: record.Record = {"metric": SCALE, "unit": metrics.unit(key)}
    found = [head | {"scale": scale} | mine for scale, mine in cells.items() if mine]
    if 1 not in {r["scale"] for r in found}:
        return []
    places = critical_scales({r["scale"]: r["value"] for r in found})
    head = {"metric": CRITICAL_SCALE, "n": len(values)}
    return found + [head | {"direction": w, "value": _said(at)} for w, at in places.items()]


def differences(summary: Summary, counting: Sequence[str], key: str) -> list[record.Record]:
    """Of every pair of `rivals` among the rows that count, in COLUMNS, paired by seed."""
    unit = UNITS[key].removesuffix(" %") + " points" if metrics.unit(key) == "%" else "dB"
    found = []
    for row, rival in rivals(counting):
        for column in COLUMNS:
            apart = paired.difference(summary, row, rival, column)
            head = {"metric": DIFFERENCE, "model": row, "rival": rival, "column": column}
            found += [head | {"unit": unit} | apart] if apart else []
    return found
