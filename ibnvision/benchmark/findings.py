"""What the newest recorded runs say about the project's bars."""

import math
from dataclasses import dataclass

from . import record
from .target_values import Records, Stored
from .targets import TARGETS, Target


@dataclass(frozen=True)
class Finding:
    """What the newest run that holds the number says."""

    target: Target
    value: float
    source: record.Record  # any record of that run: command, date, commit, device
    interval: tuple[float, float] | None = None  # of 95 %, where the run recorded one

    @property
    def measured(self) -> str:
        """The value, in brackets its interval."""
        text = record.number(self.value)
        if self.interval:
            text += f" ({record.number(self.interval[0])} to {record.number(self.interval[1])})"
        return text

    @property
    def met(self) -> bool:
        return self.target.met(self.value)


def judge(records: Records) -> list[Finding | None]:
    """For each of TARGETS what its newest full run says; None where no run holds the number.

    Studies of a setting that is no preset's decide none: the bars were set for the presets' own.
    """
    runs: dict[str, list[record.Record]] = {}
    for r in records:
        if not r["quick"] and not r.get("setting"):
            runs.setdefault(r["run"], []).append(r)
    found: list[Finding | None] = []
    for target in TARGETS:
        newest = None
        for run in sorted(runs, reverse=True):
            group = runs[run]
            if group[0]["bench"] == target.bench and not math.isnan(value := target.value(group)):
                newest = Finding(target, value, group[0], _interval(target, group))
                break
        found.append(newest)
    return found


def _interval(target: Target, group: Records) -> tuple[float, float] | None:
    found = target.value.record(group) if isinstance(target.value, Stored) else None
    return (found["low"], found["high"]) if found and "low" in found else None


def verdict(records: Records) -> str:
    """The targets that these records decide, as a table; quick runs decide none."""
    rows = [
        [f.target.text, f.target.bar_text, f.measured, "met" if f.met else "MISSED"]
        for f in judge(records)
        if f is not None
    ]
    return (
        record.table(["target", "bar", "measured", ""], rows)
        if rows
        else "No target is judged by this run."
    )


def full_table(records: Records) -> str:
    """Every target: bar, value, verdict, command, device, date, commit; open ones say so.

    In brackets the 95 % interval, where one was recorded: the verdict is that of the value alone.
    """
    rows = []
    for target, f in zip(TARGETS, judge(records), strict=True):
        if f is None:
            rows.append([target.text, target.bar_text, "-", "not measured", "-", "-", "-", "-"])
            continue
        s = f.source
        rows.append([target.text, target.bar_text, f.measured, "met" if f.met else "**missed**"])
        rows[-1] += [f"`{s['command']}`", s["device"], s["date"][:10], s["commit"] or "-"]
    header = ["target", "bar", "measured", "verdict", "command", "device", "date", "commit"]
    return record.table(header, rows)
