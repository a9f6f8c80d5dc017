"""Which recorded times got worse?   ibnvision benchmark compare REV|FILE [REV|FILE] --bench ops

Milliseconds of two runs do not compare, as a machine is never twice as busy. Ratios do: the time of
a backend of ours by that of each one that is not (a copy, PyTorch's own operators, timm), timed in
the same repetitions. A regression or a gain is a change by every one of them, beyond the recorded
intervals of both runs and beyond the control: the most that a ratio of others to each other moved
by, which this package cannot change. Runs of another device, cache, torch, heap or number of
threads are refused. The status is 1 where something is a regression; --compare-with of the timed
questions asks the same of the run that they just made.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import BENCHES, changes, record
from .changes import BETTER, SAME, WORSE, Records

SUBJECT = ("op", "model", "corruption")


def read(source: str, bench: str) -> list[record.Record]:
    """Records of a question from a JSON-lines file, or from the recorded one at a git revision.

    Raises: ValueError where it is neither, or holds none.
    """
    place = f"benchmarks/results/{bench}.jsonl"
    if Path(source).is_file():
        records = record.read(Path(source))
    elif text := record.git("show", f"{source}:{place}"):
        records = record.parse_lines(text, f"{source}:{place}")
    else:
        raise ValueError(
            "what to compare with must be a file of records or, in a git checkout, a revision "
            f"that holds {place}, got {source!r}"
        )
    found = [r for r in records if r["bench"] == bench]
    if not found:
        raise ValueError(f"{source} must hold records of {bench}, has none")
    return found


def earlier(args: argparse.Namespace, shared: record.Record) -> list[record.Record] | None:
    """What --compare-with names, refused before anything is measured; None without it.

    Raises: ValueError as `read` does, or where every run there was made under other conditions.
    """
    if args.compare_with is None:
        return None
    here = {**shared, "threads": args.threads}
    found = sorted(read(args.compare_with, shared["bench"]), key=lambda r: r["run"], reverse=True)
    alike = [r for r in found if not changes.differing(r, here)]
    if not alike:
        nearest = min(found, key=lambda r: len(changes.differing(r, here)))
        raise ValueError(f"not comparable: {'; '.join(changes.differing(nearest, here))}")
    return alike


def finish(then: Records | None, now: Records) -> int:
    """The exit status of a timed run, after what `earlier` gave is compared with its records.

    Raises: ValueError where they have no case in common.
    """
    if then is None:
        return 0
    timed = {tuple(r.get(key) for key in SUBJECT) for r in now}
    mine = [r for r in then if tuple(r.get(key) for key in SUBJECT) in timed]
    return _report(mine, now)


def _report(then: Records, now: Records) -> int:
    found = changes.compare(then, now)
    if not found.changes:
        raise ValueError(f"not comparable: {'; '.join(found.refused) or _apart(found)}")
    print(f"\n{text(found, then)}")
    return int(any(c.verdict == WORSE for c in found.changes))


def _apart(found: changes.Comparison) -> str:
    """Why nothing was compared, by the first case of each side."""
    sides = (found.only_then or found.unjudged, found.only_now or found.unjudged)
    then, now = (names[0] if names else "nothing of ours" for names in sides)
    return f"no case in common that was timed beside a backend from outside; {then} was, {now} is"


def text(found: changes.Comparison, then: Records) -> str:
    """The table, worst first, then what one side lacks, and the verdict in a sentence."""
    order = (WORSE, BETTER, SAME)
    rows = [
        [c.name, c.then, c.now, f"{c.factor:.3g}"]
        + [c.verdict if c.verdict == SAME else f"**{c.verdict}**"]
        for c in sorted(found.changes, key=lambda c: (order.index(c.verdict), -c.factor))
    ]
    runs = sorted({(r["date"][:10], r["commit"] or "no commit") for r in then})
    listed = {
        "Only in the earlier run": found.only_then,
        "Only in the later run": found.only_now,
        "Timed beside nothing from outside": found.unjudged,
        "Not comparable": found.refused,
    }
    parts = [f"Compared with {', '.join(f'{commit} of {date}' for date, commit in runs)}."]
    parts += [record.table(["time, by others'", "then", "now", "now by then", "verdict"], rows)]
    parts += ["\n- ".join([f"{words}:", *names]) for words, names in listed.items() if names]
    return "\n\n".join([*parts, _sentence(found)])


def _sentence(found: changes.Comparison) -> str:
    counts = (f"{v} {sum(c.verdict == v for c in found.changes)}" for v in (WORSE, BETTER, SAME))
    words = f"Of {len(found.changes)} comparisons: {', '.join(counts)}. "
    if found.control is None:
        return words + "There is no control: no case has two backends that are not ours."
    return words + (
        "Control: a ratio of backends that are not ours moved by a factor of up to "
        f"{found.control:.3g}, so a smaller change of a time is not told from noise."
    )


def main(argv: Sequence[str]) -> int:
    """Compare what is recorded; 1 where something is a regression, else 0."""
    parser = argparse.ArgumentParser(
        prog="ibnvision benchmark compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("then", metavar="REV|FILE", help="the earlier records")
    parser.add_argument(
        "now", metavar="REV|FILE", nargs="?", help="the later ones; default: benchmarks/results"
    )
    parser.add_argument("--bench", choices=BENCHES, action="append", required=True)
    args = parser.parse_args(argv)
    status = 0
    for bench in args.bench:
        now = args.now or str(record.results_file(None, bench))
        then, later = ([r for r in read(s, bench) if not r["quick"]] for s in (args.then, now))
        print(f"{bench}:")
        status |= _report(then, later)
    return status
