"""The plot of the resolution benchmark: scores, time and memory against the side length."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from .pictures import INK, clean, save
from .resolution_scores import LATENCY, LIVE, MIOU, NAME, PROBES, SCALES, Records

COLOURS = ("#9aa0ac", "#e0a030", "#2f55d4", "#c45ab3", "#2a9d8f")  # of the trainings
LINES = {"as trained": "-", "window": ":", "lambda": "--"}
MARKS = "osD^v"


def write(records: Records, folder: Path) -> Path:
    """Draw the plot of one run into a folder; returns its path."""
    target = folder / NAME
    save(figure(records), target)
    return target


def figure(records: Records) -> Figure:
    """A panel per probe with mIoU and its intervals, one for time and one for memory."""
    made = Figure(figsize=(12.5, 7.6), layout="constrained")
    panels = made.subplots(2, 2)
    rows = list(dict.fromkeys(r["model"] for r in records if r["metric"] == MIOU))
    styles = _styles(records)
    for axes, probe in zip(panels[0], PROBES, strict=True):
        for row in rows:
            cells = _line(records, row, metric=MIOU, probe=probe)
            halves = [(r["high"] - r["low"]) / 2 if "low" in r else 0.0 for r in cells]
            values = [r["value"] for r in cells]
            scales = [r["scale"] for r in cells]
            axes.errorbar(scales, values, halves, label=row, elinewidth=0.8, **styles[row])
        axes.set(ylabel="mIoU %", ylim=(0, None))
        axes.set_title(probe, fontsize=10, color=INK, loc="left")
    for axes, metric, unit in zip(panels[1], (LATENCY, LIVE), ("ms", "MB"), strict=True):
        for row in rows:
            cells = _line(records, row, metric=metric)
            if cells:
                axes.plot([r["scale"] for r in cells], [r["value"] for r in cells], **styles[row])
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set(ylabel=unit)
        axes.set_title(f"{metric}, one image", fontsize=10, color=INK, loc="left")
    for axes in panels.flat:
        axes.set_xticks(SCALES, [f"{scale}x" for scale in SCALES])
        axes.set_xlabel("side length by that of the training images", fontsize=8)
        clean(axes)
    handles, names = panels[0, 0].get_legend_handles_labels()
    made.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return made


def _line(records: Records, row: str, **where: Any) -> list[dict[str, Any]]:
    """The records of a row in the order of the scales."""
    found = [
        r
        for r in records
        if r.get("model") == row and all(r.get(key) == value for key, value in where.items())
    ]
    return sorted(found, key=lambda r: r["scale"])


def _styles(records: Records) -> dict[str, dict[str, Any]]:
    """Row -> a colour per training, a line per shape, a mark among the rows of a training."""
    scored = [r for r in records if r["metric"] == MIOU]
    trained = list(dict.fromkeys(r["trained"] for r in scored))
    styles: dict[str, dict[str, Any]] = {}
    seen: dict[str, int] = {}
    for r in scored:
        if r["model"] not in styles:
            place = seen[r["trained"]] = seen.get(r["trained"], -1) + 1
            styles[r["model"]] = {
                "color": COLOURS[trained.index(r["trained"]) % len(COLOURS)],
                "linestyle": LINES[r["sees"]],
                "marker": MARKS[place % len(MARKS)],
                "markersize": 4,
                "linewidth": 1.4,
            }
    return styles
