"""From scores per run to the tables of the resolution benchmark, and to the words about them.

Tables and words are made from records alone, so that table.md and the README hold the same text.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ibnvision.engine.robustness import critical_scales

from . import record, scores

Records = Sequence[record.Record]

SCALES = (1, 2, 3, 4)  # times the side length of the training images
SCENE, SHEET = "scene", "sheet"
PROBES = (SCENE, SHEET)
CNN = "CNN"  # the training that those without zoom are compared with
NAME = "resolution.png"  # of the plot, beside the text
MIOU, DIFFERENCE, LATENCY, LIVE = "miou", "miou difference", "latency", "live memory"
OVER_SIZES = "miou over sizes"  # worst, mean and gap of the larger sizes
TRAINING, WEIGHTS = "training CPU time", "parameters"
CONVERGED = "a dense ViT below the CNN of its augmentation at the trained size, most"
CONVERGED_PLAIN = "a dense ViT below the CNN at the trained size, most, without zoom"
ALLOWED = 3.0  # mIoU points that a ViT may stand below the CNN and count as converged

_PROBES = {
    SCENE: "the same scenes drawn larger, so that every object grows with the picture; at k times "
    "the side length a window as large as the training grid sees 1 / k^2 of the scene",
    SHEET: "k x k scenes of the trained size side by side in one picture, so that only the number "
    "of patches and their distances grow; a network that reads each scene by itself keeps its "
    "score",
}
_RULES = (
    "mIoU in %, higher is better; ± is half of Student's 95 % interval of the mean over seeds, "
    "from three seeds. Every ViT is trained with dense attention; all rows of one training hold "
    "the same weights, and what is not dense is converted without training. Absolute positions "
    "are interpolated. *Squeezed*: rotary positions are resampled into the trained range, as timm "
    "does it; *native*: they keep the trained distance of neighbours. *Window*: a patch sees the "
    "window alone, in a network built without class token and registers. *Lambda*: window and "
    "prefix. *Limit*: patches are turned towards the prefix within the trained range. timm leaves "
    "the prefix unturned, at the origin, so that this distance grows with the picture; distances "
    "in the window are trained ones at any size, and absolute positions have none, so there is "
    "nothing else to limit. *Zoom*: trained with parts of images, enlarged up to four times, "
    "beside whole ones."
)


def size(scale: int) -> str:
    """A size in a table head."""
    return f"{scale}x"


def place(scale: int) -> record.Record:
    """`column` of `scores.columns` and `role` of a size: the trained one is the source."""
    if scale == 1:
        return {"column": scores.SOURCE, "role": "source"}
    return {"column": size(scale), "role": "target"}


def block(records: Records) -> str:
    """The Markdown of one run: rules, scores, differences, costs, and what they show."""
    parts = [_rules(records), _answer(records)]
    for probe in PROBES:
        parts += [f"**{probe}**: {_PROBES[probe]}.", _table(records, probe)]
    parts += [_critical(records), _differences(records), _trainings(records), _costs(records)]
    parts += [_convergence(records), *_shown(records), _kept(records), _cheaper(records)]
    parts += [f"![mIoU, time and live memory against the side length of the picture]({NAME})"]
    return "\n\n".join(part for part in parts if part)


def _rules(records: Records) -> str:
    first = next(r for r in records if r["metric"] == MIOU)
    height, width = first["trained_size"]
    text = f"Trained on `{first['source']}` at {height}x{width}, {first['training']}; window "
    text += f"{first['window'][0]}x{first['window'][1]} of {first['grid'][0]}x{first['grid'][1]} "
    text += f"patches. {_RULES} {first['selection']} {first['pictures']} test scenes. "
    return text + f"Protocol {first['protocol'][:16]}."


def _answer(records: Records) -> str:
    """Of every ViT the dense row and its best Lambda row, from the trained size to the largest."""
    texts, top = [], SCALES[-1]
    for probe in PROBES:
        cells = _cells(records, MIOU, probe=probe)
        parts = []
        for trained in _distance(records):
            rows = [r for r in cells.values() if r["trained"] == trained and r["scale"] == top]
            shaped = [r for r in rows if r["sees"] == "lambda"]
            best = max(shaped, key=lambda r: r["value"], default=None)
            for r in (rows[0], best) if best else rows[:1]:
                name = r["model"]
                parts.append(f"{name} {cells[name, 1]['value']:.1f} to {r['value']:.1f}")
        texts.append(f"{probe}: {'; '.join(parts)}")
    if not _distance(records):
        return ""
    head = f"In short, mIoU from 1x to {top}x of each ViT's dense row and of its best Lambda row. "
    return f"{head}{'. '.join(texts)}."


def _cells(records: Records, metric: str, **where: Any) -> dict[tuple[str, int], record.Record]:
    """(row, scale) -> record."""
    return {
        (r["model"], r["scale"]): r
        for r in records
        if r["metric"] == metric and all(r.get(key) == value for key, value in where.items())
    }


def _number(r: Mapping[str, Any] | None, sign: str = "") -> str:
    if r is None:
        return "-"
    half = f" ± {(r['high'] - r['low']) / 2:.1f}" if "low" in r else ""
    return f"{r['value']:{sign}.1f}{half}"


def _table(records: Records, probe: str) -> str:
    cells = _cells(records, MIOU, probe=probe)
    apart = _distance(records)
    rows = []
    for row in dict.fromkeys(name for name, _ in cells):
        first = cells[row, SCALES[0]]
        lost = apart.get(first["trained"], 0.0) < -ALLOWED
        name = f"{row} (not converged)" if lost else row
        shown = [_number(cells.get((row, scale))) for scale in SCALES]
        rows.append([name, str(first["n"]), *shown])
    return record.table(["row", "seeds", *(f"{scale}x" for scale in SCALES)], rows)


def _critical(records: Records) -> str:
    """Row and probe -> the scale at which half of the score at the trained size is lost."""
    cells = {probe: _cells(records, MIOU, probe=probe) for probe in PROBES}
    rows = []
    for row in dict.fromkeys(name for name, _ in cells[SCENE]):
        places = []
        for mine in cells.values():
            curve: dict[float, float] = {s: r["value"] for (n, s), r in mine.items() if n == row}
            places.append(critical_scales(curve)["up"])
        rows.append([row, *("never" if place is None else f"{place}x" for place in places)])
    text = "Critical scale: the lowest measured at which the mean over seeds has lost half of its "
    text += "score at 1x."
    return f"{text}\n\n{record.table(['row', *PROBES], rows)}"


def _differences(records: Records) -> str:
    rows = []
    for row, rival, probe in _pairs(records):
        cells = _cells(records, DIFFERENCE, rival=rival, probe=probe)
        shown = [_number(cells.get((row, scale)), "+") for scale in SCALES]
        rows.append([f"{row} minus {rival}", probe, *shown])
    head = ["paired over seeds, mIoU points", "probe", *(f"{scale}x" for scale in SCALES)]
    return record.table(head, rows) if rows else ""


def _pairs(records: Records) -> list[tuple[str, str, str]]:
    found = [r for r in records if r["metric"] == DIFFERENCE]
    return list(dict.fromkeys((r["model"], r["rival"], r["probe"]) for r in found))


def _trainings(records: Records) -> str:
    sizes = {r["model"]: r for r in records if r["metric"] == WEIGHTS}
    times = {r["model"]: r for r in records if r["metric"] == TRAINING}
    rows = []
    for name, size in sizes.items():
        spent = f"{times[name]['value']:.1f}" if name in times else "-"
        rows.append([name, str(size["steps"]), f"{size['value'] / 1e6:.3f}", spent])
    head = ["training", "steps", "M weights", "CPU minutes a run, one thread"]
    return record.table(head, rows)


def _costs(records: Records) -> str:
    times, live = _cells(records, LATENCY), _cells(records, LIVE)
    rows = []
    for row in dict.fromkeys(name for name, _ in times):
        both = [(times[row, s], live[row, s]) for s in SCALES if (row, s) in times]
        rows.append([row, *(record.number(t["value"]) for t, _ in both)])
        rows[-1] += [record.number(m["value"]) for _, m in both]
    head = [*(f"ms, {s}x" for s in SCALES), *(f"MB, {s}x" for s in SCALES)]
    text = "One image, one thread: process CPU time, median, and the most bytes of live tensors "
    text += "at a time, without weights; memory inside an operator is not seen."
    return f"{text}\n\n{record.table(['row', *head], rows)}" if rows else ""


def _distance(records: Records) -> dict[str, float]:
    """Training of a ViT -> mIoU of its first row at the trained size, from its CNN's."""
    cells = [r for r in records if r["metric"] == MIOU and r["probe"] == SCENE and r["scale"] == 1]
    first: dict[str, record.Record] = {}
    for r in cells:
        first.setdefault(r["trained"], r)
    return {
        name: r["value"] - first[r["control"]]["value"]
        for name, r in first.items()
        if r["control"] != name and r["control"] in first
    }


def judged(records: Records) -> dict[str, float]:
    """The number that a target judges."""
    apart = _distance(records)
    return {CONVERGED: max(0.0, -min(apart.values()))} if apart else {}


def plain_gap(records: Records) -> float:
    """As CONVERGED, of the trainings whose control is the CNN without zoom; NaN without them."""
    plain = [r for r in records if r["metric"] == MIOU and r["control"] == CNN]
    return judged(plain).get(CONVERGED, math.nan)


def _convergence(records: Records) -> str:
    apart = _distance(records)
    if not apart:
        return "Without a CNN nothing says whether the ViTs have converged."
    parts = [
        f"{name} {value:+.1f} ({'converged' if value >= -ALLOWED else 'not converged'})"
        for name, value in apart.items()
    ]
    return (
        "Convergence, mIoU points from the CNN of the same data, steps and augmentation at the "
        f"trained size, at most {ALLOWED:g} below: {', '.join(parts)}."
    )


def _shown(records: Records) -> list[str]:
    """For each pair of rows what its differences show, per probe."""
    texts, nothing, judged = [], [], False
    for row, rival, probe in _pairs(records):
        found = _cells(records, DIFFERENCE, rival=rival, probe=probe)
        mine = [r for (name, scale), r in found.items() if name == row and scale > 1]
        judged |= any("low" in r for r in mine)
        ahead, behind, open_ = _sorted_out(mine)
        parts = [f"ahead at {', '.join(ahead)}"] if ahead else []
        parts += [f"behind at {', '.join(behind)}"] if behind else []
        parts += [f"nothing is shown at {', '.join(open_)}"] if open_ else []
        text = f"{row} against {rival}, {probe}"
        if ahead or behind:
            texts.append(f"{text}: {'; '.join(parts)}")
        else:
            nothing.append(text)
    if not judged:
        return ["Fewer than three seeds give no interval, so nothing is shown."]
    if nothing:
        texts.append(f"nothing is shown at any of these sizes: {'; '.join(nothing)}")
    head = "What the 95 % intervals show above the trained size, without correction for their "
    return [head + "number:\n\n" + "\n".join(f"- {text}." for text in texts)]


