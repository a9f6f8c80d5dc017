"""Several runs analyzed on the same images: one report, its table and its files."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from . import pictures
from .analyze import analyze
from .checkpoint import write_json
from .predict import load_trained

MEASURE = (
    "symmetric KL divergence, in nats, of the Gaussians fitted to the means of a channel over "
    "space, one an image; mean over the channels of a layer without those that are constant in "
    "a domain (https://arxiv.org/abs/1807.09441)"
)
NULL = (
    "the same between halves of the source, if it has 8 images, mean over 35 ways to halve it: "
    "what no difference looks like with half of the images; with all of them it is about half of "
    "that"
)
TAILS = (
    "a few channels that are nearly dead in one domain can carry a mean: the median and the other "
    "quantiles over the channels stand in divergence.json"
)
_SHOWN = 3  # modules left out that are named
_DATA_FACTS = ("source", "targets", "split", "images", "fingerprints")


def analyze_runs(
    paths: Sequence[str | Path],
    *,
    domains: Sequence[str] | None = None,
    folders: Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
    **options: Any,
) -> dict[str, Any]:
    """`analyze` of the networks of several checkpoint files on the same images.

    domains: by default those of the first run. folders: of domains on disk, as `data` of a config.
    Further options: as of `analyze`.

    Returns: what `analyze` says of the data, measure, null, and runs: {weights, model, layers,
    left_out} by the name of the run, or by the file where two runs share a name.

    Raises: as `analyze` and `load_trained`; ValueError for a file given twice, or where the runs
    see other images, as of another preset.
    """
    if len(set(map(str, paths))) < len(paths) or not paths:
        raise ValueError(f"RUN must name files that differ, got {', '.join(map(str, paths))}")
    trained = {str(path): load_trained(path, device) for path in paths}
    names = [run.cfg.name for run in trained.values()]
    report: dict[str, Any] = {"measure": MEASURE, "null": NULL}
    runs: dict[str, Any] = {}
    for path, (model, cfg, *_) in trained.items():
        cfg = dataclasses.replace(cfg, data=cfg.data | dict(folders or {}))
        found = analyze(cfg, model, domains=domains, **options)
        domains = [found["source"], *found["targets"]]
        facts = {key: found.pop(key) for key in _DATA_FACTS}
        if runs and facts != {key: report[key] for key in _DATA_FACTS}:
            raise ValueError(
                f"runs of one table must see the same images, {path} sees others than "
                f"{paths[0]}: its preset or size differs; analyze it apart"
            )
        report |= facts
        label = cfg.name if names.count(cfg.name) == 1 else path
        runs[label] = {"weights": path, "model": cfg.model, **found}
    return report | {"runs": runs}


def save_report(report: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write divergence.json and divergence.png, a curve a run, into `folder`; returns the paths."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "divergence.json", out / "divergence.png"]
    write_json(paths[0], report)
    layers, runs = _layers(report), report["runs"]
    panels = {
        f"{report['source']} against {target}": {
            label: [_mean(run, layer, target) for layer in layers] for label, run in runs.items()
        }
        for target in report["targets"]
    }
    nulls = {label: [_null(run, layer, report) for layer in layers] for label, run in runs.items()}
    pictures.save_divergence(panels, nulls, _short(layers), paths[1])
    return paths


def report_table(report: Mapping[str, Any]) -> Group:
    """Layers down; across the targets of one run, or for each target the runs with their null."""
    source, targets, runs = report["source"], report["targets"], report["runs"]
    layers, counts = _layers(report), report["images"]
    title = f"{source} {report['split']}, {counts[source]} images"
    parts: list[Any] = []
    if len(runs) == 1:
        (label, run), *_ = runs.items()
        columns = {t: [_text(_mean(run, layer, t)) for layer in layers] for t in targets}
        columns["null"] = [_text(_null(run, layer, report)) for layer in layers]
        parts += [f"{label}: features against {title}", _table(layers, columns)]
    for target in targets if len(runs) > 1 else ():
        columns = {
            label: [
                f"{_text(_mean(run, layer, target))} ({_text(_null(run, layer, report))})"
                for layer in layers
            ]
            for label, run in runs.items()
        }
        parts += [f"{target} against {title}", _table(layers, columns)]
    where = "null" if len(runs) == 1 else "in brackets"
    return Group(*parts, f"{where}: {NULL}", TAILS, *_left_out(runs))


def _layers(report: Mapping[str, Any]) -> list[str]:
    """Those of all runs, each once."""
    return list(dict.fromkeys(name for run in report["runs"].values() for name in run["layers"]))


def _mean(run: Mapping[str, Any], layer: str, target: str) -> float | None:
    row = run["layers"].get(layer)
    return row["divergence"][target]["mean"] if row else None


def _null(run: Mapping[str, Any], layer: str, report: Mapping[str, Any]) -> float | None:
    row = run["layers"].get(layer)
    level = row["null"][report["source"]] if row else None
    return level["mean"] if level else None


def _text(value: float | None) -> str:
    """Three digits, without an exponent where people compare columns."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _short(layers: Sequence[str]) -> list[str]:
    """Names without the modules that all of them lie in."""
    parts = [layer.split(".") for layer in layers]
    shared = 0
    while len({tuple(p[: shared + 1]) for p in parts}) == 1 and shared < min(map(len, parts)) - 1:
        shared += 1
    return [".".join(p[shared:]) for p in parts]


def _table(layers: Sequence[str], columns: Mapping[str, Sequence[str]]) -> Table:
    table = Table()
    table.add_column("layer", no_wrap=True)
    for heading in columns:
        table.add_column(heading.replace("_", "_\n"), justify="right", overflow="fold")
    for layer, *cells in zip(_short(layers), *columns.values(), strict=True):
        table.add_row(layer, *cells)
    return table


def _left_out(runs: Mapping[str, Any]) -> Iterator[str]:
    """What the means do not hold, one line a run."""
    for label, run in runs.items():
        facts = [row for layer in run["layers"].values() for row in layer["divergence"].values()]
        both, one = (sum(f[key] for f in facts) for key in ("constant_in_both", "constant_in_one"))
        total = sum(f["channels"] for f in facts)
        if both or one:
            yield (
                f"{label}: of {total} channels by target, {both} are constant in both domains and "
                f"{one} in one of them; the means leave them out, divergence.json counts them"
            )
        rows = [f"{name}, {why}" for name, why in run["left_out"].items()]
        if rows:
            more = f"; and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
            yield f"{label}: left out {'; '.join(rows[:_SHOWN])}{more}"
