"""From scores per run to the table of the detection benchmark, and to the words about it.

Table and words are made from records alone, so that table.md and the README hold the same text.
Roles of domains are those of `scores`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from . import measure, paired, record, scores

Records = Sequence[record.Record]

BASE, NORMS = "BN", ("IBN-a", "IBN-b")
JITTER = "BN + jitter"  # the rival of Faster R-CNN's rows: plain batch norm that saw other colours
DETECTORS = {"Faster R-CNN": "faster_rcnn", "FCOS": "fcos"}  # in a row's name -> in a config
AP50, AP, VOC = "ap50", "ap", "voc_ap50"
DIFFERENCE, TRAINING, SET = "ap50 difference", "training, CPU minutes", "test set"
RESTORED, RESTORER = ", restored", "restorer, steps"  # end of a row's name, metric
RESTORED_ONES = "Faster R-CNN"  # the rows that are measured behind a restorer, too
LEAST_SOURCE = 60.0  # AP50 on the source from which on a row counts
GRADED = 0.1, 0.9  # of the source: where at least one target has to lie
NOT_CONVERGED = "not converged"
CONVERGENCE_RULE = (
    f"A row counts if its mean on the source is at least {LEAST_SOURCE:g} and that on at least one "
    f"target lies between {100 * GRADED[0]:g} and {100 * GRADED[1]:g} % of it; else it is marked "
    f"{NOT_CONVERGED}, is compared with nothing, and nothing is concluded from it."
)


def rows() -> list[tuple[str, str, str, str]]:
    """(name, detector, ibn, augment) of each row, as a config has the last three."""
    norms = {BASE: ("none", "flip"), "IBN-a": ("a", "flip"), "IBN-b": ("b", "flip")}
    norms |= {JITTER: ("none", "jitter")}
    return [
        (f"{d} {norm}", key, *how)
        for d, key in DETECTORS.items()
        for norm, how in norms.items()
        if norm != JITTER or d == RESTORED_ONES
    ]


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """(row, rival): each IBN, and jitter, against batch norm in the same detector, each IBN against
    jitter, each row behind a restorer against itself without.
    """
    wanted = [(f"{d} {norm}", f"{d} {BASE}") for d in DETECTORS for norm in (*NORMS, JITTER)]
    wanted += [(f"{d} {norm}", f"{d} {JITTER}") for d in DETECTORS for norm in NORMS]
    wanted += [(name, name.removesuffix(RESTORED)) for name in names if name.endswith(RESTORED)]
    return [(row, rival) for row, rival in wanted if row in names and rival in names]


def compared(roles: scores.Roles) -> list[str]:
    """The columns in which rows are compared: more is better in all of them."""
    return [c for c in scores.columns(roles) if c != scores.GAP]


def shortfall(cells: Mapping[str, Mapping[str, Any]], roles: scores.Roles) -> str:
    """Why a row of the summary of AP50 does not count; "" where it does."""
    if scores.SOURCE not in cells:
        return "no score on the source"
    source = cells[scores.SOURCE]["mean"]
    if source < LEAST_SOURCE:
        return f"{source:.1f} on the source, below {LEAST_SOURCE:g}"
    low, high = (share * source for share in GRADED)
    found = [cells[d]["mean"] for d, r in roles.items() if r == "target" and d in cells]
    if any(low <= value <= high for value in found):
        return ""
    return f"{source:.1f} on the source, but no target between {low:.1f} and {high:.1f}"


def block(records: Records) -> str:
    """The Markdown of one run: rules, sets, scores, differences, and what they show."""
    parts = [_rules(records), _restorer(records), _sets(records), _table(records), _others(records)]
    parts += [_differences(records), _headline(records), *_shown(records), _lost(records)]
    return "\n\n".join(part for part in parts if part)


def _cells(records: Records, metric: str = AP50) -> dict[tuple[str, str], record.Record]:
    return {(r["model"], r["column"]): r for r in records if r["metric"] == metric}


def _names(records: Records, field: str, metric: str = AP50) -> list[str]:
    return list(dict.fromkeys(r[field] for r in records if r["metric"] == metric))


def _why(records: Records) -> dict[str, str]:
    """Row -> why it does not count, "" where it does."""
    return {r["model"]: r["not_converged"] for r in records if r["metric"] == AP50}


def _rules(records: Records) -> str:
    first = next(r for r in records if r["metric"] == AP50)
    source = ", ".join(r["column"] for r in records if r["metric"] == SET and r["role"] == "source")
    targets = [r["column"] for r in records if r["metric"] == AP50 and r["role"] == "target"]
    text = f"AP50 in %, higher is better, on the test split; trained on {source} alone, "
    text += f"in steps of {first['training']}. Target mean: "
    text += f"{', '.join(map(scores.short, dict.fromkeys(targets))) or 'none'}. "
    text += "Gap = source - target mean. ± is half of Student's 95 % interval of the mean over "
    text += f"seeds, from three seeds. {first['selection']} {CONVERGENCE_RULE} AP by "
    text += f"{first['ap_rule']}. Images without objects: {first['empty_image_rule']}. "
    return text + f"Protocol {first['protocol'][:16]}."


def _restorer(records: Records) -> str:
    """What stands in front of the rows that are restored."""
    found = next((r for r in records if r["metric"] == RESTORER), None)
    if found is None:
        return ""
    gate = " to ".join(f"{end:.3f}" for end in found["gate"]) if found["gate"] else "none"
    source = f"{', '.join(found['trained_on'])} for {found['value']} steps, seed {found['seed']}"
    return (
        f"Restored: the very same weights behind {found['model']}, trained on {source} (sha256 "
        f"{found['sha256'][:12]}); its gate opens over a haziness of {gate}. Nothing is trained "
        "again, so the detector never saw a restored image."
    )


def _sets(records: Records) -> str:
    """What each domain is tested on."""
    found = [r for r in records if r["metric"] == SET]
    if not found:
        return ""
    classes = list(found[0]["objects"])
    lines = [
        [r["column"], str(r["value"]), str(r["images_without_objects"])]
        + [str(r["objects"][name]) for name in classes]
        + [str(r["ignored_objects"]), r["files_sha256"][:12]]
        for r in found
    ]
    header = ["test set", "images", "without objects", *classes, "ignored", "files"]
    return record.table(header, lines)


def _number(cell: Mapping[str, Any] | None) -> str:
    """Mean, and half of the interval where there is one."""
    if cell is None:
        return "-"
    half = f" ± {(cell['high'] - cell['low']) / 2:.1f}" if "low" in cell else ""
    return f"{cell['value']:.1f}{half}"


def _table(records: Records) -> str:
    cells, columns = _cells(records), _names(records, "column")
    spent = {r["model"]: r for r in records if r["metric"] == TRAINING}
    lines = []
    for row, why in _why(records).items():
        shown = [_number(cells.get((row, c))) for c in columns]
        seeds = max(cells[row, c]["n"] for c in columns if (row, c) in cells)
        cost = f"{spent[row]['value']:.1f}" if row in spent else "-"
        trained = next(r for (name, _), r in cells.items() if name == row)
        recipe = [str(trained["steps"]), f"{trained['lr']:g}", cost]
        lines.append([row, str(seeds), *recipe, *shown, NOT_CONVERGED if why else "yes"])
    header = [
        "AP50",
        "seeds",
        "steps",
        "lr",
        "CPU min a run",
        *map(scores.short, columns),
        "counts",
    ]
    return record.table(header, lines)


def _others(records: Records) -> str:
    """The same detections by COCO's mean over thresholds and by Pascal VOC."""
    header, lines = ["row"], {row: [row] for row in _why(records)}
    for metric, title in ((AP, "AP"), (VOC, "VOC AP50")):
        cells = _cells(records, metric)
        for column in (scores.SOURCE, scores.WORST, scores.MEAN):
            if any((row, column) in cells for row in lines):
                header.append(f"{title}, {column}")
                for row, line in lines.items():
                    line.append(_number(cells.get((row, column))))
    return record.table(header, list(lines.values())) if len(header) > 1 else ""


