"""Differences between rows of the generalization benchmark, paired by seed, and what they show.

The paper's ordering (IBN-Net, table on GTA5 and Cityscapes: IBN-b best across domains, IBN-a best
inside one) is a hypothesis here; a difference counts where Student's 95 % interval leaves out zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from . import paired, record, scores

AUGMENTED = " + jitter"
NORMS = ("IBN-a", "IBN-b", "ISW", "MixStyle")
COLUMNS = (scores.SOURCE, scores.MEAN)


def pairs(rows: Sequence[str]) -> list[tuple[str, str]]:
    """(row, rival): each norm against BN and IBN-b against IBN-a, without and with augmentation;
    then the augmentation against none, row by row."""
    wanted = [(norm + ending, "BN" + ending) for ending in ("", AUGMENTED) for norm in NORMS]
    wanted += [("IBN-b" + ending, "IBN-a" + ending) for ending in ("", AUGMENTED)]
    wanted += [(norm + AUGMENTED, norm) for norm in ("BN", *NORMS)]
    return [(a, b) for a, b in wanted if a in rows and b in rows]


def differences(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each pair and column: row, rival, column, mean, ahead, n, and low, high from 3 seeds."""
    summary = results["summary"]
    found = []
    for row, rival in pairs([r["name"] for r in results["rows"]]):
        for column in COLUMNS:
            apart = paired.difference(summary, row, rival, column)
            if apart:
                head = {"row": row, "rival": rival, "column": column, "mean": apart.pop("value")}
                found.append(head | apart)
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The differences as a Markdown table and the sentence about the paper's ordering."""
    cells = {(d["row"], d["rival"], d["column"]): d for d in found}
    rows = [
        [f"{row} - {rival}", *(_text(cells.get((row, rival, column))) for column in COLUMNS)]
        for row, rival in dict.fromkeys((d["row"], d["rival"]) for d in found)
    ]
    header = ["mIoU points, paired by seed", *COLUMNS]
    return f"{record.table(header, rows)}\n\n{ordering(found)}" if rows else ""


def _text(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    text = f"{cell['mean']:+.1f}"
    if "low" in cell:
        text += f" ({cell['low']:+.1f} to {cell['high']:+.1f})"
    return f"{text}, ahead in {cell['ahead']} of {cell['n']}"


def ordering(found: Sequence[Mapping[str, Any]]) -> str:
    """Whether IBN-b leads IBN-a across domains and IBN-a leads IBN-b at home, in plain words."""
    told = {
        (d["row"], d["column"]): _verdict(d)
        for d in found
        if d["row"].startswith("IBN-b") and d["rival"].startswith("IBN-a")
    }
    if not told:
        return ""
    parts = []
    for ending, words in (("", "without augmentation"), (AUGMENTED, "with it")):
        home, away = (told.get(("IBN-b" + ending, column)) for column in COLUMNS)
        if home and away:
            parts.append(f"{words}, across domains IBN-b {away} IBN-a, at home it {home} IBN-a")
    return (
        "The paper's ordering is IBN-b first across domains and IBN-a first at home. Here: "
        f"{'; '.join(parts)}. (Student's 95 % interval of each difference, not corrected for their "
        f"number; {paired.rank_floor(max(d['n'] for d in found))}.)"
    )


def _verdict(cell: Mapping[str, Any]) -> str:
    if "low" not in cell or cell["low"] <= 0 <= cell["high"]:
        return "is not told apart from"
    return "is ahead of" if cell["mean"] > 0 else "is behind"
