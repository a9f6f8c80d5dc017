"""Does a network that saw one domain read others?   ibnvision benchmark generalization

Rows BN, BN + colour jitter, IBN-a, IBN-b; preset full: BN, IBN-a, IBN-b, ISW and MixStyle, each
with and without jitter, 5 seeds, on --backbone. Every row and seed is a training of its own, in its
own process with one thread. A restart reuses finished runs and goes on with interrupted ones.
Leaves results.json, table.md, report.html, records.jsonl, the runs, and segmenter.pt, which
`ibnvision predict` finds.
"""

import argparse
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ibnvision import config, data, engine
from ibnvision.config import Config
from ibnvision.data.shifts import APPEARANCE_HASH
from ibnvision.engine import sets
from ibnvision.methods.whitening import InstanceWhitening
from ibnvision.metrics import ABSENT_RULE
from ibnvision.ops import reference_ops, why_no_kernel
from ibnvision.tasks import TASKS

from . import (
    all_tasks,
    beside,
    comparisons,
    dry_run,
    findings,
    measure,
    pictures,
    record,
    run_arguments,
    run_page,
    scores,
)
from .plans import FULL_ROWS, ROWS, Job, dataset_of, plan, tests_of
from .run_results import cell_records, keep, leave_weights, results_of, write
from .runs import Outcome, State, train_all

CONFIGS = {"tiny": "seg_streets_tiny", "quick": "streets_quick", "full": "streets_quick"}
SEEDS = {"tiny": (0,), "quick": (0, 1, 2), "full": (0, 1, 2, 3, 4)}
PRESET_ROWS = {"tiny": ROWS, "quick": ROWS, "full": FULL_ROWS}
MINUTES = {"tiny": 0.0, "quick": 9.0, "full": 0.0}
BACKBONES = {"resnet18": "resnet18_ibn_b", "resnet50": "resnet50_ibn_b"}  # name -> model
SELECTION = (
    "Scores are those of the last checkpoint after a fixed number of steps: nothing is selected, "
    "and every hyper-parameter was chosen on the source alone."
)


