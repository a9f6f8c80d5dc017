"""From scores per run to the table of the generalization benchmark, and to the words about it.

A run's scores are mIoU in percent per domain. Roles of domains: source; target (its appearance was
never seen); stress (reported, never averaged); real (camera frames, averaged with nothing drawn).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import measure, record

Roles = Mapping[str, str]
Results = Mapping[str, Any]
Summary = dict[str, dict[str, dict[str, Any]]]

SOURCE, WORST, MEAN, GAP = "source", "worst target", "target mean", "gap"
BASE, RIVAL = "BN", "BN + jitter"


def columns(roles: Roles) -> list[str]:
    """The columns of the table, in order."""
    by_role = {role: [d for d, r in roles.items() if r == role] for role in set(roles.values())}
    derived = [WORST, MEAN, GAP] if by_role.get("target") else []
    return [
        SOURCE,
        *by_role.get("target", []),
        *derived,
        *by_role.get("stress", []),
        *by_role.get("real", []),
    ]


def of_run(scores: Mapping[str, float | None], roles: Roles) -> dict[str, float]:
    """A run's value in every column; a missing score is NaN there and in what averages it."""

    def values(role: str) -> list[float]:
        found = [scores.get(d) for d, r in roles.items() if r == role]
        return [math.nan if v is None else float(v) for v in found]

    row: dict[str, float] = {
        d: v for r in ("target", "stress", "real") for d, v in _named(roles, r, values(r))
    }
    row[SOURCE] = _mean(values("source"))
    targets = values("target")
    if targets:
        row[MEAN] = _mean(targets)
        row[WORST] = math.nan if any(map(math.isnan, targets)) else min(targets)
        row[GAP] = row[SOURCE] - row[MEAN]
    return {column: row[column] for column in columns(roles)}


def _named(roles: Roles, role: str, values: Sequence[float]) -> list[tuple[str, float]]:
    return list(zip([d for d, r in roles.items() if r == role], values, strict=True))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def summarize(
    runs: Mapping[str, Mapping[int, Mapping[str, float | None]]], roles: Roles
) -> Summary:
    """Row -> column -> {mean, std (population), n, values by seed, low, high (95 %, n >= 3)}.

    runs: row -> seed -> domain -> mIoU in percent. NaN values and empty columns are left out.
    """
    summary: Summary = {}
    for name, by_seed in runs.items():
        table = {seed: of_run(scores, roles) for seed, scores in sorted(by_seed.items())}
        summary[name] = {}
        for column in columns(roles):
            values = {s: row[column] for s, row in table.items() if not math.isnan(row[column])}
            if not values:
                continue
            mean, std = measure.mean_std(list(values.values()))
            cell: dict[str, Any] = {"mean": mean, "std": std, "n": len(values)}
            cell["values"] = {str(seed): value for seed, value in values.items()}
            interval = measure.t_interval(list(values.values()))
            if interval:
                cell["low"], cell["high"] = interval
            summary[name][column] = cell
    return summary


def short(domain: str) -> str:
    """A domain's name in a table head."""
    return domain.removeprefix("streets_").removesuffix("_boxes").replace("camvid_", "CamVid ")


def cell_text(cell: Mapping[str, Any] | None) -> str:
    """mean, and the spread over seeds where there is more than one."""
    if cell is None:
        return "-"
    return f"{cell['mean']:.1f}" + (f" ± {cell['std']:.1f}" if cell["n"] > 1 else "")


def interval_text(cell: Mapping[str, Any] | None) -> str:
    """Student's 95 % interval, from three seeds."""
    return f"{cell['low']:.1f} to {cell['high']:.1f}" if cell and "low" in cell else "-"


def table(results: Results) -> str:
    """The Markdown table of results.json, with the rules that it was made by above it."""
    roles, summary = results["roles"], results["summary"]
    cols = columns(roles)
    header = ["row", "augmentation", "seeds", *(short(c) for c in cols), "target mean, 95 %"]
    rows = []
    for row in results["rows"]:
        cells = summary.get(row["name"], {})
        seeds = ", ".join(str(run["seed"]) for run in row["runs"]) or "failed"
        rows.append([row["name"], row["augment"], seeds, *(cell_text(cells.get(c)) for c in cols)])
        rows[-1].append(interval_text(cells.get(MEAN)))
    return f"{rules(results)}\n\n{record.table(header, rows)}"


def rules(results: Results) -> str:
    """How the numbers came about, in a paragraph."""
    roles = results["roles"]
    targets = [short(d) for d, r in roles.items() if r == "target"]
    stress = [short(d) for d, r in roles.items() if r == "stress"]
    source = ", ".join(d for d, r in roles.items() if r == "source")
    text = f"mIoU in %, higher is better, on the test split; trained on {source} alone. "
    text += f"Target mean: {', '.join(targets)}"
    text += f"; {', '.join(stress)} are stress tests, never averaged. " if stress else ". "
    text += "Mean ± population standard deviation over seeds. Gap = source - target mean. "
    text += (
        f"{results['selection']} {results['absent_rule'][0].upper()}{results['absent_rule'][1:]}. "
    )
    return text + f"Protocol {results['protocol'][:16]}."


def _value(summary: Summary, row: str, column: str) -> float:
    return summary.get(row, {}).get(column, {}).get("mean", math.nan)


def advantage(summary: Summary, row: str, rival: str, column: str) -> dict[str, Any] | None:
    """row minus rival over the seeds that both have: mean, least, and how many are ahead."""
    a, b = (summary.get(n, {}).get(column, {}).get("values", {}) for n in (row, rival))
    differences = [a[seed] - b[seed] for seed in a if seed in b]
    if not differences:
        return None
    return {
        "mean": _mean(differences),
        "least": min(differences),
        "ahead": sum(d > 0 for d in differences),
        "n": len(differences),
    }


