"""How much of its score a model keeps under corruptions: P, mPC and rPC."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from ibnvision.config import nearest
from ibnvision.data.corruptions import CORRUPTIONS, GROUPS, IMAGENET_C, SEVERITIES
from ibnvision.metrics import as_text, heading, mean_corruption, target_mean, unit

_SETS = {"all": CORRUPTIONS, "imagenet_c": IMAGENET_C, **GROUPS}  # name -> corruptions

Results = Mapping[str, Mapping[str, Any]]


def corruptions_of(words: Sequence[str]) -> tuple[str, ...]:
    """The corruptions that words name: all, imagenet_c (its 15), noise, blur, weather, digital, or
    single ones; each once.

    Raises: KeyError for an unknown word, with the nearest one.
    """
    known = {**_SETS, **{name: (name,) for name in CORRUPTIONS}}
    for word in words:
        if word not in known:
            raise KeyError(f"unknown corruption {word!r}: {nearest(word, known)}")
    return tuple(dict.fromkeys(name for word in words for name in known[word]))


def check_severities(severities: Sequence[int]) -> None:
    """ValueError unless there is one or more, all different and in 1 to 5."""
    known, different = set(SEVERITIES), set(severities)
    if not different or not different <= known or len(different) < len(severities):
        raise ValueError(
            f"severities must be different numbers from 1 to 5, got {list(severities)}"
        )


def robustness(results: Results, key: str) -> dict[str, dict[str, Any]]:
    """For each clean domain of `results` its `p`, `mpc`, `rpc_pct`, the mean of the score
    `by_corruption` (over severities) and `by_severity` (over corruptions), and `critical_severity`,
    the lowest one measured at which half of the clean score is lost: under each corruption, and of
    the mean over corruptions as "mean"; None where that much never is.

    results: of `evaluate` with corruptions: a domain NAME, and NAME@CORRUPTION_SEVERITY. The mean
    over corruptions counts each one and severity once, whichever were asked for: it is the mPC of
    Michaelis et al. (https://arxiv.org/abs/1907.07484) for the 15 of imagenet_c at 5 severities.
    """
    found: dict[str, dict[str, Any]] = {}
    for domain in (name for name in results if "@" not in name):
        clean = results[domain][key]
        under = {n: row for n, row in results.items() if n.startswith(f"{domain}@")}
        parts: dict[str, dict[str, dict[str, Any]]] = {"by_corruption": {}, "by_severity": {}}
        for name, row in under.items():
            corruption, _, severity = name.rpartition("@")[2].rpartition("_")
            parts["by_corruption"].setdefault(corruption, {})[name] = dict(row)
            parts["by_severity"].setdefault(severity, {})[name] = dict(row)
        found[domain] = mean_corruption({domain: results[domain], **under}, key, clean=domain)
        for part, groups in parts.items():
            found[domain][part] = {name: target_mean(rows, key) for name, rows in groups.items()}
        curves = {"mean": found[domain]["by_severity"]} | {
            corruption: {n.rpartition("_")[2]: row[key] for n, row in rows.items()}
            for corruption, rows in parts["by_corruption"].items()
        }
        found[domain]["critical_severity"] = {
            name: lost_half_at(sorted((int(s), value) for s, value in curve.items()), clean)
            for name, curve in curves.items()
        }
    return found


def lost_half_at(curve: Iterable[tuple[float, float]], clean: float) -> float | None:
    """The first place at which half of the score `clean`, or more, is lost; None where it never is.

    curve: (place, score), in the order in which they lie away from the clean one.
    """
    return next((place for place, value in curve if value <= clean / 2), None)


def critical_scales(curve: Mapping[float, float]) -> dict[str, float | None]:
    """ "down" and "up" -> the scale nearest to 1 at which half of the score at 1 is lost, or None.

    curve: scale -> score, with that of scale 1; a direction without a scale is left out.
    """
    places = sorted(curve.items())
    parts = {"down": [p for p in places if p[0] < 1][::-1], "up": [p for p in places if p[0] > 1]}
    return {way: lost_half_at(part, curve[1]) for way, part in parts.items() if part}


def robustness_table(found: Mapping[str, Mapping[str, Any]], key: str) -> Table:
    """`robustness` as a table, a column for each domain."""
    word = heading(key)
    table = Table(title=f"{word} under corruptions" + (", in %" if unit(key) == "%" else ""))
    table.add_column("")
    for domain in found:
        table.add_column(domain, justify="right")
    heads = {"p": f"{word}, clean (P)", "mpc": f"{word}, corrupted (mPC)"}
    for name, text in heads.items():
        table.add_row(text, *(as_text(key, row[name]) for row in found.values()))
    table.add_row("kept, % (rPC)", *(as_text("rpc_pct", r["rpc_pct"]) for r in found.values()))
    first = next(iter(found.values()))
    for part, kind in (("by_severity", "severity "), ("by_corruption", "")):
        table.add_section()
        for name in first[part]:
            cells = (as_text(key, row[part][name]) for row in found.values())
            table.add_row(f"{kind}{name}".replace("_", " "), *cells)
    table.add_section()
    for name in first["critical_severity"]:
        values = (row["critical_severity"][name] for row in found.values())
        cells = ("never" if value is None else str(value) for value in values)
        table.add_row(f"half lost at, {name}".replace("_", " "), *cells)
    return table
