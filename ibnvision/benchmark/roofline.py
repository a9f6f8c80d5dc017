"""The roofline of the recorded operators: work per byte against work per second reached.

Bytes and operations are the least that a pass needs, counted from its shapes; the two ceilings were
measured in the same run. Source: Williams et al., Roofline, CACM 52(4), 2009.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from . import pictures, record
from .op_rows import OPS, PASSES
from .page_plots import OPS_STYLE

Records = Sequence[record.Record]

NETWORKS = {  # backend of a training step -> colour, mark
    "kernel": OPS_STYLE["kernel"],
    "fallback": OPS_STYLE["fallback"],
    "compiled fallback": OPS_STYLE["compiled"],
    "timm": OPS_STYLE["eager"],
    "bare": ("#667085", "*"),
}
_GIGA = 1e9


def ceilings_of(run: Records) -> tuple[float, dict[str, float]]:
    """Bytes per second of a copy and operations per second by dtype; (0, {}) of a run without."""
    best = {r["backend"]: r["value"] for r in run if r["metric"] == "ceiling"}
    found = {name.removeprefix("matmul "): 1e12 * v for name, v in best.items() if name != "copy"}
    return _GIGA * best.get("copy", 0.0), found


def counted(run: Records) -> list[record.Record]:
    """The times of passes whose bytes and operations were counted; a copy has no operations."""
    times = [r for r in run if r["metric"] == "time"]
    return [r for r in times if r.get("bytes") and r.get("flops") and r["backend"] in OPS_STYLE]


def place(r: Mapping[str, Any]) -> tuple[float, float]:
    """Operations per byte, and operations per second."""
    return r["flops"] / r["bytes"], 1e3 * r["flops"] / r["value"]


def rooflines(run: Records) -> dict[str, Figure]:
    """Format, dtype and launch -> a panel a pass, a mark a tensor and backend of every operator."""
    bandwidth, rates = ceilings_of(run)
    found = [r for r in counted(run) if OPS[r["op"]].rate in rates] if bandwidth else []
    made = {}
    for key in sorted({_key(r) for r in found}):
        group = [r for r in found if _key(r) == key]
        launch = [] if group[0]["device_type"] == "cpu" else [key[-1]]
        rate = rates[OPS[group[0]["op"]].rate]
        made[", ".join([*key[:-1], *launch])] = _roofline(group, bandwidth, rate)
    return made


def _key(r: Mapping[str, Any]) -> tuple[str, ...]:
    return r["format"], r["dtype"], r["launch"]


def _roofline(group: Records, bandwidth: float, rate: float) -> Figure:
    passes = [name for name in PASSES if any(r["pass"] == name for r in group)]
    made = Figure(figsize=(9.6, 3.7), layout="constrained")
    panels = made.subplots(1, len(passes), squeeze=False, sharex=True, sharey=True)[0]
    edge = rate / bandwidth  # operations per byte from which on the matrix rate is the lower
    spots = [place(r) for r in group]
    left = min(edge / 4, *(x / 3 for x, _ in spots))
    right = max(edge * 4, *(x * 3 for x, _ in spots))
    low, high = min(y for _, y in spots) / _GIGA, max(rate, *(y for _, y in spots)) / _GIGA
    heights = low * (low / high) ** 0.35, 1.6 * high  # names stand below the lowest marks
    for axes, name in zip(panels, passes, strict=True):
        roof = [bandwidth * left / _GIGA, rate / _GIGA, rate / _GIGA]
        axes.plot([left, edge, right], roof, color=pictures.INK, linewidth=1.2)
        _marks(axes, [r for r in group if r["pass"] == name])
        axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=heights)
        axes.set_xlabel("operations per byte")
        axes.set_title(name, fontsize=10, loc="left")
        _plain(axes)
    panels[0].set_ylabel("GFLOP/s reached")
    _legend(made, {r["backend"] for r in group}, OPS_STYLE)
    return made


def _marks(axes: Any, group: Records) -> None:
    """A mark a record, large where the tensor exceeds the cache; the operators' names below."""
    for r in group:
        x, y = place(r)
        colour, mark = OPS_STYLE[r["backend"]]
        size = 7.5 if r["bytes"] / OPS[r["op"]].traffic[r["pass"]] > r["cache_bytes"] else 4.5
        axes.plot(
            x, y / _GIGA, marker=mark, color=colour, linestyle="none", markersize=size,
            markerfacecolor=colour if r["backend"] == "kernel" else "none", alpha=0.85,
        )  # fmt: skip
    for op in dict.fromkeys(r["op"] for r in group):
        spots = [place(r) for r in group if r["op"] == op]
        x, y = min(spots, key=lambda spot: spot[1])
        axes.annotate(
            op.replace("_", "\n"), (x, y / _GIGA), xytext=(0, -9), textcoords="offset points",
            ha="center", va="top", fontsize=8, color=pictures.INK,
        )  # fmt: skip


def rates(run: Records) -> Figure | None:
    """Operations per second of whole training steps, a row a format, with the matrix rate.

    None for a run without; nobody counts the bytes of a network, so that it has no place under a
    roof.
    """
    best = ceilings_of(run)[1]
    found = [
        r
        for r in run
        if r["metric"] == "time" and r.get("flops") and r["backend"] in NETWORKS
        if r["dtype"] in best
    ]
    if not found:
        return None
    lines = list(dict.fromkeys((r["model"], r["dtype"], r["format"]) for r in found))
    made = Figure(figsize=(5.4, 1.4 + 0.5 * len(lines)), layout="constrained")
    axes = made.subplots()
    for i, line in enumerate(lines):
        axes.plot(2 * [best[line[1]] / _GIGA], [i - 0.4, i + 0.4], color=pictures.INK)
        for r in (r for r in found if (r["model"], r["dtype"], r["format"]) == line):
            colour, mark = NETWORKS[r["backend"]]
            axes.plot(
                1e3 * r["flops"] / r["value"] / _GIGA, i, marker=mark, color=colour, markersize=8,
                markerfacecolor=colour if r["backend"] == "kernel" else "none", linestyle="none",
            )  # fmt: skip
    axes.set_yticks(range(len(lines)), ["\n".join((m, f"{d} {f}")) for m, d, f in lines])
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlim=(0, None), xlabel="GFLOP/s reached")
    pictures.clean(axes)
    _legend(made, {r["backend"] for r in found}, NETWORKS, 3)
    return made


def _plain(axes: Any) -> None:
    pictures.clean(axes)
    axes.grid(axis="x", alpha=0.25)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())


def _legend(
    made: Figure, drawn: set[str], style: Mapping[str, tuple[str, str]], columns: int = 6
) -> None:
    axes = made.axes[0]
    handles = [
        axes.plot([], [], marker=mark, color=colour, linestyle="none", label=name,
                  markerfacecolor=colour if name == "kernel" else "none")[0]
        for name, (colour, mark) in style.items() if name in drawn
    ]  # fmt: skip
    handles += axes.plot([], [], color=pictures.INK, label="ceiling, measured in the same run")
    made.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )
