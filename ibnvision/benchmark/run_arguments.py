"""Command-line arguments of the benchmarks that train."""

import argparse
from collections.abc import Mapping, Sequence

from ibnvision.engine.run_folder import usable_cores


def parser(bench: str, about: str | None, presets: Mapping[str, str]) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark that trains; presets: name -> config."""
    made = argparse.ArgumentParser(
        prog=f"ibnvision benchmark {bench}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of the config, for every row"
    )
    made.add_argument("--preset", choices=sorted(presets), default="quick")
    made.add_argument("--config", help="a config name or TOML file in place of the preset's")
    made.add_argument("--seeds", help="such as 0,1,2")
    made.add_argument("--workers", type=int, help="trainings side by side (2; 1 on one core)")
    made.add_argument("--out", help=f"folder (runs/{bench}_<preset>)")
    made.add_argument("--record", help="also append the records to this JSON-lines file")
    return made


def parse(
    made: argparse.ArgumentParser, argv: Sequence[str], seeds: Mapping[str, Sequence[int]]
) -> argparse.Namespace:
    """The arguments, `seeds` as a list and `workers` as a number; else the parser's error.

    seeds: preset -> those that are trained where none are named.
    """
    args = made.parse_args(argv)
    try:
        named = args.seeds.split(",") if args.seeds else seeds[args.preset]
        args.seeds = list(map(int, named))
    except ValueError:
        made.error(f"--seeds must be integers separated by commas, got {args.seeds!r}")
    if len(set(args.seeds)) != len(args.seeds) or min(args.seeds) < 0:
        made.error(f"--seeds must be different and not negative, got {args.seeds}")
    if args.workers is not None and args.workers < 1:
        made.error(f"--workers must be at least 1, got {args.workers}")
    args.workers = args.workers or min(2, usable_cores())
    return args
