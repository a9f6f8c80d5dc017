"""`ibnvision eval`: the numbers of a trained run on domains."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from .arguments import data_option, pairs, split_option


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("run_or_file", metavar="RUN", help="run folder or checkpoint file")
    command.add_argument("--domains", nargs="+", help="default: the run's test domains")
    split_option(command)
    command.add_argument(
        "--protocol", choices=("native", "half"), help="of segmentation; default: the run's"
    )
    command.add_argument(
        "--scales", nargs="+", type=float, metavar="S", help="sizes to average over, such as 0.5 1"
    )
    command.add_argument("--flip", action="store_true", help="average over mirrored images too")
    command.add_argument(
        "--corruptions",
        nargs="+",
        metavar="NAME",
        help="also under corruptions: all, imagenet_c, noise, blur, weather, digital or names",
    )
    command.add_argument(
        "--severities", nargs="+", type=int, metavar="N", help="of the corruptions, default 1 to 5"
    )
    command.add_argument("--out", help="also write eval.json, confusion matrices and overlays here")
    data_option(command)


def run(options: argparse.Namespace) -> None:
    from rich.console import Console

    from ibnvision import engine
    from ibnvision.engine.checkpoint import finite, selection, write_json
    from ibnvision.engine.predict import find_weights, load_trained
    from ibnvision.engine.progress import results_table
    from ibnvision.engine.robustness import robustness, robustness_table
    from ibnvision.metrics import rules

    path = find_weights(options.run_or_file)
    trained = load_trained(path)
    cfg = dataclasses.replace(trained.cfg, data=trained.cfg.data | dict(pairs(options.data)))
    asked = {"protocol": options.protocol, "eval_scales": options.scales}
    asked |= {"eval_flip": options.flip or None}
    cfg = dataclasses.replace(cfg, **{k: v for k, v in asked.items() if v is not None})
    domains = options.domains or list(cfg.test_domains)
    if not domains:
        raise ValueError(f"{path} was trained without test domains: pass --domains")
    corruptions, severities = _corruptions(options)
    results = engine.evaluate(
        cfg,
        trained.model,
        domains=domains,
        split=options.split,
        out=options.out,
        corruptions=corruptions,
        severities=severities,
        classes=trained.classes,
    )
    chosen = selection(path.name, trained.step, trained.cfg.steps)
    clean = {domain: results[domain] for domain in domains}
    Console().print(results_table(clean, f"{path} ({chosen}) on {options.split}"))
    kept: dict[str, Any] = {}
    if corruptions:
        score = engine.find_task(cfg).score
        kept = {"robustness": robustness(results, score), "severities": severities}
        Console().print(robustness_table(kept["robustness"], score))
    if options.out:
        report = {"weights": str(path), "selection": chosen, "split": options.split}
        report |= rules(results[domains[0]]) | kept
        target = Path(options.out) / "eval.json"
        write_json(target, finite(report | {"domains": results}))
        print(target)


def _corruptions(options: argparse.Namespace) -> tuple[tuple[str, ...], list[int]]:
    """Those asked for, checked before anything is computed."""
    from ibnvision.data.corruptions import SEVERITIES
    from ibnvision.engine.robustness import check_severities, corruptions_of

    if options.severities and not options.corruptions:
        raise ValueError("--severities needs --corruptions")
    severities = options.severities or list(SEVERITIES)
    check_severities(severities)
    return corruptions_of(options.corruptions or ()), severities
