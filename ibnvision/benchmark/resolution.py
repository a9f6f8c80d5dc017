"""Does a ViT work at resolutions it never saw?   ibnvision benchmark resolution

A small ViT with a class token and four registers, trained on one size, labels pictures of up to
four times its height and width: with dense attention, with a window alone, and with the Lambda
shape, in networks that share their weights. Every training and seed is a process of its own, with
one thread. A restart reuses finished runs and scores and goes on with the others. Leaves
results.json, table.md, resolution.png, records.jsonl and the runs.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ibnvision import config
from ibnvision.metrics import by_image
from ibnvision.metrics.by_image import Statistics

from . import (
    dry_run,
    manifest,
    measure,
    record,
    resolution_images,
    resolution_pictures,
    resolution_rows,
    run_arguments,
)
from . import resolution_scores as words
from .plans import Job, Row, plan_rows
from .resolution_rows import Scores, View
from .run_results import finish, results_of
from .runs import Outcome, State, train_all

CONFIGS = {"tiny": "vit_streets_tiny", "quick": "streets_vit", "full": "streets_vit"}
SEEDS = {"tiny": (0,), "quick": (0, 1), "full": (0, 1, 2, 3, 4)}
SHORTER = ("steps=300",)  # the quick preset
REPEATS = 5  # of a timed call
ZOOM_STEPS = 1.8
CNN, ABSOLUTE, ROPE = "CNN", "absolute", "RoPE"
CNN_ZOOM, ROPE_ZOOM = "CNN zoom", "RoPE zoom"
CONTROLS = {CNN: CNN, ABSOLUTE: CNN, ROPE: CNN, CNN_ZOOM: CNN_ZOOM, ROPE_ZOOM: CNN_ZOOM}
_POSITIONS = "model_args.backbone_args.use_{}_pos_emb={}"
_CNN = (
    "model=resnet18_ibn_b",
    'model_args={output_stride = 8, head_channels = 64, backbone_args = {ibn = "none", '
    "channels = [16, 32, 64, 64], small_stem = true}}",
    *("optimizer=sgd", "lr=0.05", "schedule=poly", "weight_decay=5e-4", "warmup=20"),
)
ROWS = (
    Row(CNN, _CNN),
    Row(ABSOLUTE, (_POSITIONS.format("abs", "true"), _POSITIONS.format("rot", "false"))),
    Row(ROPE, ()),
    Row(CNN_ZOOM, (*_CNN, "augment=zoom")),
    Row(ROPE_ZOOM, ("augment=zoom",)),
)
PRESET_ROWS = {"tiny": ROWS, "quick": [r for r in ROWS if r.name in (CNN, ROPE)], "full": ROWS}


def _rope(name: str, trained: str) -> tuple[View, ...]:
    return (
        View(f"{name} squeezed, dense", trained),
        View(f"{name} native, dense", trained, native=True),
        View(f"{name} native, window", trained, "window", native=True),
        View(f"{name} native, Lambda", trained, "lambda", native=True),
        View(f"{name} native, Lambda, limit", trained, "lambda", native=True, limit=True),
    )


VIEWS = (  # of each training the row as trained comes first
    View(CNN, CNN),
    View("absolute, dense", ABSOLUTE),
    View("absolute, window", ABSOLUTE, "window"),
    View("absolute, Lambda", ABSOLUTE, "lambda"),
    *_rope("RoPE", ROPE),
    View(CNN_ZOOM, CNN_ZOOM),
    *_rope("RoPE zoom", ROPE_ZOOM),
)
PAIRS = (  # row, rival
    ("absolute, Lambda", "absolute, dense"),
    ("absolute, Lambda", "absolute, window"),
    *(
        (f"{name} native, {row}", f"{name} {rival}")
        for name in ("RoPE", "RoPE zoom")
        for row, rival in (
            ("Lambda, limit", "squeezed, dense"),
            ("Lambda, limit", "native, dense"),
            ("Lambda, limit", "native, window"),
            ("Lambda, limit", "native, Lambda"),
        )
    ),
)
SELECTION = (
    "Hyper-parameters come from the source's validation scenes with seed 0, for all ViTs the same; "
    "scores are those of the last checkpoint."
)


def plan(
    config_name: str,
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
    rows: Sequence[Row] = ROWS,
) -> list[Job]:
    """All trainings, seed by seed; those with zoom have ZOOM_STEPS times the steps."""
    base = config.load(config_name, overrides)
    longer = f"steps={round(ZOOM_STEPS * base.steps)}"
    longer_rows = [
        Row(row.name, (*row.overrides, longer)) if "augment=zoom" in row.overrides else row
        for row in rows
    ]
    return plan_rows(longer_rows, base.train_domains, config_name, seeds, overrides, out)


def collect(
    jobs: Sequence[Job],
    outcome: Outcome,
    state: State,
    config_name: str,
    common: record.Record,
    scores: Scores,
) -> dict[str, Any]:
    """results.json: everything that tables, plot and records are made from."""
    results = results_of(jobs, outcome, state, config_name, common, SELECTION)
    values: dict[str, dict[str, dict[int, list[float]]]] = {view.name: {} for view in VIEWS}
    stats: dict[str, dict[str, dict[int, dict[str, Statistics]]]] = {}
    for job in sorted(outcome.done, key=jobs.index):
        for view in (v for v in VIEWS if v.trained == job.row.name):
            for probe, row in scores.of(job, view).items():
                values[view.name].setdefault(probe, {})[job.seed] = [
                    by_image.whole(one, resolution_rows.FIELD) for one in row
                ]
                sizes = dict(zip(map(words.size, words.SCALES), row, strict=True))
                stats.setdefault(probe, {}).setdefault(view.name, {})[job.seed] = sizes
    weights = {
        row["name"]: Path(row["runs"][0]["folder"]) / "last.pt"
        for row in results["rows"]
        if row["runs"]
    }
    mine = [v for v in VIEWS if v.trained in weights]
    networks = {v.name: resolution_rows.network(v, weights[v.trained]) for v in mine}
    trained = {view.trained: networks[view.name] for view in reversed(mine)}  # nothing converted
    made = results["manifest"] | {"scenes": scores.facts}
    made["views"] = [dataclasses.asdict(view) for view in VIEWS]
    return results | {
        "manifest": made,
        "protocol": manifest.digest(made),
        "trained_size": scores.size,
        "pictures": len(scores.pictures(words.SCENE, 1)),
        "form": resolution_rows.form_of(networks),
        "parameters": {n: sum(p.numel() for p in m.parameters()) for n, m in trained.items()},
        "steps": {job.row.name: job.cfg.steps for job in jobs},
        "scores": {name: found for name, found in values.items() if found},
        "beside": {probe: resolution_images.of_probe(of, PAIRS) for probe, of in stats.items()},
        "costs": list(resolution_rows.costs(networks, scores, REPEATS)),
    }


def records_of(results: Mapping[str, Any], common: record.Record) -> list[record.Record]:
    """One record per cell of the tables, and per number that a target judges."""
    cfg, views = results["config"], {view.name: view for view in VIEWS}
    common = common | results["form"] | {"threads": 1, "dtype": "fp32"}
    common |= {key: results[key] for key in ("protocol", "selection", "trained_size", "pictures")}
    common |= {"source": ", ".join(cfg["train_domains"])}
    common |= {"reused_runs": sum(run["reused"] for row in results["rows"] for run in row["runs"])}
    common |= {"training": f"batches of {cfg['batch_size']} images"}
    found: list[record.Record] = []
    for name, probes in results["scores"].items():
        for probe, by_seed in probes.items():
            for at, scale in enumerate(words.SCALES):
                head = {"metric": words.MIOU, "unit": "% mIoU", "probe": probe, "scale": scale}
                cell = measure.cell({int(seed): row[at] for seed, row in by_seed.items()})
                found.append(head | words.place(scale) | _head(views[name]) | cell)
    for row, rival in PAIRS:
        for probe in words.PROBES:
            ours, theirs = (results["scores"].get(n, {}).get(probe, {}) for n in (row, rival))
            for at, scale in enumerate(words.SCALES):
                both = {int(s): ours[s][at] - theirs[s][at] for s in ours if s in theirs}
                if both:
                    head = {"metric": words.DIFFERENCE, "rival": rival, "unit": "mIoU points"}
                    head |= {"probe": probe, "scale": scale} | _head(views[row])
                    found.append(head | words.place(scale) | measure.cell(both))
    found = resolution_images.merged(found, results["beside"])
    for cost in results["costs"]:
        head = _head(views[cost["view"]]) | {"scale": cost["scale"], "n": cost["n"]}
        spread = {key: 1e3 * value for key, value in cost["spread"].items()}
        time_ms = {"value": 1e3 * cost["cpu_s"], "unit": "ms", "spread": spread}
        found.append({"metric": words.LATENCY} | head | time_ms)
        found.append(
            {"metric": words.LIVE} | head | {"value": cost["peak_bytes"] / 1e6, "unit": "MB"}
        )
    for row in results["rows"]:
        name = row["name"]
        if size := results["parameters"].get(name):
            head = {"metric": words.WEIGHTS, "model": name, "value": size, "n": 1}
            found.append(head | {"steps": results["steps"][name]})
        spent = {run["seed"]: run["cpu_s"] / 60 for run in row["runs"] if run["cpu_s"]}
        head = {"metric": words.TRAINING, "model": name, "unit": "min"}
        found += [head | measure.cell(spent)] if spent else []
    found += [{"metric": k, "value": v, "n": 1} for k, v in words.judged(found).items()]
    return [common | fields for fields in found]


def _head(view: View) -> record.Record:
    control = CONTROLS[view.trained]
    return {"model": view.name, "trained": view.trained, "sees": view.sees, "control": control}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 when a training failed."""
    parser = run_arguments.parser("resolution", __doc__, CONFIGS)
    args = run_arguments.parse(parser, argv, SEEDS, PRESET_ROWS, SHORTER)
    if args.add:
        parser.error(
            "--add must be left out: a row here is a way to look through a trained network"
        )
    begin = time.perf_counter()
    out = Path(args.out or f"runs/resolution_{args.preset}")
    torch.set_num_threads(1)
    config_name = args.config or CONFIGS[args.preset]
    planned = functools.partial(plan, config_name, args.seeds, args.overrides, out, args.rows)
    if args.dry_run:
        base = config.load(config_name, args.overrides)
        return dry_run.show(base, base.train_domains, args.workers, planned)
    jobs = planned()
    trained = train_all("resolution", argv, args, jobs, config_name, out, begin=begin)
    if trained is None:
        return 1
    common, say, state, outcome = trained
    scores = Scores(jobs[0].cfg, say)
    results = collect(jobs, outcome, state, config_name, common, scores)
    results["wall_s"] = time.perf_counter() - begin
    found = records_of(results, common)
    picture = resolution_pictures.write(found, out)
    return finish(results, found, resolution_images.after(found), out, args, {"picture": picture})
