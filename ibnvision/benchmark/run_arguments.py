"""Command-line arguments of the benchmarks that train."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from ibnvision.engine.run_folder import usable_cores

from .plans import Row, read_row


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
    made.set_defaults(own_configs=tuple(presets.values()))
    made.add_argument("--preset", choices=sorted(presets), default="quick")
    made.add_argument("--config", help="a config name or TOML file in place of the preset's")
    made.add_argument("--seeds", help="such as 0,1,2")
    made.add_argument(
        "--rows", nargs="+", metavar="NAME", help='some of the preset\'s rows, such as "IBN-b"'
    )
    made.add_argument(
        "--add", action="append", default=[], metavar="FILE", help="a row of your own: a TOML file"
    )
    made.add_argument(
        "--data", action="append", default=[], metavar="NAME=DIR", help="folder of a real set"
    )
    made.add_argument(
        "--dry-run", action="store_true", help="check the sets, say what would run, and how long"
    )
    made.add_argument("--workers", type=int, help="trainings side by side (2; 1 on one core)")
    made.add_argument("--out", help=f"folder (runs/{bench}_<preset>)")
    made.add_argument("--record", help="also append the records to this JSON-lines file")
    return made


def parse(
    made: argparse.ArgumentParser,
    argv: Sequence[str],
    seeds: Mapping[str, Sequence[int]],
    rows: Mapping[str, Sequence[Row]],
    shorter: Sequence[str] = (),
) -> argparse.Namespace:
    """The arguments; `seeds`, `rows` (of plans.Row) and `overrides` (with those of --data last) as
    lists, `workers` as a number, `setting`: the config where it is no preset's, `conclusive`:
    whether this is more than a check that it works. Else the parser's error.

    seeds, rows: preset -> those that are trained where none are named. shorter: overrides that make
    the quick preset short, from which nothing is to be concluded.
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
    args.rows = _rows(made, rows[args.preset], args.rows, args.add)
    if args.preset == "quick":
        args.overrides = [*shorter, *args.overrides]
    own = args.config is None or args.config in args.own_configs
    args.setting = "" if own else Path(args.config).stem
    args.conclusive = args.preset != "tiny" and not args.overrides
    for pair in args.data:
        if not all(pair.partition("=")):
            made.error(f"--data must read NAME=DIR, got {pair!r}")
    args.overrides = [*args.overrides, *(f"data.{pair}" for pair in args.data)]
    return args


def _rows(
    made: argparse.ArgumentParser,
    rows: Sequence[Row],
    wanted: Sequence[str] | None,
    files: Sequence[str],
) -> list[Row]:
    """The wanted ones in the preset's order, then those of the files."""
    known = [row.name for row in rows]
    for name in wanted or ():
        if name not in known:
            made.error(f"--rows must be of the preset {', '.join(known)}, got {name!r}")
    found = [row for row in rows if wanted is None or row.name in wanted]
    try:
        found += [read_row(Path(file)) for file in files]
    except (OSError, ValueError, TypeError) as error:
        made.error(f"--add: {error}")
    names, keys = [row.name for row in found], [row.key for row in found]
    if len(set(keys)) < len(keys):
        made.error(f"--add must name rows that no other row is called like, got {names}")
    return found
