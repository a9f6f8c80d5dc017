"""Does IBN help a detector that saw one domain?   ibnvision benchmark detection

Rows Faster R-CNN and FCOS on ResNet-18, each with batch norm, IBN-a and IBN-b, and Faster R-CNN
with batch norm and colour jitter; preset quick: Faster R-CNN alone, too short to conclude from.
Every row and seed is a training of its own, in its own process with one thread. A row whose
detector did not learn its source, or is lost in every other domain, is marked and counts for
nothing. With --restorer, the checkpoint of a dehazing run, each Faster R-CNN is measured once more
behind it. A restart reuses finished runs and goes on with interrupted ones. Leaves results.json,
table.md, records.jsonl, pictures, the runs, and detector.pt, which `ibnvision detect` finds.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ibnvision import config, metrics

from . import beside, dry_run, paired, record, run_arguments, scores
from . import detection_pictures as pictures
from . import detection_restored as restored
from . import detection_scores as words
from .plans import Job, Row, fitted, plan_rows, tests_of
from .run_results import (
    batch_words,
    cell_records,
    finish,
    found_by_row,
    leave_weights,
    results_of,
    summary_of,
)
from .runs import train_all

CONFIGS = {"tiny": "det_streets_tiny", "quick": "streets_detect", "full": "streets_detect"}
SEEDS = {"tiny": (0,), "quick": (0, 1), "full": (0, 1, 2, 3, 4)}
SHORTER = ("steps=400",)  # the quick preset
RATES = {"faster_rcnn": 1.0, "fcos": 2.0}  # times the config's learning rate
ROWS = tuple(
    Row(
        name,
        (
            *(f"model_args.detector={detector}", f"model_args.backbone_args.ibn={ibn}"),
            f"augment={augment}",
        ),
    )
    for name, detector, ibn, augment in words.rows()
)
PRESET_ROWS = {
    "tiny": ROWS,
    "quick": [row for row in ROWS if row.name.startswith(words.RESTORED_ONES)],
    "full": ROWS,
}
SELECTION = (
    "Scores are those of the last checkpoint after a fixed number of steps: nothing is selected, "
    "and every hyper-parameter was chosen on the source's validation split."
)
FIELDS = {"ap50_pct": words.AP50, "ap_pct": words.AP, "voc_ap50_pct": words.VOC}  # -> recorded
FACTS = ("images_without_objects", "objects", "ignored_objects", "files_sha256", "split")


def plan(
    config_name: str,
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
    rows: Sequence[Row] = ROWS,
) -> list[Job]:
    """All trainings, seed by seed, tested on the source and on the config's test domains.

    A detector has RATES times the learning rate of the config, where the row names none.
    """
    base = config.load(config_name, overrides)
    return plan_rows(
        [_rated(fitted(row, base) if row in ROWS else row, config_name, overrides) for row in rows],
        tests_of(base),
        config_name,
        seeds,
        overrides,
        out,
    )


def _rated(row: Row, config_name: str, overrides: Sequence[str]) -> Row:
    base, cfg = (config.load(config_name, [*overrides, *extra]) for extra in ((), row.overrides))
    rate = RATES.get(cfg.model_args.get("detector", ""), 1.0)
    if cfg.lr != base.lr or rate == 1:
        return row
    return Row(row.name, (*row.overrides, f"lr={rate * base.lr:g}"))


def collect(
    jobs: Sequence[Job], results: Mapping[str, Any], restorer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """results.json, everything that table, pictures and records are made from, of what `results_of`
    holds; restorer: what is stored of it, where rows are restored.
    """
    found, roles = found_by_row(results["rows"]), results["roles"]
    summary = {name: summary_of(found, field, roles) for field, name in FIELDS.items()}
    plain = {job.row.name: job.cfg for job in jobs}
    first = next(domains for runs in found.values() for domains in runs.values())
    return {
        **results,
        "restorer": restorer,
        "steps": {row: plain[row.removesuffix(words.RESTORED)].steps for row in found},
        "lr": {row: plain[row.removesuffix(words.RESTORED)].lr for row in found},
        "rules": metrics.rules(FIELDS),
        "sets": {domain: row["facts"] for domain, row in first.items()},
        "summary": summary,
        "not_converged": {
            row: words.shortfall(cells, roles) for row, cells in summary[words.AP50].items()
        },
    }


def records_of(results: Mapping[str, Any], common: record.Record) -> list[record.Record]:
    """One record per cell of the tables, per test set and per difference of rows that count."""
    roles, summary, why = results["roles"], results["summary"], results["not_converged"]
    common = common | {"threads": 1, "dtype": "fp32"} | results["rules"]
    common |= {key: results[key] for key in ("protocol", "selection", "config_name")}
    common |= {"training": batch_words(results["config"], "pictures")}
    found: list[record.Record] = []
    for metric, rows in summary.items():
        head = {"metric": metric, "unit": "%"}
        cells = cell_records(rows, roles, scores.columns(roles), head)
        for cell in cells:
            row = cell["model"]
            recipe = {key: results[key][row] for key in ("steps", "lr")}
            found.append(cell | {"not_converged": why[row]} | recipe)
    for row, rival in words.pairs([row for row, lost in why.items() if not lost]):
        for column in words.compared(roles):
            apart = paired.difference(summary[words.AP50], row, rival, column)
            head = {"metric": words.DIFFERENCE, "model": row, "rival": rival, "unit": "AP50 points"}
            found += [head | {"column": column} | apart] if apart else []
    found = beside.merged(found, [words.AP50], words.DIFFERENCE, results["beside"])
    found += results["beside"]["records"]
    for row in results["rows"]:
        if spent := words.minutes(row["runs"]):
            found.append({"metric": words.TRAINING, "model": row["name"]} | spent)
    if results["restorer"]:
        facts = {"metric": words.RESTORER, "unit": "steps", "n": 1, **results["restorer"]}
        found.append(facts | {"value": facts.pop("steps")})
    for domain, facts in results["sets"].items():
        head = {"metric": words.SET, "column": domain, "role": roles[domain]}
        told = {key: facts[key] for key in FACTS if key in facts}
        found.append(head | {"value": facts["images"], "n": 1} | told)
    return [common | fields for fields in found]


def preferred(results: Mapping[str, Any]) -> list[str]:
    """The rows whose weights are left for use: IBN-b first, those that count before the others."""
    names = [
        f"{detector} {norm}"
        for norm in (*words.NORMS[::-1], words.BASE)
        for detector in words.DETECTORS
    ]
    return sorted(names, key=lambda name: bool(results["not_converged"].get(name, "none")))


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 when a training failed."""
    parser = run_arguments.parser("detection", __doc__, CONFIGS)
    parser.add_argument("--restorer", help="the checkpoint of a dehazing run")
    args = run_arguments.parse(parser, argv, SEEDS, PRESET_ROWS, SHORTER)
    table, facts = restored.load(Path(args.restorer)) if args.restorer else (None, None)
    begin = time.perf_counter()
    out = Path(args.out or f"runs/detection_{args.preset}")
    torch.set_num_threads(1)
    config_name = args.config or CONFIGS[args.preset]
    planned = functools.partial(plan, config_name, args.seeds, args.overrides, out, args.rows)
    if args.dry_run:
        base = config.load(config_name, args.overrides)
        return dry_run.show(base, tests_of(base), args.workers, planned)
    jobs = planned()
    trained = train_all("detection", argv, args, jobs, config_name, out, begin=begin)
    if trained is None:
        return 1
    common, say, state, outcome = trained
    measured = results_of(jobs, outcome, state, config_name, common, SELECTION)
    if table:
        domains = list(measured["roles"])
        measured["rows"] = restored.rows(measured["rows"], table, domains, say)
    results = collect(jobs, measured, facts)
    repeats = 3 if common["quick"] else 7
    done = outcome.done
    more = restored.again(measured["rows"], done, table, facts["sha256"]) if table and facts else []
    results["beside"] = beside.of_study(done, "ap50_pct", words.pairs, repeats, say, more)
    say("pictures")
    results["pictures"] = pictures.write(results, out / "pictures", table)
    detector = leave_weights(results, preferred(results), out / "detector.pt")
    results["wall_s"] = time.perf_counter() - begin
    found = records_of(results, common)
    left = {"pictures": out / "pictures", "detector": detector}
    text = beside.after(words.block(found), found, words.AP50, "AP50")
    return finish(results, found, text, out, args, left)
