"""From scores per run to the table of the dehazing benchmark, and to the words about it.

Table and words are made from records alone, so that table.md and the README hold the same text.
Roles of domains are those of `scores`; the stress domain is the one without haze.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import paired, record, scores

Records = Sequence[record.Record]
Cells = dict[tuple[str, str], record.Record]

FULL, NO_DETAIL, NO_ATTENTION = "DEA-Net", "without DEConv", "without CGA"
GATED, IDENTITY = "DEA-Net, gated", "hazy input"
PRIOR, TUNED_PRIOR = "dark channel prior", "prior, patch by val"
PARTS = {NO_DETAIL: "DEConv", NO_ATTENTION: "CGA"}  # row -> what it lacks
PSNR, SSIM = "psnr_rgb", "ssim_zero_padded"
DIFFERENCE, GATE = "psnr_rgb difference", "gate weight"
ABOVE_INPUT = "DEA-Net above the hazy input, haze"
ABOVE_PRIOR = "DEA-Net above the dark channel prior, haze"
REACHED = "motorcycle densities where DEA-Net reaches the prior"
LEARNED_DB = 1.0  # above the hazy input; a training that ends below has not learned
EXACT_DB = 100.0  # what the metric gives for equal pictures
RULES = (
    "PSNR in dB on RGB as floats, mean over the pictures of the test split, higher is better; an "
    "exact picture counts 100 dB; ± is half of Student's 95 % interval of the mean over seeds, "
    "from three seeds."
)


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """(row, rival): the whole network against each one that lacks a part."""
    return [(FULL, part) for part in PARTS if {FULL, part} <= set(names)]


def columns(roles: scores.Roles) -> list[str]:
    """The columns of the table: source, targets, what they come to, the photograph, clear input."""
    found = scores.columns(roles)
    return [c for role in ("", "real", "stress") for c in found if _last(roles.get(c)) == role]


def _last(role: str | None) -> str:
    return role if role in ("real", "stress") else ""


def short(column: str) -> str:
    """A column's name in a table head."""
    names = {scores.SOURCE: "haze", "haze_none": "clear in"}
    return names.get(column, column.removeprefix("haze_").replace("_", " "))


def block(records: Records) -> str:
    """The Markdown of one run: rules, scores, differences, and what they show."""
    parts = [_rules(records), _table(records), _headline(records), _differences(records)]
    parts += [*_parts(records), _unlearned(records), _gate(records)]
    return "\n\n".join(part for part in parts if part)


def _cells(records: Records, metric: str = PSNR) -> Cells:
    return {(r["model"], r["column"]): r for r in records if r["metric"] == metric}


def _columns(records: Records, metric: str) -> list[str]:
    return list(dict.fromkeys(r["column"] for r in records if r["metric"] == metric))


def _rules(records: Records) -> str:
    first = next(r for r in records if r["metric"] == PSNR)
    text = f"{RULES} Every network is trained on `haze` alone, {first['training']}. "
    text += f"{first['selection']} The columns motorcycle are one photograph with measured depth "
    text += "under haze of three densities. The prior has its paper's patch of 15 pixels, and that "
    text += f"of {first['prior_patch']} which is best on the source's validation pictures. "
    return text + f"Protocol {first['protocol'][:16]}."


def _number(cell: Mapping[str, Any] | None) -> str:
    """Mean, and half of the interval where there is one."""
    if cell is None:
        return "-"
    if cell["value"] == EXACT_DB:
        return "exact"
    half = f" ± {(cell['high'] - cell['low']) / 2:.2f}" if "low" in cell else ""
    return f"{cell['value']:.2f}{half}"


def _table(records: Records) -> str:
    cells, names = _cells(records), _columns(records, PSNR)
    sizes = {r["model"]: r["value"] for r in records if r["metric"] == "parameters"}
    rows = []
    for row in dict.fromkeys(model for model, _ in cells):
        seeds = max(cells[row, c]["n"] for c in names if (row, c) in cells)
        size = f"{sizes[row] / 1e6:.3f}" if row in sizes else "-"
        shown = [_number(cells.get((row, c))) for c in names]
        rows.append([row, size, str(seeds) if row in sizes else "-", *shown])
    return record.table(["row", "M weights, folded", "seeds", *map(short, names)], rows)


def _differences(records: Records) -> str:
    names = _columns(records, DIFFERENCE)
    if not names:
        return ""
    found = {(r["rival"], r["column"]): r for r in records if r["metric"] == DIFFERENCE}
    rows = [
        [f"{FULL} minus {rival}", *(paired.signed(found.get((rival, c))) for c in names)]
        for rival in dict.fromkeys(rival for rival, _ in found)
    ]
    return record.table(["paired over seeds, dB", *map(short, names)], rows)


