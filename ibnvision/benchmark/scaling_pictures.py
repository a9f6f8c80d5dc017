"""The figures of `ibnvision benchmark scaling`: time against size, both as logarithms."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from . import record, scaling_tables
from .page_plots import OPS_STYLE
from .pictures import INK, clean
from .scaling_rows import RESOLUTION, THREADS

Records = Sequence[record.Record]

STYLE = {**OPS_STYLE, "dense": OPS_STYLE["batch norm"]}  # backend -> colour, mark


def figures(records: Records) -> dict[str, Figure]:
    """Operator or network -> a panel per variable with a curve per backend, quartiles as bars."""
    found = {}
    for name in dict.fromkeys(r["op"] for r in records):
        mine = [r for r in records if r["op"] == name]
        found[name] = figure(mine)
    return found


def figure(mine: Records) -> Figure:
    """The panels of one operator or network; the dashed line grows linearly from the first time."""
    timed = {r["variable"] for r in mine if r["metric"] == "time"}
    shown = [variable for variable in scaling_tables.VARIABLES if variable in timed]
    made = Figure(figsize=(12.5, 3.6), layout="constrained")
    panels = made.subplots(1, len(shown), squeeze=False)[0]
    for axes, variable in zip(panels, shown, strict=True):
        _panel(axes, mine, variable)
    panels[0].set_ylabel("ms")
    handles, names = panels[0].get_legend_handles_labels()
    made.legend(handles, names, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return made


def _panel(axes: Any, mine: Records, variable: str) -> None:
    amounts: dict[int, int] = {}
    for backend in scaling_tables.backends(mine):
        curve = scaling_tables.points(mine, variable, backend)
        if not curve:
            continue
        amounts |= {r["size"]: r["size"] ** (2 if variable == RESOLUTION else 1) for r in curve}
        values = [r["value"] for r in curve]
        bars = [[max(0.0, v - r["spread"]["q1"]) for v, r in zip(values, curve, strict=True)]]
        bars += [[max(0.0, r["spread"]["q3"] - v) for v, r in zip(values, curve, strict=True)]]
        colour, mark = STYLE[backend]
        axes.errorbar(
            [amounts[r["size"]] for r in curve], values, bars, label=backend, color=colour,
            marker=mark, markersize=4, linewidth=1.4, elinewidth=0.8,
        )  # fmt: skip
        if backend == scaling_tables.backends(mine)[0]:
            _guide(axes, [amounts[r["size"]] for r in curve], values[0], falls=variable == THREADS)
    axes.set_xscale("log")
    axes.set_yscale("log")
    side = variable == RESOLUTION
    axes.set_xticks(list(amounts.values()), [f"{size}²" if side else str(size) for size in amounts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{variable}, wall time" if variable == THREADS else variable,
                   fontsize=10, color=INK, loc="left")  # fmt: skip
    axes.set_xlabel(mine[0]["cells"] if side else variable, fontsize=8)
    clean(axes)


def _guide(axes: Any, amounts: Sequence[int], start: float, *, falls: bool) -> None:
    """Linear growth from the first point, or with threads its inverse."""
    shares = [amount / amounts[0] for amount in amounts]
    line = [start / share if falls else start * share for share in shares]
    axes.plot(amounts, line, color="#667085", linestyle="--", linewidth=0.9, label="linear")
