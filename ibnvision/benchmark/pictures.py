"""Pictures of the generalization benchmark: scores, curves, classes, predictions.

What another benchmark draws too is public.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ibnvision import data, engine
from ibnvision.engine.predict import Trained, load_trained
from ibnvision.tasks import TASKS

from . import record, scores
from .plans import dataset_of

Results = Mapping[str, Any]
COLOURS = {
    "BN": "#9aa0ac",
    "BN + jitter": "#e0a030",
    "IBN-a": "#2a9d8f",
    "IBN-b": "#2f55d4",
    "IBN-a + jitter": "#1a6b61",
    "IBN-b + jitter": "#1b2f80",
    "ISW": "#c2477f",
    "ISW + jitter": "#7d2a52",
    "MixStyle": "#8a6d3b",
    "MixStyle + jitter": "#54401f",
}
INK = "#20242c"
SCENES = (0, 1)  # of every test split: the first two, never picked


def write(results: Results, folder: Path) -> dict[str, Any]:
    """Draw everything that the runs allow; returns the file names, relative to `folder`."""
    rows = [row for row in results["rows"] if row["runs"]]
    names: dict[str, Any] = {
        "scores": "scores.png",
        "curves": "curves.png",
        "classes": "classes.png",
    }
    figure = score_bars(results["summary"], results["roles"], "mIoU %")
    save(figure, folder / names["scores"])
    save(_curves(results, rows), folder / names["curves"])
    save(_classes(results, rows), folder / names["classes"])
    trained = {
        row["name"]: load_trained(Path(row["runs"][0]["folder"]) / "last.pt") for row in rows
    }
    names["predictions"] = {}
    for domain in results["roles"]:
        name = f"predictions_{domain}.png"
        save(_predictions(results, trained, domain), folder / name)
        names["predictions"][domain] = name
    return names


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    record.replace_file(path, buffer.getvalue())


def clean(axes: Any) -> None:
    """Leave what is read: no frame, a faint grid, small labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8)


def _bars(
    axes: Any, groups: Sequence[str], heights: Mapping[str, Sequence[float]], errors: Any = None
) -> None:
    """Grouped bars: one group per name, one colour per row."""
    width = 0.82 / len(heights)
    for i, (row, values) in enumerate(heights.items()):
        place = np.arange(len(groups)) + (i - (len(heights) - 1) / 2) * width
        spread = errors[row] if errors else None
        axes.bar(
            place, values, 0.92 * width, yerr=spread, label=row, color=COLOURS.get(row),
            error_kw={"elinewidth": 0.8, "ecolor": INK},
        )  # fmt: skip
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, 100)
    clean(axes)


def score_bars(summary: scores.Summary, roles: scores.Roles, unit: str) -> Figure:
    """Score per domain and row, with the spread over seeds; the target mean stands out."""
    shown = [c for c in scores.columns(roles) if c not in (scores.WORST, scores.GAP)]

    def values(row: str, field: str) -> list[float]:
        return [summary[row].get(c, {}).get(field, np.nan) for c in shown]

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots()
    labels = [scores.short(c).replace(" ", "\n") for c in shown]
    means = {row: values(row, "mean") for row in summary}
    _bars(axes, labels, means, {row: values(row, "std") for row in summary})
    if scores.MEAN in shown:
        place = shown.index(scores.MEAN)
        axes.axvspan(place - 0.5, place + 0.5, color="#eef2ff", zorder=0)
    axes.set_ylabel(unit)
    axes.legend(fontsize=8, ncols=4, frameon=False, loc="upper right")
    return figure


