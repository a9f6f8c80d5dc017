"""The figure of the severity benchmark: scores against severity and against scale."""

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from . import severity_scores as words
from .comparisons import AUGMENTED
from .detection_scores import DETECTORS
from .page_plots import MARKS
from .pictures import COLOURS, INK, clean, save
from .severity_tables import Records

NAME = "severity.png"
BN_COLOUR = "#667085"  # as in the headline of the page
OTHERS = (("#2f55d4", "s"), ("#e0a030", "^"), ("#2a9d8f", "D"))  # of rows without a norm's name
DODGE = 0.3  # of a step of the axis, over which the rows of one severity are spread


def write(records: Records, folder: Path) -> Path:
    """Draw the figure of one run into a folder; returns its path."""
    target = folder / NAME
    save(figure(records), target)
    return target


def figure(records: Records, domain: str | None = None) -> Figure:
    """A panel with the curve of every row against severity and, where measured, one against scale.

    Bars are Student's intervals over seeds, a ring stands at the critical place. domain: by default
    the first one of the records.
    """
    named = [r for r in records if "domain" in r]
    mine = [r for r in named if r["domain"] == (domain or named[0]["domain"])]
    metrics = [m for m in (words.SEVERITY, words.SCALE) if any(r["metric"] == m for r in mine)]
    made = Figure(figsize=(5.6 * len(metrics), 4.8), layout="constrained")
    panels = made.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    rows = list(dict.fromkeys(r["model"] for r in mine if r["metric"] == words.SEVERITY))
    for axes, metric in zip(panels, metrics, strict=True):
        for number, row in enumerate(rows):
            shift = DODGE * ((number + 0.5) / len(rows) - 0.5)
            _curve(axes, mine, row, metric, _style(row, number), shift)
        places = sorted({r[metric] for r in mine if r["metric"] == metric})
        axes.set_xticks(range(len(places)), [_tick(metric, place) for place in places])
        axes.set_xlabel("severity, mean over corruptions" if metric == words.SEVERITY else "scale")
        clean(axes)
    panels[0].set(ylabel=mine[0]["score"], ylim=(0, None))
    panels[0].set_title(f"{mine[0]['domain']}, {mine[0]['study']}", fontsize=10, loc="left")
    handles, names = panels[0].get_legend_handles_labels()
    ring = panels[0].scatter([], [], **_RING, edgecolors=INK)
    made.legend(
        [*handles, ring], [*names, "half of the clean score lost"],
        loc="outside lower center", ncols=3 if len(metrics) == 1 else 6, fontsize=8, frameon=False,
    )  # fmt: skip
    return made


_RING: dict[str, Any] = {"s": 130, "facecolors": "none", "linewidths": 1.4, "zorder": 4}


def _tick(metric: str, place: float) -> str:
    if metric == words.SCALE:
        return f"{place:g}x"
    return f"{place:g}" if place else words.CLEAN


def _curve(
    axes: Any, records: Records, row: str, metric: str, style: dict[str, Any], shift: float
) -> None:
    """The line of a row with its intervals, and rings at its critical places."""
    every = sorted({r[metric] for r in records if r["metric"] == metric})
    mine = {r[metric]: r for r in records if r["metric"] == metric and r["model"] == row}
    xs = [every.index(place) + shift for place in sorted(mine)]
    cells = [mine[place] for place in sorted(mine)]
    values = [r["value"] for r in cells]
    halves = [(r["high"] - r["low"]) / 2 if "low" in r else 0.0 for r in cells]
    axes.errorbar(xs, values, halves, label=row, elinewidth=0.8, **style)
    critical = words.CRITICAL if metric == words.SEVERITY else words.CRITICAL_SCALE
    for r in records:
        whole = r.get("corruption", words.MEAN) == words.MEAN
        if r["metric"] == critical and r["model"] == row and whole and r["value"] in mine:
            place = r["value"]
            at = every.index(place) + shift
            axes.scatter([at], [mine[place]["value"]], **_RING, edgecolors=style["color"])


def _style(row: str, number: int) -> dict[str, Any]:
    """Colour and mark of the norm, hollow with augmentation, dashed for the second detector."""
    bare = row.removesuffix(AUGMENTED)
    detector = next((i for i, name in enumerate(DETECTORS) if bare.startswith(name)), 0)
    norm = re.sub(f"^({'|'.join(map(re.escape, DETECTORS))}) ", "", bare)
    colour, mark = OTHERS[number % len(OTHERS)]
    if norm in MARKS:
        mark = MARKS[norm]
        colour = BN_COLOUR if norm == "BN" else COLOURS[norm]
    hollow = row != bare
    return {
        "color": colour,
        "marker": mark,
        "markerfacecolor": "white" if hollow else colour,
        "linestyle": "--" if hollow or detector else "-",
        "markersize": 4.5,
        "linewidth": 1.3,
    }
