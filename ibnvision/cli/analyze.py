"""`ibnvision analyze`: the features of trained runs, compared between domains."""

import argparse
from pathlib import Path

from .arguments import data_option, free_folder, pairs, split_option


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", metavar="RUN", nargs="+", help="run folder or checkpoint file")
    command.add_argument(
        "--domains", nargs="+", help="source, then targets; default: the first run's"
    )
    split_option(command)
    command.add_argument(
        "--layers", nargs="+", metavar="PATTERN", help="such as 'layer1.*'; default: every block"
    )
    command.add_argument("--images", type=int, default=200, help="of a domain, at most")
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    command.add_argument("--out", help="default: runs/analyze, or the next free name")
    data_option(command)


def run(options: argparse.Namespace) -> None:
    from rich.console import Console

    from ibnvision.engine.analyze_report import analyze_runs, report_table, save_report
    from ibnvision.engine.predict import find_weights

    if options.out and Path(options.out).is_file():
        raise ValueError(f"--out must be a folder, {options.out} is a file")
    report = analyze_runs(
        [find_weights(run) for run in options.runs],
        domains=options.domains,
        folders=dict(pairs(options.data)),
        device=options.device,
        split=options.split,
        layers=options.layers,
        images=options.images,
    )
    Console().print(report_table(report))
    out = Path(options.out) if options.out else free_folder(Path("runs") / "analyze")
    for path in save_report(report, out):
        print(path)