def headline(results: Results) -> str:
    """The one sentence of the report, from the numbers."""
    summary, roles = results["summary"], results["roles"]
    ours = [r["name"] for r in results["rows"] if r["name"].startswith("IBN")]
    scored = [n for n in ours if MEAN in summary.get(n, {})]
    if not scored or MEAN not in summary.get(BASE, {}):
        return "The rows that the headline compares did not finish."
    best = max(scored, key=lambda n: _value(summary, n, MEAN))
    targets = sum(r == "target" for r in roles.values())
    gain, home = (advantage(summary, best, BASE, c) for c in (MEAN, SOURCE))
    if gain is None or home is None:
        return "The rows that the headline compares share no seed."
    both = [summary[name][MEAN]["values"] for name in (best, BASE)]
    shared = set.intersection(*map(set, both))
    reads, base = (_mean([values[seed] for seed in shared]) for values in both)
    text = f"Trained on one domain, {best} reads {targets} unseen domains at {reads:.1f} % mIoU, "
    text += f"where batch norm alone reads {base:.1f}: {gain['mean']:+.1f} points, "
    text += f"ahead in {gain['ahead']} of {gain['n']} seeds, "
    return text + f"and {home['mean']:+.1f} points at home."


def discussion(results: Results) -> list[str]:
    """Paragraphs about the rival, the real frames and the limits; every number is computed here."""
    return [
        text
        for text in (_rival(results), _real(results), _stress(results), _classes(results))
        if text
    ]


def _rival(results: Results) -> str:
    summary, roles = results["summary"], results["roles"]
    jitter, cost = (advantage(summary, RIVAL, BASE, c) for c in (MEAN, SOURCE))
    if jitter is None or cost is None:
        return ""
    text = (
        "The rival is plain batch norm with strong colour jitter. The jitter changes BN's target "
    )
    text += f"mean by {jitter['mean']:+.1f} points and its source by {cost['mean']:+.1f}."
    for name in ("IBN-a", "IBN-b"):
        apart, home = (advantage(summary, name, RIVAL, c) for c in (MEAN, SOURCE))
        if apart is None or home is None:
            continue
        targets = [d for d, r in roles.items() if r == "target"]
        ahead: list[str] = []
        behind: list[str] = []
        for domain in targets:
            difference = advantage(summary, name, RIVAL, domain)
            if difference:
                (ahead if difference["mean"] > 0 else behind).append(short(domain))
        text += f" Against it {name}, which saw no colour change, stands at "
        text += f"{apart['mean']:+.1f} points on the target mean "
        text += (
            f"(ahead in {apart['ahead']} of {apart['n']} seeds) and {home['mean']:+.1f} at home: "
        )
        text += (
            f"ahead on {', '.join(ahead) or 'no target'}, behind on {', '.join(behind) or 'none'}."
        )
    text += (
        " Jitter draws from colour changes that somebody had to think of, and these targets are "
        "mostly such changes, so a row without the augmentation named beside it says little."
    )
    return text


def _real(results: Results) -> str:
    summary = results["summary"]
    domains = [d for d, r in results["roles"].items() if r == "real"]
    parts = []
    for domain in domains:
        shown = [
            f"{row['name']} {cell_text(summary[row['name']][domain])}"
            for row in results["rows"]
            if domain in summary.get(row["name"], {})
        ]
        gains = [
            f"{name} above BN in {g['ahead']} of {g['n']} seeds (least {g['least']:+.1f})"
            for name in ("IBN-a", "IBN-b")
            if (g := advantage(summary, name, BASE, domain))
        ]
        parts.append(f"{short(domain)}: {', '.join(shown)}; {', '.join(gains)}.")
    return f"Real frames, which no choice here has seen. {' '.join(parts)}" if parts else ""


def _stress(results: Results) -> str:
    summary = results["summary"]
    domains = [d for d, r in results["roles"].items() if r == "stress"]
    parts = [
        f"{short(d)}: "
        + ", ".join(
            f"{row['name']} {cell_text(summary[row['name']][d])}"
            for row in results["rows"]
            if d in summary.get(row["name"], {})
        )
        for d in domains
    ]
    if not parts:
        return ""
    return (
        f"Limits. {'; '.join(parts)}. An inverted picture is beyond any norm that only shifts and "
        "scales, because the activation behind it keeps one sign; a sketch leaves no surface to "
        "normalize. All drawn targets share the layout rules of the source, so they measure "
        "appearance and nothing else."
    )


def _classes(results: Results) -> str:
    """Classes that a mean over classes hides: those hardly learned at home."""
    source = next(d for d, r in results["roles"].items() if r == "source")
    by_class = class_means(results, BASE, source)
    weak = [f"{name} ({value:.0f} %)" for name, value in by_class.items() if value < 30]
    if not weak:
        return ""
    return f"Hardly learned at home by BN, so no evidence in either direction: {', '.join(weak)}."


def class_means(results: Results, row: str, domain: str) -> dict[str, float]:
    """IoU per class in percent, mean over the seeds of a row; absent classes are left out."""
    runs: list[dict] = next((r["runs"] for r in results["rows"] if r["name"] == row), [])
    found: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run["iou"].get(domain, {}).items():
            if value is not None:
                found.setdefault(name, []).append(value)
    return {name: _mean(values) for name, values in found.items()}
