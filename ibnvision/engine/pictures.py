"""Pictures of a run, drawn without a display."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ibnvision.metrics import unit

from .checkpoint import write_atomic


def save_png(picture: Tensor, path: Path) -> None:
    """Write uint8 [C, H, W], RGB or one grey channel, as PNG."""
    from ibnvision.data.opencv import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.ascontiguousarray(picture.cpu().permute(1, 2, 0).numpy()[..., ::-1])
    write_atomic(path, cv2.imencode(".png", pixels)[1].tobytes())


def save_curves(records: Sequence[Mapping[str, Any]], score: str, path: Path) -> None:
    """Training loss and the score of every domain over the steps, from metrics.jsonl."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [(row["step"], row["loss"]) for row in records if row["kind"] == "train"]
    if losses:
        left.plot(*zip(*losses, strict=True), color="#20639b")
    left.set(xlabel="step", ylabel="training loss")
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in records:
        if row["kind"] == "eval" and row[score] is not None:
            label = f"{row['domain']} ({row['split']})"
            curves.setdefault(label, []).append((row["step"], row[score]))
    for label, points in curves.items():
        dashed = "--" if label.endswith("(val)") else "-"
        right.plot(*zip(*points, strict=True), dashed, marker="o", markersize=3, label=label)
    right.set(xlabel="step", ylabel=f"{score.rpartition('_')[0]} ({unit(score)})")
    if unit(score) == "%":
        right.set_ylim(0, 100)
    if curves:
        right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _save_figure(figure, path)


def save_confusion(counts: Tensor, classes: Sequence[str], title: str, path: Path) -> None:
    """Confusion matrix [K, K], row = labelled class, in percent of its row; absent: empty."""
    from matplotlib.figure import Figure

    pixels = counts.double().numpy()
    share = np.full_like(pixels, np.nan)
    total = pixels.sum(1, keepdims=True)
    np.divide(100 * pixels, total, out=share, where=total > 0)
    side = 2 + 0.55 * len(classes)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(share):
        if not np.isnan(value):
            ink = "white" if value > 55 else "black"
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set(xlabel="predicted", ylabel="labelled")
    axes.set_title(f"{title}: % of labelled pixels", fontsize=9)
    _save_figure(figure, path)


def save_divergence(
    panels: Mapping[str, Mapping[str, Sequence[float | None]]],
    nulls: Mapping[str, Sequence[float | None]],
    layers: Sequence[str],
    path: Path,
) -> None:
    """Per panel a curve of each run over the layers, log scale; dashed: its null. None is a gap."""
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    wide = max(4.2, 0.32 * len(layers) + 1)
    figure = Figure(figsize=(columns * wide + 1, 3.4 * lines + 0.6), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, (title, curves) in zip(grid, panels.items(), strict=False):
        for i, (label, values) in enumerate(curves.items()):
            colour = f"C{i}"
            axes.plot(_logarithmic(values), "-o", markersize=3, color=colour, label=label)
            axes.plot(_logarithmic(nulls[label]), "--", linewidth=1, color=colour, alpha=0.6)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
        axes.tick_params(labelbottom=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("divergence")
    handles, labels = grid[0].get_legend_handles_labels()
    handles += grid[0].plot([], [], "--", linewidth=1, color="grey")
    figure.legend(
        handles, [*labels, "halves of the source"], fontsize=8, loc="outside lower center", ncols=4
    )
    _save_figure(figure, path)


def _logarithmic(values: Sequence[float | None]) -> list[float]:
    """What has a logarithm, NaN elsewhere."""
    return [v if v is not None and v > 0 else float("nan") for v in values]


def _save_figure(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(path, buffer.getvalue())