def _curves(results: Results, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss (with its range over seeds), source and target mean over the steps, means over seeds."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row in rows:
        logs = [engine.read_records(run["folder"]) for run in row["runs"]]
        colour = COLOURS.get(row["name"])
        losses = [{r["step"]: r["loss"] for r in log if r["kind"] == "train"} for log in logs]
        steps = sorted(set.intersection(*(set(loss) for loss in losses)))
        stacked = np.array([[loss[s] for s in steps] for loss in losses])
        left.plot(steps, stacked.mean(0), color=colour, label=row["name"], linewidth=1.4)
        left.fill_between(
            steps, stacked.min(0), stacked.max(0), color=colour, alpha=0.15, linewidth=0
        )
        curves = [_by_step(log, results["roles"]) for log in logs]
        steps = sorted(set.intersection(*(set(c) for c in curves)))
        for column, style in ((scores.SOURCE, "--"), (scores.MEAN, "-")):
            if all(column in c[s] for c in curves for s in steps):
                mean = [np.mean([c[s][column] for c in curves]) for s in steps]
                right.plot(
                    steps, mean, style, color=colour, marker="o", markersize=3, linewidth=1.4
                )
    left.set(xlabel="step", ylabel="training loss")
    left.legend(fontsize=8, frameon=False)
    right.set(xlabel="step", ylabel="mIoU %", ylim=(0, 100))
    right.plot([], [], "--", color=INK, label="source")
    right.plot([], [], "-", color=INK, label="target mean")
    right.legend(fontsize=8, frameon=False, loc="upper left")
    for axes in (left, right):
        clean(axes)
    return figure


def _by_step(
    log: Sequence[Mapping[str, Any]], roles: Mapping[str, str]
) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for r in log:
        if r["kind"] == "eval" and r["split"] == "test":
            found.setdefault(r["step"], {})[r["domain"]] = r["miou_pct"]
    return {step: scores.of_run(row, roles) for step, row in found.items()}


def _classes(results: Results, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """IoU of every class at home and as the mean over the targets."""
    roles, classes = results["roles"], results["classes"]
    panels = {
        "source": [d for d, r in roles.items() if r == "source"],
        "mean of the targets": [d for d, r in roles.items() if r == "target"],
        "mean of the real domains": [d for d, r in roles.items() if r == "real"],
    }
    panels = {title: domains for title, domains in panels.items() if domains}
    figure = Figure(figsize=(11, 2.7 * len(panels)), layout="constrained")
    for axes, (title, domains) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
    ):
        heights = {}
        for row in rows:
            means = [scores.class_means(results, row["name"], d) for d in domains]
            heights[row["name"]] = [
                float(np.mean([m[c] for m in means if c in m] or [np.nan])) for c in classes
            ]
        _bars(axes, classes, heights)
        axes.set_ylabel("IoU %")
        axes.set_title(title, fontsize=9, color=INK, loc="left")
    figure.axes[0].legend(fontsize=8, ncols=4, frameon=False, loc="upper right")
    return figure


@torch.no_grad()
def _predictions(results: Results, trained: Mapping[str, Trained], domain: str) -> Figure:
    """Input, target and every row's prediction for the first test scenes of a domain."""
    first = next(iter(trained.values()))
    cfg = dataclasses.replace(first.cfg, data=results["config"]["data"])  # where it lies now
    dataset = dataset_of(cfg, domain, "test", limit=len(SCENES))
    items = [dataset[i] for i in range(min(len(SCENES), len(dataset)))]
    panels: dict[str, list[NDArray]] = {
        "input": [item["image"].permute(1, 2, 0).numpy() for item in items],
        "target": [_painted(i["image"], i["target"]) for i in items],
    }
    for name, run in trained.items():
        panels[name] = [
            _painted(item["image"], TASKS[run.cfg.task].predict(run.model, item["image"][None])[0])
            for item in items
        ]
    height, width = items[0]["image"].shape[1:]
    tall = 1.95 * height / width
    wide = min(len(panels), 6)  # panels beside each other, the rest below
    lines = -(-len(panels) // wide)
    figure = Figure(figsize=(1.95 * wide, lines * (tall * len(items) + 0.25)), layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    grid = figure.subplots(lines * len(items), wide, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (name, cells) in enumerate(panels.items()):
        line, j = divmod(number, wide)
        for i, picture in enumerate(cells):
            grid[line * len(items) + i, j].imshow(picture, interpolation="nearest")
        cell = (
            results["summary"]
            .get(name, {})
            .get(domain if domain in results["summary"].get(name, {}) else scores.SOURCE)
        )
        label = f"{name}  {cell['mean']:.1f}" if cell else name
        grid[line * len(items), j].set_title(
            label, fontsize=9, color=COLOURS.get(name, INK), fontweight="bold"
        )
    return figure


def _painted(image: torch.Tensor, label: torch.Tensor) -> NDArray:
    """Labels in their colours over the picture, float [H, W, 3] in [0, 1]; ignored pixels black."""
    colours = data.color_mask(label.numpy().astype(np.uint8)) / 255
    picture = 0.3 * image.permute(1, 2, 0).numpy() + 0.7 * colours
    picture[label.numpy() == data.IGNORED] = 0
    return picture.clip(0, 1)
