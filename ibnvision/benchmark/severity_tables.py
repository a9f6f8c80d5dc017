"""The tables of the severity benchmark, and the words about them, from records alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import comparisons, paired, record
from . import severity_scores as words
from .detection_scores import NOT_CONVERGED

Records = Sequence[record.Record]

_RULES = (
    "Severity 0 is the clean picture; mPC is the mean over corruptions and severities, each "
    "counted once, rPC its share of the clean score (Michaelis et al., 2019). The critical "
    "severity is the lowest measured at which the mean over seeds has lost half of its clean "
    "value or more, *never* where it does not; ± is half of Student's 95 % interval of the mean "
    "over seeds, from three seeds. Nothing was trained. A row that never learned has nothing to "
    "lose, so mPC is read beside the clean score."
)
_JITTER = " Rows with jitter saw other brightness and contrast in training; both are corruptions."
_DECIBELS = " Half of a PSNR in dB is a convention, not half of what is seen."
_SCALED = (
    "Against scale: the same pictures resized, their prediction brought back to the size of the "
    "target. Critical scales are the nearest to 1 at which half of the score at 1 is lost, in each "
    "direction."
)


def block(records: Records) -> str:
    """The Markdown of one run: rules, then per domain curves, groups, scales, and what is shown."""
    domains = list(dict.fromkeys(r["domain"] for r in records if "domain" in r))
    parts = [_rules(records)]
    for domain in domains:
        mine = [r for r in records if r.get("domain") == domain]
        parts += [f"**{domain}** ({mine[0]['role']})"] if len(domains) > 1 else []
        parts += [_curves(mine), _groups(mine), _corruptions(mine), _scales(mine)]
        parts += [_differences(mine), _critical(mine), *_shown(mine)]
    return "\n\n".join(part for part in [*parts, _costs(records), _left_out(records)] if part)


def _rules(records: Records) -> str:
    first = next(r for r in records if r["metric"] == words.SEVERITY)
    sets = {r["domain"]: r for r in records if "domain" in r}
    shown = "; ".join(
        f"the first {r['pictures']} test pictures of `{d}` ({r['pictures_sha256'][:12]})"
        for d, r in sets.items()
    )
    names = dict.fromkeys(r["corruption"] for r in records if r["metric"] == words.CORRUPTION)
    text = f"{first['score']}, higher is better, of the study {first['study']} "
    text += f"(protocol {first['study_protocol'][:16]}), trained on {', '.join(first['source'])}: "
    text += f"{shown}, under {len(names)} corruptions. {_RULES}"
    rows = {r["model"] for r in records if "model" in r}
    text += _JITTER if any(row.endswith(comparisons.AUGMENTED) for row in rows) else ""
    text += f" {first['selection']}"
    text += _DECIBELS if first["unit"] == "dB" else ""
    return f"{text} Protocol {first['protocol'][:16]}."


def _digits(r: Mapping[str, Any]) -> int:
    return 2 if r["unit"] == "dB" else 1


def _number(r: Mapping[str, Any] | None) -> str:
    if r is None:
        return "-"
    half = f" ± {(r['high'] - r['low']) / 2:.{_digits(r)}f}" if "low" in r else ""
    return f"{r['value']:.{_digits(r)}f}{half}"


def _place(r: Mapping[str, Any] | None) -> str:
    if r is None:
        return "-"
    return r["value"] if r["value"] == words.NEVER else f"{r['value']:g}"


def _of(records: Records, metric: str, *keys: str) -> dict[Any, record.Record]:
    """(row, the other keys) -> record of a metric."""
    return {tuple(r[key] for key in ("model", *keys)): r for r in records if r["metric"] == metric}


def _rows(records: Records) -> dict[str, str]:
    """Row -> its name in a table."""
    return {
        r["model"]: r["model"] + (f" ({NOT_CONVERGED})" if r["not_converged"] else "")
        for r in records
        if r["metric"] == words.SEVERITY
    }


def _against(r: Mapping[str, Any] | None) -> str:
    """A difference with its p."""
    if r is None:
        return "-"
    return f"{r['value']:+.{_digits(r)}f}" + (f", p = {r['p']:.2g}" if "p" in r else "")


def _bases(records: Records) -> dict[str, record.Record]:
    """Row -> its difference in mPC from the row without a method: the first of its rivals."""
    found: dict[str, record.Record] = {}
    for r in records:
        if r["metric"] == words.DIFFERENCE and r["column"] == words.MPC:
            found.setdefault(r["model"], r)
    return found


def _curves(records: Records) -> str:
    cells, base = _of(records, words.SEVERITY, "severity"), _bases(records)
    kept, share = _of(records, words.MPC), _of(records, words.RPC)
    critical = _of(records, words.CRITICAL, "corruption")
    levels = sorted({severity for _, severity in cells if severity})
    lines = []
    for row, name in _rows(records).items():
        seeds = max(r["n"] for (model, _), r in cells.items() if model == row)
        lines.append([name, str(seeds), *(_number(cells.get((row, s))) for s in (0, *levels))])
        lines[-1] += [_number(kept.get((row,))), _number(share.get((row,)))]
        lines[-1] += [_place(critical.get((row, words.MEAN)))]
        lines[-1] += [_against(base.get(row))] if base else []
    rival = " or ".join(dict.fromkeys(r["rival"] for r in base.values()))
    head = ["row", "seeds", words.CLEAN, *(f"severity {s}" for s in levels)]
    head += [words.MPC, "rPC %", words.CRITICAL, *([f"mPC against {rival}"] if base else [])]
    return record.table(head, lines)


def _groups(records: Records) -> str:
    cells, rows = _of(records, words.GROUP, "group"), _rows(records)
    used = dict.fromkeys(group for _, group in cells)
    lines = [[name, *(_number(cells.get((row, g))) for g in used)] for row, name in rows.items()]
    return record.table(["mean over severities", *used], lines) if len(used) > 1 else ""


def _corruptions(records: Records) -> str:
    """Every corruption: the mean over severities, and in brackets the critical severity."""
    cells = _of(records, words.CORRUPTION, "corruption")
    critical, rows = _of(records, words.CRITICAL, "corruption"), _rows(records)
    lines = []
    for name in dict.fromkeys(c for _, c in cells):
        lines.append([name.replace("_", " ")])
        for row in rows:
            r = cells.get((row, name))
            value = "-" if r is None else _number({"value": r["value"], "unit": r["unit"]})
            lines[-1].append(f"{value} ({_place(critical.get((row, name)))})")
    return record.table(["mean (critical severity)", *rows.values()], lines)


def _scales(records: Records) -> str:
    cells, critical = (
        _of(records, metric, key)
        for metric, key in ((words.SCALE, "scale"), (words.CRITICAL_SCALE, "direction"))
    )
    if not cells:
        return ""
    scales = sorted({scale for _, scale in cells})
    ways = list(dict.fromkeys(way for _, way in critical))
    lines = [
        [name, *(_number(cells.get((row, s))) for s in scales)]
        + [_place(critical.get((row, way))) for way in ways]
        for row, name in _rows(records).items()
    ]
    head = ["scale", *(f"{s:g}x" for s in scales), *(f"critical, {way}wards" for way in ways)]
    return f"{_SCALED}\n\n{record.table(head, lines)}"


def _pairs(records: Records) -> dict[tuple[str, str], list[record.Record]]:
    found: dict[tuple[str, str], list[record.Record]] = {}
    for r in records:
        if r["metric"] == words.DIFFERENCE:
            found.setdefault((r["model"], r["rival"]), []).append(r)
    return found


def _differences(records: Records) -> str:
    pairs = _pairs(records)
    names = dict.fromkeys(r["column"] for found in pairs.values() for r in found)
    lines = []
    for (row, rival), found in pairs.items():
        cells = {r["column"]: r for r in found}
        digits = _digits(found[0])
        lines.append([f"{row} - {rival}", *(paired.signed(cells.get(c), digits) for c in names)])
    unit = next((r["unit"] for found in pairs.values() for r in found), "")
    return record.table([f"{unit}, paired by seed", *names], lines) if lines else ""


def _critical(records: Records) -> str:
    """In a sentence where each row has lost half."""
    cells = _of(records, words.CRITICAL, "corruption")
    told = [f"{row} {_place(cells.get((row, words.MEAN)))}" for row in _rows(records)]
    alone = dict.fromkeys(_rows(records), 0)
    for (row, corruption), r in cells.items():
        alone[row] += corruption != words.MEAN and r["value"] != words.NEVER
    of = len({c for _, c in cells}) - 1
    count = ", ".join(f"{row} {n}" for row, n in alone.items())
    return (
        f"Critical severity of the mean over corruptions: {', '.join(told)}. Of {of} corruptions "
        f"taken alone, so many cost half of the clean score at some severity: {count}."
    )


def _shown(records: Records) -> list[str]:
    """For each pair of rows a paragraph about what the differences show."""
    texts = []
    for (row, rival), found in _pairs(records).items():
        text = paired.shown(found, str, found[0]["unit"], _digits(found[0])).rstrip(".")
        texts.append(f"{row} minus {rival} over {found[0]['n']} seed(s). {text}.")
    lost = [name for row, name in _rows(records).items() if name != row]
    return texts + ([f"Compared with nothing: {', '.join(lost)}."] if lost else [])


def _costs(records: Records) -> str:
    found = [r for r in records if r["metric"] == words.COST]
    told = ", ".join(f"{r['model']} {r['value']:.0f}" for r in found)
    return f"CPU seconds to measure one seed, one thread, pictures aside: {told}." if told else ""


def _left_out(records: Records) -> str:
    left = records[0]["left_out"]
    return f"Left out: {'; '.join(f'{n} ({why})' for n, why in left.items())}." if left else ""
