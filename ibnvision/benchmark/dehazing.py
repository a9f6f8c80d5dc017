"""Does DEA-Net dehaze what it never saw, and which part of it helps?   ibnvision benchmark dehazing

Rows DEA-Net, the same without DEConv, the same without CGA; every row and seed is a training of its
own, in its own process with one thread, beside the hazy input and the dark channel prior; preset
quick is too short to conclude from. A restart
reuses finished runs and goes on with interrupted ones. Leaves results.json, table.md,
records.jsonl, pictures, the runs, and dehazer.pt, which `ibnvision dehaze` finds.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ibnvision import config, data
from ibnvision.config import Config

from . import beside, dehazing_rows, dry_run, paired, record, run_arguments, scores
from . import dehazing_pictures as pictures
from . import dehazing_scores as words
from .plans import Job, Row, plan_rows, tests_of
from .run_results import (
    batch_words,
    cell_records,
    finish,
    found_by_row,
    leave_weights,
    results_of,
    summary_of,
)
from .runs import Outcome, State, train_all

CONFIGS = {"tiny": "dehaze_streets_tiny", "quick": "streets_dehaze", "full": "streets_dehaze"}
SEEDS = {"tiny": (0,), "quick": (0, 1), "full": (0, 1, 2, 3, 4)}
SHORTER = ("steps=300",)  # the quick preset
ROWS = (
    Row(words.FULL, ()),
    Row(words.NO_DETAIL, ("model_args.detail=false",)),
    Row(words.NO_ATTENTION, ("model_args.attention=false",)),
)
TESTS = (
    "haze",
    "haze_dense",
    "haze_tinted",
    "haze_patchy",
    "haze_camera",
    "motorcycle_thin",
    "motorcycle_medium",
    "motorcycle_dense",
    "haze_none",
)
SELECTION = "Scores are those of the last checkpoint: nothing is selected."
FIELDS = {"psnr_rgb_db": words.PSNR, "ssim_zero_padded": words.SSIM}  # of the metric -> recorded


def plan(
    config_name: str,
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
    rows: Sequence[Row] = ROWS,
) -> list[Job]:
    """All trainings, seed by seed."""
    tests = tested_on(config.load(config_name, overrides))
    return plan_rows(rows, tests, config_name, seeds, overrides, out)


def tested_on(cfg: Config) -> list[str]:
    """What a study by this config is tested on: trained on drawn haze, all of TESTS."""
    if any(data.key_of(name) for name in cfg.train_domains):
        return tests_of(cfg)
    return [*dict.fromkeys([*cfg.train_domains, *TESTS])]


def collect(
    jobs: Sequence[Job], outcome: Outcome, state: State, config_name: str, common: record.Record
) -> dict[str, Any]:
    """results.json: everything that table, pictures and records are made from."""
    cfg = jobs[0].cfg
    results = results_of(jobs, outcome, state, config_name, common, SELECTION)
    roles, rows = results["roles"], results["rows"]
    ours: list[dict] = next((row["runs"] for row in rows if row["name"] == words.FULL), [])
    gated = {
        run["seed"]: behind
        for run in ours
        if (behind := dehazing_rows.gated(Path(run["folder"]) / "last.pt", cfg, list(roles)))
    }
    patch = dehazing_rows.tuned_patch(cfg)
    untrained = {
        name: {0: dehazing_rows.measured(cfg, list(roles), restore)}
        for name, restore in dehazing_rows.untrained(patch).items()
    }
    every = {**untrained, **found_by_row(rows), words.GATED: gated}
    return results | {
        "untrained": untrained,
        "prior_patch": patch,
        "gated": gated,
        "parameters": {
            j.row.name: dehazing_rows.folded_parameters(j.cfg)
            for j in jobs
            if j.seed == jobs[0].seed
        },
        "summary": {name: summary_of(every, field, roles) for field, name in FIELDS.items()},
    }


def records_of(results: Mapping[str, Any], common: record.Record) -> list[record.Record]:
    """One record per cell of the tables, and per number that a target judges."""
    cfg, roles, summary = results["config"], results["roles"], results["summary"]
    common = common | {"threads": 1, "protocol": results["protocol"], "dtype": "fp32"}
    common |= {
        "selection": results["selection"],
        "training": f"{cfg['steps']} steps of {batch_words(cfg, 'crops')}",
    }
    common |= {"prior_patch": results["prior_patch"]}
    columns = words.columns(roles)
    found: list[record.Record] = []
    for metric, rows in summary.items():
        head = {"metric": metric} | ({"unit": "dB"} if metric == words.PSNR else {})
        found += cell_records(rows, roles, columns, head)
    for rival in words.PARTS:
        for column in (c for c in columns if c != scores.GAP):
            apart = paired.difference(summary[words.PSNR], words.FULL, rival, column)
            head = {"metric": words.DIFFERENCE, "model": words.FULL, "rival": rival, "unit": "dB"}
            found += [head | {"column": column} | apart] if apart else []
    found = beside.merged(found, [words.PSNR], words.DIFFERENCE, results["beside"])
    found += results["beside"]["records"]
    found += _gate_records(results)
    for row in results["rows"]:
        size = results["parameters"][row["name"]]
        found.append({"metric": "parameters", "model": row["name"], "value": size, "n": 1})
        walls = [run["wall_s"] for run in row["runs"] if run["wall_s"]]
        if walls:
            mean = sum(walls) / len(walls)
            head = {"metric": "training time", "model": row["name"], "unit": "s"}
            found.append(head | {"value": mean, "n": len(walls)})
    judged = words.judged(summary[words.PSNR], roles)
    found += [{"metric": name, "value": value, "n": 1} for name, value in judged.items()]
    return [common | fields for fields in found]


def _gate_records(results: Mapping[str, Any]) -> list[record.Record]:
    """Per domain the mean over seeds of what the gate did, and its worst picture."""
    runs = list(results["gated"].values())
    found: list[record.Record] = []
    for domain in results["roles"] if runs else ():
        rows = [run[domain] for run in runs]
        means = {k: sum(r[k] for r in rows) / len(rows) for k in ("weight", "untouched_pct")}
        head = {"metric": words.GATE, "model": words.GATED, "column": domain, "n": len(rows)}
        head |= {"value": means["weight"], "untouched_pct": means["untouched_pct"]}
        found.append(head | {"worst_db": min(r["worst_db"] for r in rows)})
    return found


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 when a training failed."""
    parser = run_arguments.parser("dehazing", __doc__, CONFIGS)
    parser.add_argument(
        "--picture", metavar="FILE", help="only write before and after, of the folder --out"
    )
    args = run_arguments.parse(parser, argv, SEEDS, dict.fromkeys(SEEDS, ROWS), SHORTER)
    begin = time.perf_counter()
    out = Path(args.out or f"runs/dehazing_{args.preset}")
    if args.picture:
        print(f"picture     {pictures.write_before_after(out, Path(args.picture))}")
        return 0
    torch.set_num_threads(1)
    config_name = args.config or CONFIGS[args.preset]
    planned = functools.partial(plan, config_name, args.seeds, args.overrides, out, args.rows)
    if args.dry_run:
        base = config.load(config_name, args.overrides)
        return dry_run.show(base, tested_on(base), args.workers, planned)
    jobs = planned()
    trained = train_all("dehazing", argv, args, jobs, config_name, out, begin=begin)
    if trained is None:
        return 1
    common, say, state, outcome = trained
    say("rows without training, and the gate")
    results = collect(jobs, outcome, state, config_name, common)
    repeats = 3 if common["quick"] else 7
    more = dehazing_rows.again(outcome.done, results["gated"])
    results["beside"] = beside.of_study(
        outcome.done, "psnr_rgb_db", words.pairs, repeats, say, more
    )
    dehazer = leave_weights(results, (words.FULL,), out / "dehazer.pt")
    if dehazer:
        results["pictures"] = pictures.write(dehazer, out / "pictures")
    results["wall_s"] = time.perf_counter() - begin
    found = records_of(results, common)
    nothing = f"none: no seed of {words.FULL} finished"
    left = {"pictures": out / "pictures", "dehazer": dehazer or nothing}
    text = beside.after(words.block(found), found, words.PSNR, "dB", 2)
    return finish(results, found, text, out, args, left)
