"""What the recorded runs lose, win and leave open, taken from their targets, numbers and sentences.

Nothing here is typed: a sentence is one of the generated blocks and counts by the words in it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import findings, markdown, paired, record

Records = Sequence[record.Record]

LOST, OPEN, WON = "lost", "open", "won"
_WORDS = {
    LOST: r"\bbehind\b(?! (on )?none)|\bharm on: (?!none)|\bdoes not work\b[^:]*: (?!none)|"
    r"\bnot converged\b|\bnot learned\b|\ba loss\b|\bstands -|"
    r"\bthe worst scores\b",
    WON: r"\bahead (at|of)\b|\bhelp on: (?!none)|\bstands \+|\btimes as fast\b|\bto the bit\b",
    OPEN: r"\bnothing is (shown|said)\b",
}


def statements(block: str) -> list[str]:
    """The paragraphs and list items of a generated block that say what a run shows.

    Left out: where it comes from, its rules (they end with the protocol), tables, pictures.
    """
    found: list[str] = []
    for part in markdown.blocks(block):
        skipped = markdown.is_table(part) or part.startswith(("`ibnvision ", "!["))
        if not skipped and not re.search(r"\bProtocol [0-9a-f]+\.$", part):
            found += markdown.items(part) or [part]
    return found


def sorted_out(found: Sequence[str]) -> dict[str, list[str]]:
    """LOST, OPEN, WON -> statements; one that tells of a loss and a win stands in both.

    OPEN holds those that tell of neither; other words, such as a heading's, are left out.
    """
    sides: dict[str, list[str]] = {
        side: [text for text in found if re.search(_WORDS[side], text, re.IGNORECASE)]
        for side in (LOST, OPEN, WON)
    }
    told = set(sides[LOST]) | set(sides[WON])
    return sides | {OPEN: [text for text in sides[OPEN] if text not in told]}


def differences(run: Records) -> dict[str, list[str]]:
    """LOST, OPEN, WON -> pairs of rows of a generalization study, by Student's 95 % interval."""
    sides: dict[str, list[str]] = {LOST: [], OPEN: [], WON: []}
    for r in run:
        if r["bench"] == "generalization" and r["metric"] == "difference" and "low" in r:
            text = f"{record.about(r)}: {r['row']} minus {r['rival']}, {r['column']}: "
            text += f"{paired.signed(r, 1)} {r['unit']}"
            sides[_side(r, 0.0)].append(text.removeprefix(": "))
    return sides


def ratios(run: Records) -> dict[str, list[str]]:
    """LOST, OPEN, WON -> times by those of a rival, by the bootstrap interval of each."""
    sides: dict[str, list[str]] = {LOST: [], OPEN: [], WON: []}
    for r in run:
        faster, slower = (r["metric"].startswith(f"time{s}") for s in ("s faster than ", " by "))
        if (faster or slower) and "low" in r:
            side = _side(r, 1.0)
            if slower:
                side = {LOST: WON, OPEN: OPEN, WON: LOST}[side]
            what = " ".join(str(r[k]) for k in ("model", "pass", "format") if k in r)
            size = "x".join(map(str, r["shape"])) if "shape" in r else ""
            text = f"{r['bench']}: {what} {size}, {r['metric']} {r['value']:.3g}"
            sides[side].append(f"{text} ({r['low']:.3g} to {r['high']:.3g})")
    return sides


def _side(r: Mapping[str, Any], even: float) -> str:
    return WON if r["low"] > even else LOST if r["high"] < even else OPEN


def target_table(found: Sequence[findings.Finding]) -> str:
    """Judged targets as Markdown."""
    rows = [[f.target.text, f.target.bar_text, f.measured, f.target.bench] for f in found]
    return record.table(["target", "bar", "measured", "question"], rows)