def _differences(records: Records) -> str:
    why = _why(records)
    asked, columns = pairs(list(why)), _names(records, "column", DIFFERENCE)
    if not asked or not columns:
        return ""
    found = {(r["model"], r["rival"], r["column"]): r for r in records if r["metric"] == DIFFERENCE}
    lines = []
    for row, rival in asked:
        lost = why[row] or why[rival]
        told = [
            NOT_CONVERGED if lost else paired.signed(found.get((row, rival, c)), 1) for c in columns
        ]
        lines.append([f"{row} - {rival}", *told])
    return record.table(["AP50 points, paired by seed", *map(scores.short, columns)], lines)


def _headline(records: Records) -> str:
    """What IBN, or a restorer, does to the target mean and to the source, pair by pair."""
    found = {(r["model"], r["rival"], r["column"]): r for r in records if r["metric"] == DIFFERENCE}
    texts = []
    for row, rival in pairs(list(_why(records))):
        away, home = (found.get((row, rival, c)) for c in (scores.MEAN, scores.SOURCE))
        if away and home:
            texts.append(
                f"{row} stands {away['value']:+.1f} AP50 points from {_words(row, rival)} on the "
                f"target mean ({_verdict(away)}, ahead in {away['ahead']} of {away['n']} seeds) "
                f"and {home['value']:+.1f} at home ({_verdict(home)})"
            )
    return f"{'; '.join(texts)}." if texts else ""


def _words(row: str, rival: str) -> str:
    if row.endswith(RESTORED):
        return "the same without the restorer"
    return "batch norm with jitter" if rival.endswith(JITTER) else "batch norm"


def _verdict(r: Mapping[str, Any]) -> str:
    if "low" not in r:
        return "no interval"
    if r["low"] <= 0 <= r["high"]:
        return "not told apart from 0"
    return "shown" if r["value"] > 0 else "shown, a loss"


def _shown(records: Records) -> list[str]:
    """For each pair of rows that count a paragraph about what the differences show."""
    texts = []
    for row, rival in pairs(list(_why(records))):
        found = [
            r
            for r in records
            if r["metric"] == DIFFERENCE and (r["model"], r["rival"]) == (row, rival)
        ]
        if found:
            seeds = f"{row} minus {rival} over {found[0]['n']} seed(s)"
            text = paired.shown(found, scores.short, "points", 1).rstrip(".")
            texts.append(f"{seeds}. {text}.")
    return texts


def _lost(records: Records) -> str:
    """The rows that do not count, and why."""
    lost = [f"{row} ({why})" for row, why in _why(records).items() if why]
    return (
        f"{NOT_CONVERGED.capitalize()}, so nothing is said about: {'; '.join(lost)}."
        if lost
        else ""
    )


def minutes(runs: Sequence[Mapping[str, Any]]) -> record.Record | None:
    """CPU minutes of a row's uninterrupted runs: mean as value, n, and the most."""
    spent = [run["cpu_s"] / 60 for run in runs if run["cpu_s"]]
    if not spent:
        return None
    mean, _ = measure.mean_std(spent)
    return {"value": mean, "n": len(spent), "most": max(spent), "unit": "min"}