def _sorted_out(found: Records) -> tuple[list[str], list[str], list[str]]:
    ahead, behind, open_ = [], [], []
    for r in found:
        side = f"{r['scale']}x"
        if r.get("low", -1) > 0:
            ahead.append(f"{side} ({r['value']:+.1f})")
        elif r.get("high", 1) < 0:
            behind.append(f"{side} ({r['value']:+.1f})")
        else:
            open_.append(side)
    return ahead, behind, open_


def _kept(records: Records) -> str:
    """Per probe the best row at the largest size, and the rows that do not work there."""
    texts = []
    top = SCALES[-1]
    for probe in PROBES:
        cells = _cells(records, MIOU, probe=probe)
        last = {row: r["value"] for (row, scale), r in cells.items() if scale == top}
        share = {row: last[row] / max(cells[row, 1]["value"], 1e-9) for row in last}
        if not last:
            continue
        best = max(last, key=last.__getitem__)
        fallen = [f"{row} ({last[row]:.0f})" for row in last if share[row] < 2 / 3]
        text = f"{probe}, {top}x: the best row is {best} with {last[best]:.1f} % mIoU, "
        text += f"{100 * share[best]:.0f} % of its own score at the trained size"
        texts.append(
            f"{text}. What does not work, less than two thirds kept: {', '.join(fallen) or 'none'}."
        )
    return "\n\n".join(texts)


def _cheaper(records: Records) -> str:
    """Time and memory of a Lambda row against the dense row of its training at the largest size."""
    times, live, top = _cells(records, LATENCY), _cells(records, LIVE), SCALES[-1]
    parts = []
    first: dict[str, str] = {}
    for row, scale in times:
        trained = times[row, scale]["trained"]
        first.setdefault(trained, row)
        if scale == top and times[row, scale]["sees"] == "lambda":
            dense = first[trained]
            faster = times[dense, top]["value"] / times[row, top]["value"]
            memory = live[row, top]["value"] / live[dense, top]["value"]
            parts.append(f"{row} {faster:.2f} times as fast, {memory:.2f} of the live memory")
    return f"Costs at {top}x against the dense row: {'; '.join(parts)}." if parts else ""