def throughput(jobs: Sequence[Job], repeats: int) -> list[dict[str, Any]]:
    """Training images per CPU second of each norm, one thread, kernels on and off, interleaved.

    That of ISW with its loss, as in all steps after those that collect.
    """
    found = []
    with measure.threads(1):
        for norm, job in {_norm(job): job for job in reversed(jobs)}.items():
            cfg = job.cfg
            classes = data.classes(cfg.train_domains[0])
            training = sets.training_set(cfg)
            order = sets.order(cfg, training, 0, 1)
            batch = next(iter(sets.loader(cfg, training, batch_sampler=order)))
            model = engine.build_model(cfg, len(classes)).train()
            _begin_whitening(model)
            step = _step(cfg, model, batch)
            calls: dict[str, Callable[[], object]] = {"fallback": _in_reference(step)}
            if not why_no_kernel("ibn_norm_forward", batch["image"]):
                calls["kernel"] = step
            for ops, sample in measure.interleave(calls, repeats, warmup=1).items():
                rate = len(batch["image"]) / sample[:, measure.CPU]
                spread = measure.spread(rate)
                median = float(sorted(rate)[len(rate) // 2])
                found.append(
                    {
                        "row": norm,
                        "ops": ops,
                        "images_per_s": median,
                        "spread": spread,
                        "n": repeats,
                    }
                )
    return found[::-1]


def _norm(job: Job) -> str:
    return job.row.name.removesuffix(" + jitter")


def _begin_whitening(model: torch.nn.Module) -> None:
    for part in model.modules():
        if isinstance(part, InstanceWhitening):
            part.step.fill_(part.begin)


def _step(cfg: Config, model: torch.nn.Module, batch: dict[str, Any]) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=cfg.momentum)

    def step() -> None:
        TASKS[cfg.task].compute_loss(model, batch, cfg).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _in_reference(step: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with reference_ops():
            step()

    return run


def scene_seconds(cfg: Config, count: int = 12) -> float | None:
    """CPU seconds to draw and render one source scene that this process has not drawn yet; None
    where scenes are not drawn.
    """
    if data.key_of(cfg.train_domains[0]):
        return None
    dataset = dataset_of(cfg, cfg.train_domains[0], "val", limit=count)
    dataset[0]
    start = time.process_time()
    for i in range(1, len(dataset)):
        dataset[i]
    return (time.process_time() - start) / (len(dataset) - 1)


def collect(
    jobs: Sequence[Job], outcome: Outcome, state: State, config_name: str, common: record.Record
) -> dict[str, Any]:
    """results.json: everything that table, page and records are made from."""
    results = results_of(jobs, outcome, state, config_name, common, SELECTION)
    first = [job for job in jobs if job.seed == jobs[0].seed]
    for row, job in zip(results["rows"], first, strict=True):
        row["augment"] = job.cfg.augment
        for run in row["runs"]:
            found = run.pop("found")
            run["scores"] = {d: r["miou_pct"] for d, r in found.items()}
            run["iou"] = {d: r["iou_pct"] for d, r in found.items()}
    by_seed = {
        row["name"]: {run["seed"]: run["scores"] for run in row["runs"]} for row in results["rows"]
    }
    return results | {
        "classes": list(data.classes(jobs[0].cfg.train_domains[0])),
        "recipe": APPEARANCE_HASH,
        "absent_rule": ABSENT_RULE,
        "dropped_seeds": outcome.dropped,
        "summary": scores.summarize(
            {name: runs for name, runs in by_seed.items() if runs}, results["roles"]
        ),
    }


def records_of(results: Mapping[str, Any], common: record.Record) -> list[record.Record]:
    """One record per cell of the table, per throughput, and per number that a target judges."""
    common = common | {"backbone": results["backbone"]}
    common |= {
        "study": f"{record.about(common)}, {len(results['rows'])} rows",
        "threads": 1,
        "protocol": results["protocol"],
        "dtype": "fp32",
        "format": "nchw",
    }
    summary, roles = results["summary"], results["roles"]
    augments = {row["name"]: row["augment"] for row in results["rows"]}
    head = {"metric": "miou", "unit": "% mIoU"}
    found = [
        cell | {"augment": augments[cell["model"]]}
        for cell in cell_records(summary, roles, scores.columns(roles), head)
    ]
    for d in results["differences"]:
        kind = {"metric": "difference", "unit": "mIoU points", "value": d["mean"]}
        found.append(kind | {k: v for k, v in d.items() if k != "mean"})
    for t in results["throughput"]:
        found.append(
            {
                "metric": "training images/s",
                "model": t["row"],
                "backend": t["ops"],
                "unit": "images/CPU-s",
            }
            | {"value": t["images_per_s"], "spread": t["spread"], "n": t["n"]}
        )
    found = beside.merged(found, ["miou"], "difference", results["beside"])
    found += results["beside"]["records"]
    judged = _judged(results) if record.about(common) == "resnet18" else {}
    found += [
        {"metric": name, "value": value, "n": 1}
        for name, value in judged.items()
        if value is not None
    ]
    return [common | fields for fields in found]


def _judged(results: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of targets: of the presets' own config and the quick one's backbone."""
    summary = results["summary"]
    judged: dict[str, Any] = {}
    gain = scores.advantage(summary, "IBN-b", scores.BASE, scores.MEAN)
    home = scores.advantage(summary, "IBN-b", scores.BASE, scores.SOURCE)
    judged["IBN-b above BN, synthetic target mean"] = gain and gain["mean"]
    judged["IBN-b's source from BN's, absolute"] = home and abs(home["mean"])
    for name in ("IBN-a", "IBN-b"):
        dusk = scores.advantage(summary, name, scores.BASE, "camvid_dusk")
        judged[f"{name} above BN on camvid_dusk, least seed"] = dusk and dusk["least"]
    judged["streets scene of the quick preset, one domain"] = results["scene_cpu_s"]
    whole = len(results["rows"]) == len(ROWS)
    if whole and not any(run["reused"] for row in results["rows"] for run in row["runs"]):
        judged["whole benchmark"] = results["wall_s"]
    return judged


def _add_task(parser: argparse.ArgumentParser) -> None:
    tasks = (*all_tasks.STUDIES, "all")
    text = "whose study to run; all: one after the other, and one table over them"
    parser.add_argument("--task", choices=tasks, default="segmentation", help=text)


def _task(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The task, and the arguments of its study."""
    first = argparse.ArgumentParser(
        prog="ibnvision benchmark generalization", add_help=False, allow_abbrev=False
    )
    _add_task(first)
    found, rest = first.parse_known_args(argv)
    return found.task, rest


def main(argv: Sequence[str]) -> int:
    """Run the benchmark, or that of another task; 0, or 1 when a training failed."""
    task, rest = _task(argv)
    if task != "segmentation":
        bench = all_tasks.STUDIES.get(task, "all_tasks")
        return import_module(f"{__package__}.{bench}").main(rest)
    parser = run_arguments.parser("generalization", __doc__, CONFIGS)
    _add_task(parser)
    parser.add_argument(
        "--minutes",
        type=float,
        help="budget, whole seeds are dropped to keep it; 0: none (quick 9)",
    )
    parser.add_argument(
        "--backbone", choices=sorted(BACKBONES), help="in place of the config's model"
    )
    args = run_arguments.parse(parser, argv, SEEDS, PRESET_ROWS)
    begin = time.perf_counter()
    minutes = MINUTES[args.preset] if args.minutes is None else args.minutes
    config_name = args.config or CONFIGS[args.preset]
    ending = f"_{args.backbone}" if args.backbone else ""
    out = Path(args.out or f"runs/generalization_{args.preset}{ending}")
    model = [f"model={BACKBONES[args.backbone]}"] if args.backbone else []
    overrides = [*model, *args.overrides]
    planned = functools.partial(plan, config_name, args.seeds, overrides, out, rows=args.rows)
    if args.dry_run:
        base = config.load(config_name, overrides)
        return dry_run.show(base, tests_of(base), args.workers, planned)
    jobs = planned()
    trained = train_all(
        *("generalization", argv, args, jobs, config_name, out),
        begin=begin,
        budget_s=60 * minutes,
    )
    if trained is None:
        return 1
    common, say, state, outcome = trained
    results = collect(jobs, outcome, state, config_name, common)
    results["differences"] = comparisons.differences(results)
    repeats = 3 if common["quick"] else 7
    results["beside"] = beside.of_study(outcome.done, "miou_pct", comparisons.pairs, repeats, say)
    results["backbone"] = args.backbone or jobs[0].cfg.model.partition("_")[0]
    results["scene_cpu_s"] = scene_seconds(jobs[0].cfg)
    say("throughput with kernels on and off")
    results["throughput"] = throughput(jobs[: len(args.rows)], repeats)
    say("pictures")
    results["pictures"] = pictures.write(results, out / "pictures")
    segmenter = leave_weights(results, ("IBN-b", "IBN-a"), out / "segmenter.pt")
    results["wall_s"] = time.perf_counter() - begin
    found = records_of(results, common)
    text = beside.after(scores.table(results), found, "miou", "mIoU %")
    write(results, found, text, out)
    page = run_page.write_page(out)
    keep(results, found, out, args.record)
    print(f"\n{scores.headline(results)}\n\n{text}\n")
    print(f"{comparisons.table(results['differences'])}\n")
    print(findings.verdict(found))
    print(f"\ndone in {results['wall_s']:.0f} s")
    print(f"table       {out / 'table.md'}")
    print(f"pictures    {out / 'pictures'}")
    print(f"segmenter   {segmenter or 'none: no IBN row finished'}")
    print(f"report      {page}")
    return 1 if outcome.failed else 0