def _headline(records: Records) -> str:
    """How the network stands to the rows without training."""
    values = {r["metric"]: r["value"] for r in records}
    if not {ABOVE_INPUT, ABOVE_PRIOR} <= set(values):
        return ""
    text = f"On the source {FULL} stands {values[ABOVE_INPUT]:+.2f} dB from its hazy input and "
    text += f"{values[ABOVE_PRIOR]:+.2f} dB from the better of the two priors"
    if REACHED in values:
        count = sum(
            r["metric"] == PSNR and r["model"] == PRIOR and r["role"] == "real" for r in records
        )
        text += f"; on the photograph it reaches the better one at {values[REACHED]:.0f} of {count}"
        text += " densities"
    return f"{text}."


def _parts(records: Records) -> list[str]:
    """For each part of the network a paragraph about what the differences show."""
    texts = []
    for rival, part in PARTS.items():
        found = [r for r in records if r["metric"] == DIFFERENCE and r["rival"] == rival]
        if found:
            texts.append(_shown(part, found))
    return texts


def _shown(part: str, found: Records) -> str:
    text = paired.shown(found, short, "dB")
    if not any("low" in r for r in found):
        return f"{part}: {text}"
    head = f"{part}, {FULL} minus the network without it over {found[0]['n']} seeds."
    return f"{head} {text}, and that of a photograph speaks of trainings, not of photographs."


def _unlearned(records: Records) -> str:
    """Trainings that came to nothing, which the differences of their row then mostly measure."""
    cells = _cells(records)
    if (IDENTITY, scores.SOURCE) not in cells:
        return ""
    bar = cells[IDENTITY, scores.SOURCE]["value"] + LEARNED_DB
    counts = []
    for row in (FULL, *PARTS):
        values = cells.get((row, scores.SOURCE), {}).get("values", {}).values()
        lost = sum(value < bar for value in values)
        if lost:
            counts.append(f"{row} in {lost} of {len(values)} seeds")
    if not counts:
        return ""
    return (
        f"Not learned, within {LEARNED_DB:g} dB of the hazy input on {short(scores.SOURCE)}: "
        f"{', '.join(counts)}. The learning rate was chosen for {FULL} alone, so these differences "
        "hold how well a row trains at that rate as well as what the part adds."
    )


def _gate(records: Records) -> str:
    """What the gate keeps on clear input and costs on hazy input."""
    cells = _cells(records)
    weights = {r["column"]: r for r in records if r["metric"] == GATE}
    pairs = {
        c: (cells[FULL, c], cells[GATED, c])
        for c in _columns(records, PSNR)
        if {(FULL, c), (GATED, c)} <= set(cells) and c != scores.GAP
    }
    clear = next((c for c, (_, gated) in pairs.items() if gated["role"] == "stress"), None)
    if clear is None:
        return ""
    alone, gated = map(_number, pairs.pop(clear))
    w = weights[clear]
    text = f"Identity gate. Clear in, clear out: {alone} dB without the gate, {gated} dB with it; "
    text += f"{w['untouched_pct']:.0f} % of the clear pictures come back to the bit, the worst "
    text += f"scores {w['worst_db']:.1f} dB. On hazy input the gate changes the score, in dB: "
    changes = [f"{short(c)} {b['value'] - a['value']:+.2f}" for c, (a, b) in pairs.items()]
    return text + ", ".join(changes) + "."


def judged(summary: scores.Summary, roles: scores.Roles) -> dict[str, float]:
    """The numbers that the targets judge, from means over seeds; without those that are missing.

    The prior is the better of its two rows, in each column anew.
    """

    def above(column: str, *rivals: str) -> float:
        """DEA-Net minus the best of rivals."""
        ours, *theirs = (
            summary.get(row, {}).get(column, {}).get("mean", math.nan) for row in (FULL, *rivals)
        )
        return min(ours - value for value in theirs)

    priors = PRIOR, TUNED_PRIOR
    found = {
        ABOVE_INPUT: above(scores.SOURCE, IDENTITY),
        ABOVE_PRIOR: above(scores.SOURCE, *priors),
    }
    reached = [above(d, *priors) for d, role in roles.items() if role == "real"]
    if reached and not any(map(math.isnan, reached)):
        found[REACHED] = float(sum(d >= 0 for d in reached))
    return {name: value for name, value in found.items() if not math.isnan(value)}
