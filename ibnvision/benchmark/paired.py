"""Differences between two rows of a table, paired by seed, and what their intervals show.

A difference counts where Student's 95 % interval leaves out zero, that is where the paired t test
reads p < 0.05. A rank test cannot, over so few seeds: see `rank_floor`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import measure, record, scores


def difference(summary: scores.Summary, row: str, rival: str, column: str) -> record.Record | None:
    """row minus rival over the seeds that both have: value, n, ahead; low, high, p (n >= 3)."""
    ours, theirs = (summary.get(n, {}).get(column, {}).get("values", {}) for n in (row, rival))
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not differences:
        return None
    found: record.Record = {"value": sum(differences) / len(differences), "n": len(differences)}
    found["ahead"] = sum(d > 0 for d in differences)
    interval = measure.t_interval(differences)
    if interval:
        found |= {"low": interval[0], "high": interval[1], "p": measure.t_test(differences)}
    return found


def rank_floor(n: int) -> str:
    """Why no signed-rank test is made: the least p that it can give over n seeds."""
    return f"a signed-rank test over {n} seeds cannot fall below p = {2 / 2**n:.3g}"


def signed(r: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A difference and its interval."""
    if r is None:
        return "-"
    interval = f" ({r['low']:+.{digits}f} to {r['high']:+.{digits}f})" if "low" in r else ""
    return f"{r['value']:+.{digits}f}{interval}"


def shown(
    found: Sequence[record.Record], name: Callable[[str], str], unit: str, digits: int = 2
) -> str:
    """What the differences of one row from another show, in sentences; name: of a column.

    unit: of the difference that the first column had to exceed.
    """
    n, judged = found[0]["n"], [r for r in found if "low" in r]
    if not judged:
        seeds = "1 seed gives" if n == 1 else f"{n} seeds give"
        return f"{seeds} no interval, so nothing is shown about it."
    helps, harms = (
        ", ".join(_with_p(name(r["column"]), r) for r in judged if sign * r[end] > 0)
        for sign, end in ((1, "low"), (-1, "high"))
    )
    between = [r for r in judged if r["low"] <= 0 <= r["high"]]
    text = f"Shown to help on: {helps or 'none'}. Shown to harm on: {harms or 'none'}. "
    if between:
        text += f"Nothing is shown on {', '.join(name(r['column']) for r in between)}: "
        text += "there the 95 % interval holds 0. "
    home = next((r for r in judged if r["column"] == scores.SOURCE), judged[0])
    half = (home["high"] - home["low"]) / 2
    text += f"On {name(home['column'])} a difference had to exceed {half:.{digits}f} {unit} to "
    text += f"show, since {n} seeds give an interval of {measure.t_quantile(n - 1):.1f} standard "
    text += (
        f"errors to either side ({rank_floor(n)}); {len(judged)} columns are looked at by paired "
    )
    return text + "t tests without correction"


def _with_p(name: str, r: Mapping[str, Any]) -> str:
    return f"{name} (p = {r['p']:.2g})" if "p" in r else name
