"""Figures of the page over all records, as inline SVG: the same records give the same bytes.

Rows differ in shape and fill as well as in colour, so that print in grey can be read.
"""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from . import detection_scores, op_tables, pictures, record, scores
from .op_rows import DTYPES, PASSES

Records = Sequence[record.Record]

SPEED = "training images/s"
MARKS = {"BN": "o", "IBN-a": "^", "IBN-b": "s", "ISW": "D", "MixStyle": "v"}
HATCHES = ("", "//")  # of detectors
OPS_STYLE = {  # backend -> colour, mark
    "kernel": ("#2f55d4", "o"),
    "eager": ("#b42318", "s"),
    "fallback": ("#e0a030", "^"),
    "compiled": ("#2a9d8f", "D"),
    "batch norm": ("#7d2a52", "v"),
}


def svg(figure: Figure, name: str, title: str) -> str:
    """Inline SVG of a figure, with a title for who cannot see it.

    name: goes before its ids, which must differ within a page.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    size = re.search(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', text)
    assert size is not None
    words = html.escape(title)
    head = f'<svg viewBox="{size[1]}" role="img" aria-label="{words}"><title>{words}</title>'
    return (head + text[size.end() :]).strip()


def headline(run: Records) -> Figure | None:
    """Target mean against training speed with the kernels, a mark a row; None without speeds.

    A row with augmentation stands at the speed of its network: what draws colours is not timed.
    """
    speeds = {r["model"]: r for r in run if r["metric"] == SPEED and r["backend"] == "kernel"}
    rows = [r for r in run if r["metric"] == "miou" and r["column"] == scores.MEAN]
    shown = [r for r in rows if _norm(r) in speeds]
    if not shown:
        return None
    made = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = made.subplots()
    for r in shown:
        speed = speeds[_norm(r)]
        plain = r["model"] == _norm(r)
        colour = pictures.COLOURS.get(_norm(r), pictures.INK)
        colour = "#667085" if _norm(r) == scores.BASE else colour
        axes.errorbar(
            speed["value"], r["value"],
            xerr=_halves(speed["value"], speed["spread"]["q1"], speed["spread"]["q3"]),
            yerr=_halves(r["value"], r["low"], r["high"]) if "low" in r else None,
            marker=MARKS.get(_norm(r), "P"), markersize=8, linestyle="none", label=r["model"],
            color=colour, markerfacecolor=colour if plain else "white", elinewidth=0.9, capsize=2,
        )  # fmt: skip
    axes.set(xlabel="training images per CPU second, kernels on", ylabel="target mean, mIoU %")
    axes.set_title(record.about(run[0]), fontsize=10, loc="left")
    pictures.clean(axes)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(labelsize=9)
    made.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False, columnspacing=1)
    return made


def without_speed(run: Records) -> list[str]:
    """Rows that `headline` leaves out, as nobody recorded the speed of their network."""
    timed = {r["model"] for r in run if r["metric"] == SPEED and r["backend"] == "kernel"}
    rows = [r for r in run if r["metric"] == "miou" and r["column"] == scores.MEAN]
    return [r["model"] for r in rows if _norm(r) not in timed]


def _norm(r: Mapping[str, Any]) -> str:
    return r["model"].removesuffix(" + jitter")


def _halves(value: float, low: float, high: float) -> list[list[float]]:
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def copies(run: Records) -> dict[str, Figure]:
    """Operator and format -> time by that of a copy against the size of the tensor, per pass."""
    times = [r for r in run if r["metric"] == "time"]
    found = {}
    for key in sorted({op_tables.key(r) for r in times}):
        group = [r for r in times if op_tables.key(r) == key]
        launch = [] if group[0]["device_type"] == "cpu" else [key[-1]]
        found[", ".join([*key[:-1], *launch])] = _copies(group)
    return found


def _copies(group: Records) -> Figure:
    passes = [name for name in PASSES if any(r["pass"] == name for r in group)]
    made = Figure(figsize=(9.6, 3.6), layout="constrained")
    panels = made.subplots(1, len(passes), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, passes, strict=True):
        mine = [r for r in group if r["pass"] == name]
        unit = {tuple(r["shape"]): r["value"] for r in mine if r["backend"] == "copy"}
        for backend, (colour, mark) in OPS_STYLE.items():
            points = sorted(
                (_mib(r), r["value"] / unit[tuple(r["shape"])])
                for r in mine
                if r["backend"] == backend and tuple(r["shape"]) in unit
            )
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=mark, label=backend)
        axes.axhline(1, color=pictures.INK, linewidth=0.8, linestyle="--")
        axes.axvline(group[0]["cache_bytes"] / 2**20, color="#667085", linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("tensor, MiB")
        axes.set_title(name, fontsize=10, loc="left")
        pictures.clean(axes)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("time, copies of the tensor")
    handles, names = panels[0].get_legend_handles_labels()
    made.legend(handles, names, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return made


def _mib(r: Mapping[str, Any]) -> float:
    return DTYPES[r["dtype"]].itemsize * math.prod(r["shape"]) / 2**20


def detection_bars(run: Records) -> Figure:
    """AP50 per domain and row, with half of Student's interval where there is one; see dressed."""
    found = [r for r in run if r["metric"] == detection_scores.AP50]
    summary: scores.Summary = {}
    for r in found:
        half = (r["high"] - r["low"]) / 2 if "low" in r else 0.0
        name = r["model"] + (f" ({detection_scores.NOT_CONVERGED})" if r["not_converged"] else "")
        summary.setdefault(name, {})[r["column"]] = {"mean": r["value"], "std": half}
    roles = {r["column"]: r["role"] for r in found if r["role"] in ("target", "stress", "real")}
    return dressed(pictures.score_bars(summary, roles, "AP50 %"))


def dressed(made: Figure) -> Figure:
    """Bars of detectors: colours are the norms, hatches the detectors and what stands before them.

    made: of `pictures.score_bars`; changed in place.
    """
    axes = made.axes[0]
    for bars in axes.containers:
        if isinstance(bars, BarContainer):
            _dress(bars)
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False,
        handlelength=3.5, handleheight=1.4,
    )  # fmt: skip
    return made


def _dress(bars: BarContainer) -> None:
    row = str(bars.get_label())
    known = (*detection_scores.NORMS, detection_scores.JITTER, detection_scores.BASE)
    norm = next((name for name in known if f" {name}" in row), "")
    detector = next((i for i, d in enumerate(detection_scores.DETECTORS) if row.startswith(d)), 0)
    hatch = HATCHES[detector] + ("--" if detection_scores.RESTORED in row else "")
    for bar in bars:
        bar.set(
            facecolor=pictures.COLOURS.get(norm, pictures.INK),
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
        )
