"""How well do all tasks generalize, in one command?   ibnvision benchmark generalization --task all

Runs the studies of segmentation, dehazing, detection (with that dehazer in front, too) and
resolution one after the other, each in its folder below --out, and puts their rows into one table.
Preset quick: two seeds, the main rows, one detector, short trainings; from it nothing is to be
concluded. Preset full: five seeds. A restart goes on where it was stopped. Leaves table.md,
report.html, records.jsonl and the folders of the studies.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from . import all_page, over_tasks, record

STUDIES = {  # task -> question, in the order in which they run
    "segmentation": "generalization",
    "dehazing": "dehazing",
    "detection": "detection",
    "resolution": "resolution",
}
SEEDS = {"tiny": "0", "quick": "0,1", "full": "0,1,2,3,4"}
WHOLE, PART = "all tasks", "study"  # metrics: seconds of wall time


def main(argv: Sequence[str]) -> int:
    """Run all studies; the largest of their exit statuses: 0, or 1 when a training failed."""
    args = _parser().parse_args(argv)
    begin = time.perf_counter()
    out = Path(args.out or f"runs/all_{args.preset}")
    common = record.environment("all_tasks", argv, "cpu", quick=args.preset == "tiny")
    common |= {"preset": args.preset, "threads": 1}
    status, spent = 0, {}
    for number, (task, bench) in enumerate(STUDIES.items(), 1):
        print(f"\n== {number} of {len(STUDIES)}: {task}\n", flush=True)
        start = time.perf_counter()
        words = _words(args, bench, out)
        status = max(status, import_module(f"{__package__}.{bench}").main(words))
        spent[task] = time.perf_counter() - start
    if args.dry_run:
        return status
    runs = {bench: _read(out / bench / "records.jsonl") for bench in STUDIES.values()}
    fresh = [t for t, bench in STUDIES.items() if not _reused(out / bench / "results.json")]
    mine = [
        common | {"metric": PART, "model": task, "value": spent[task], "unit": "s", "n": 1}
        for task in fresh
    ]
    if len(fresh) == len(STUDIES):
        whole = {"metric": WHOLE, "value": time.perf_counter() - begin, "unit": "s", "n": 1}
        mine.append(common | whole)
    (out / "records.jsonl").unlink(missing_ok=True)
    record.append(out / "records.jsonl", [*itertools.chain(*runs.values()), *mine])
    if args.record:
        record.append(Path(args.record), mine)
    text = over_tasks.of_runs({bench: [run] for bench, run in runs.items() if run})
    record.replace_file(out / "table.md", text + "\n")
    few = " Two seeds and short trainings: nothing is to be concluded." * (args.preset == "quick")
    words = [f"How well networks trained on one domain read others, preset {args.preset}.{few}"]
    folders = {task: out / bench for task, bench in STUDIES.items()}
    record.replace_file(out / "report.html", all_page.page_of(text, folders, words))
    print(f"\n{text}\n\ndone in {time.perf_counter() - begin:.0f} s")
    print(f"table       {out / 'table.md'}")
    print(f"report      {out / 'report.html'}")
    return status


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="ibnvision benchmark generalization --task all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--preset", choices=sorted(SEEDS), default="quick")
    made.add_argument("--seeds", help="such as 0,1,2, of every study")
    made.add_argument("--workers", type=int, help="trainings side by side (2; 1 on one core)")
    made.add_argument("--data", action="append", default=[], metavar="NAME=DIR")
    made.add_argument("--out", help="folder (runs/all_<preset>)")
    made.add_argument("--record", help="append how long it took to this JSON-lines file")
    made.add_argument("--dry-run", action="store_true", help="say what would run, and how long")
    return made


def _words(args: argparse.Namespace, bench: str, out: Path) -> list[str]:
    """The arguments of one study."""
    words = ["--preset", args.preset, "--out", str(out / bench)]
    words += ["--seeds", args.seeds or SEEDS[args.preset]]
    words += ["--workers", str(args.workers)] if args.workers else []
    words += ["--dry-run"] if args.dry_run else []
    for pair in args.data:
        words += ["--data", pair]
    if bench == "generalization":
        words += ["--minutes", "0"]
    restorer = out / "dehazing" / "dehazer.pt"
    if bench == "detection" and restorer.is_file():
        words += ["--restorer", str(restorer)]
    return words


def _reused(results: Path) -> bool:
    """Whether a study found work that was done before, so that its time says little."""
    if not results.is_file():
        return True
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    return any(run["reused"] for row in rows for run in row["runs"])


def _read(path: Path) -> list[record.Record]:
    """The records of a study; none where it came to nothing."""
    return record.read(path) if path.is_file() else []


def tables(records: Sequence[record.Record]) -> str:
    """How long each study took, as Markdown."""
    spent = [r for r in records if r["metric"] in (PART, WHOLE)]
    rows = [[r.get("model", "all"), f"{r['value'] / 60:.1f}"] for r in spent]
    return f"Preset {spent[0]['preset']}.\n\n{record.table(['study', 'minutes'], rows)}"
