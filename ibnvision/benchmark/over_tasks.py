"""All tasks in one table: a line a method, from the records of the studies alone.

A line holds the score at home, on each target, on the worst of them and on their mean, the gap, the
calibration error, and what the network costs. Lines of two protocols never stand in one group.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import dehazing_scores, detection_scores, paired, record, resolution_scores, scores

Records = Sequence[record.Record]

HEADER = (
    *("method", "in-domain", "targets", "worst target", "target mean", "gap", "ECE, %"),
    *("images/s", "MB"),
)
SPEED, MEMORY, ECE = "inference images/s", "live memory", "ECE"  # of records
FEW_SEEDS = 3  # below which there is no interval, and nothing to conclude from
_TASKS = {  # question -> task, metric of the score, its name, digits
    "generalization": ("Segmentation", "miou", "mIoU in %", 1),
    "detection": ("Detection", detection_scores.AP50, "AP50 in %", 1),
    "dehazing": ("Dehazing", dehazing_scores.PSNR, "PSNR in dB", 2),
    "resolution": ("Resolution", resolution_scores.MIOU, "mIoU in %", 1),
}
QUESTIONS = tuple(_TASKS)
_INTRO = (
    "Every number is a mean over seeds of the last checkpoint; higher is better but for gap "
    "(in-domain minus target mean), ECE (expected calibration error, in-domain and target mean) "
    "and MB (live tensors of one inference). In brackets Student's 95 % interval over seeds, and "
    "behind it, where images were redrawn, the bootstrap interval over test images. images/s: "
    "inference with the kernels, a picture at a time, per second of one CPU thread. Groups differ "
    "in task or protocol and are not to be compared with each other."
)


class Group(NamedTuple):
    """The methods of one study."""

    title: str
    protocol: str
    cells: Mapping[tuple[str, str], record.Record]  # (method, column) -> record
    costs: Mapping[tuple[str, str], float]  # (method, metric) -> value
    lost: Mapping[str, str]  # method -> why it does not count
    targets: list[str]
    digits: int
    seeds: int


def of_runs(runs: Mapping[str, Sequence[Records]]) -> str:
    """The Markdown, from the runs of each question; "" where there is none."""
    found = [
        group
        for bench in QUESTIONS
        for run in runs.get(bench, ())
        for group in groups_of(bench, run)
    ]
    return "\n\n".join([_INTRO, *map(_block, found)]) if found else ""


def groups_of(bench: str, run: Records) -> list[Group]:
    """The groups of one run: one, or of the resolution study one for each probe."""
    task, metric, unit, digits = _TASKS[bench]
    found = [r for r in run if r["metric"] in (metric, resolution_scores.OVER_SIZES)]
    costs = {(r["model"], r["metric"]): r["value"] for r in run if _is_cost(r)}
    parts = {"": found}
    if bench == "resolution":
        parts = {p: [r for r in found if r["probe"] == p] for p in resolution_scores.PROBES}
    return [
        Group(
            title=", ".join(filter(None, [task, part, record.about(run[0]), unit])),
            protocol=run[0].get("protocol", ""),
            cells={(r["model"], r["column"]): r for r in cells},
            costs=costs | _ece(run, part),
            lost={r["model"]: r["not_converged"] for r in cells if r.get("not_converged")},
            targets=list(dict.fromkeys(r["column"] for r in cells if r["role"] == "target")),
            digits=digits,
            seeds=max((r["n"] for r in cells), default=0),
        )
        for part, cells in parts.items()
        if cells
    ]


def _is_cost(r: Mapping[str, Any]) -> bool:
    """Of a row's inference with the kernels, one picture at a time, at the trained size."""
    if r["metric"] not in (SPEED, MEMORY, resolution_scores.LATENCY):
        return False
    return (
        r.get("backend", "kernel") == "kernel" and r.get("batch", 1) == 1 and r.get("scale", 1) == 1
    )


def _ece(run: Records, probe: str) -> dict[tuple[str, str], float]:
    found = [r for r in run if r["metric"] == ECE and r.get("probe", "") == probe]
    return {(r["model"], f"{ECE}, {r['column']}"): r["value"] for r in found}


def _block(group: Group) -> str:
    names = list(dict.fromkeys(model for model, _ in group.cells))
    table = record.table(HEADER, [_line(group, name) for name in names])
    seeds = f"{group.seeds} seed{'s' * (group.seeds != 1)}"
    told = f"{seeds}, protocol {group.protocol[:16]}."
    if group.seeds < FEW_SEEDS:
        told = f"{seeds}, so no intervals, and not for conclusions; protocol {group.protocol[:16]}."
    parts = [f"**{group.title}**", told, table, _shown(group, names)]
    if group.lost:
        lost = "; ".join(f"{name} ({why})" for name, why in group.lost.items())
        parts.append(f"Not converged, so nothing is said about: {lost}.")
    return "\n\n".join(filter(None, parts))


def _line(group: Group, name: str) -> list[str]:
    def text(column: str) -> str:
        cell = group.cells.get((name, column))
        return "-" if cell is None else f"{cell['value']:.{group.digits}f}"

    targets = " · ".join(
        f"{dehazing_scores.short(scores.short(c))} {text(c)}" for c in group.targets
    )
    ece = [group.costs.get((name, f"{ECE}, {c}")) for c in (scores.SOURCE, scores.MEAN)]
    speed, memory = _speed(group, name), group.costs.get((name, MEMORY))
    return [
        name,
        text(scores.SOURCE),
        targets,
        text(scores.WORST),
        text(scores.MEAN) + _intervals(group.cells.get((name, scores.MEAN)), group.digits),
        text(scores.GAP),
        " / ".join(f"{v:.1f}" for v in ece if v is not None) or "-",
        "-" if speed is None else f"{speed:.1f}",
        "-" if memory is None else f"{memory:.1f}",
    ]


def _speed(group: Group, name: str) -> float | None:
    latency = group.costs.get((name, resolution_scores.LATENCY))  # ms
    return 1e3 / latency if latency else group.costs.get((name, SPEED))


def _intervals(cell: Mapping[str, Any] | None, digits: int) -> str:
    """Over seeds, then over images."""
    if cell is None:
        return ""
    ends = [("low", "high"), ("image_low", "image_high")]
    found = [
        f"({cell[low]:.{digits}f} to {cell[high]:.{digits}f})" for low, high in ends if low in cell
    ]
    return "".join(f" {text}" for text in found)


def _shown(group: Group, names: Sequence[str]) -> str:
    """What the others lose to or win from the first trained method on the target mean."""
    summary = {
        name: {scores.MEAN: dict(cell)}
        for name in names
        if (cell := group.cells.get((name, scores.MEAN)))
        and name not in group.lost
        and len(cell.get("values", ())) == group.seeds  # what is not trained has no seeds
    }
    base, *others = summary or [""]
    found = {n: paired.difference(summary, n, base, scores.MEAN) for n in others}
    sides: dict[str, list[str]] = {"above": [], "below": [], "open": []}
    for name, apart in found.items():
        if apart is None or "low" not in apart or not math.isfinite(apart["low"]):
            continue
        side = "above" if apart["low"] > 0 else "below" if apart["high"] < 0 else "open"
        sides[side].append(f"{name} ({paired.signed(apart, group.digits)}, p = {apart['p']:.2g})")
    words = {
        "above": f"Shown to be above {base} on the target mean",
        "below": f"Shown to be below {base} there",
        "open": f"Nothing is shown, as the paired 95 % interval holds 0, of {base} against",
    }
    return " ".join(f"{words[side]}: {'; '.join(told)}." for side, told in sides.items() if told)
