"""The records of `selectors` as a table and in words: how much the choice of a checkpoint moves."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from . import paired, record, scores
from .runs import UNITS
from .selectors import LAST, LEAVE_OUT, METRIC, ORACLE, SELECTORS

Records = Sequence[record.Record]
Cells = dict[str, record.Record]  # row -> record
BOUND = "bound, no result: oracle"  # the last column


def table(records: Records) -> str:
    """The target mean of each row by each selector, the source beside it, and what that shows.

    records: of `selectors.records`; others do not count. Empty where there are no target means.
    """
    away = {s: _cells(records, s, scores.MEAN) for s in (*SELECTORS, ORACLE)}
    home = {s: _cells(records, s, scores.SOURCE) for s in SELECTORS}
    if not away[LAST]:
        return ""
    some = next(iter(away[LAST].values()))
    columns = {s: away[s] for s in SELECTORS if away[s]}
    digits = _digits(some)
    lines = []
    for row in away[LAST]:
        pairs = [(cells.get(row), home[s].get(row)) for s, cells in columns.items()]
        bound = [away[ORACLE].get(row)] if away[ORACLE] else []
        lines.append([row, *(_number(cell, digits) for cell in [*sum(pairs, ()), *bound])])
    head = [f"target mean, {UNITS.get(some['score'], some['score'])}"]
    head += [word for s in columns for word in (s, f"{scores.SOURCE} by it")]
    head += [BOUND] if away[ORACLE] else []
    return f"{record.table(head, lines)}\n\n{shown(records)}"


def _cells(records: Records, selector: str, column: str) -> Cells:
    wanted = (METRIC, selector, column)
    return {
        r["model"]: r
        for r in records
        if (r["metric"], r.get("selector"), r.get("column")) == wanted
    }


def _digits(r: record.Record) -> int:
    return 2 if r["unit"] == "dB" else 1


def _number(cell: Mapping[str, Any] | None, digits: int) -> str:
    """Mean, and half of Student's 95 % interval where there is one."""
    if cell is None:
        return "-"
    half = f" ± {(cell['high'] - cell['low']) / 2:.{digits}f}" if "low" in cell else ""
    return f"{cell['value']:.{digits}f}{half}"


def shown(records: Records) -> str:
    """How far the selectors move the target mean, beside how far rows differ, and their order."""
    last = _cells(records, LAST, scores.MEAN)
    if not last:
        return ""
    counts = sorted({r["checkpoints"] for r in last.values()})
    if counts == [1]:
        return (
            "Every log holds one checkpoint, so all selectors and the oracle agree by construction "
            "and nothing can be selected."
        )
    some = next(iter(last.values()))
    unit, digits = ("dB" if some["unit"] == "dB" else "points"), _digits(some)
    others = {s: c for s in SELECTORS[1:] if (c := _cells(records, s, scores.MEAN))}
    told = [_selected(records, last, s, cells, digits) for s, cells in others.items()]
    text = f"Each run has {' or '.join(map(str, counts))} checkpoints to choose from. "
    text += f"What a selector adds to the target mean of the {LAST} one, in {unit}, mean over rows "
    text += f"(least to most): {'; '.join(told) or 'no other selector has scores'}. "
    if LEAVE_OUT not in others:
        text += f"For {LEAVE_OUT} there are too few targets. "
    apart = [abs(a["value"] - b["value"]) for a, b in itertools.combinations(last.values(), 2)]
    if apart and others:
        text += f"Two rows are {_mean(apart):.{digits}f} {unit} apart on average. "
        text += _orders(last, others)
    if bound := _cells(records, ORACLE, scores.MEAN):
        text += f"The {ORACLE} reads the labels of the very target: no result, but a bound on what "
        text += f"any selector could add, {_added(last, bound, digits)}."
    return text.rstrip()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _selected(records: Records, last: Cells, selector: str, cells: Cells, digits: int) -> str:
    share = _share(records, selector)
    if not share:
        return f"{selector} 0, since it picks the {LAST} checkpoint in every run"
    return (
        f"{selector} {_added(last, cells, digits)}, by another checkpoint for {100 * share:.0f} % "
        "of runs and targets"
    )


def _added(last: Cells, cells: Cells, digits: int) -> str:
    """Mean, least and most over rows of what stands in cells minus what stands in last."""
    moves = [cells[row]["value"] - last[row]["value"] for row in last if row in cells]
    ends = f"{min(moves):+.{digits}f} to {max(moves):+.{digits}f}"
    return f"{_mean(moves):+.{digits}f} ({ends})"


def _share(records: Records, selector: str) -> float:
    """Of all runs and targets, those for which a selector picks another step than the last."""
    picks: dict[str, dict[tuple[str, str, int], int | None]] = {LAST: {}, selector: {}}
    for r in records:
        if r["metric"] == METRIC and r["selector"] in picks and r["column"] == scores.MEAN:
            for seed, steps in r["steps"].items():
                mine = {(r["model"], seed, place): step for place, step in enumerate(steps)}
                picks[r["selector"]] |= mine
    return _mean([step != picks[LAST].get(at) for at, step in picks[selector].items()])


def _orders(last: Cells, others: Mapping[str, Cells]) -> str:
    """Whether the selectors change the order of rows, and what of that was told apart."""
    text, same = "", []
    for selector, cells in others.items():
        pairs = list(itertools.combinations([row for row in last if row in cells], 2))
        turned = [(a, b) for a, b in pairs if _lead(last, a, b) * _lead(cells, a, b) < 0]
        if not turned:
            same.append(selector)
            continue
        names = ", ".join(f"{a} and {b}" for a, b in turned[:3]) + (", ..." if turned[3:] else "")
        told = sum(_told_apart(last, a, b) for a, b in turned)
        text += f"By {selector} {len(turned)} of {len(pairs)} pairs of rows change places "
        text += f"({names}); the paired 95 % interval tells {told} of these apart by {LAST}. "
    return text + (f"The order of rows stays as it is by {' and '.join(same)}. " if same else "")


def _lead(cells: Cells, a: str, b: str) -> float:
    return cells[a]["value"] - cells[b]["value"]


def _told_apart(cells: Cells, a: str, b: str) -> bool:
    summary = {row: {scores.MEAN: cells[row]} for row in (a, b)}
    apart = paired.difference(summary, a, b, scores.MEAN)
    return bool(apart and "low" in apart and not apart["low"] <= 0 <= apart["high"])
