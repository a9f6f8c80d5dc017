"""The tables of `ibnvision benchmark ops`, in copies, from its records."""

import math
from collections.abc import Sequence

from . import ceilings, measure, record, rivals
from .op_rows import OPS, PASSES

COLUMNS = ("kernel", "eager", "fallback", "compiled")  # and the rivals that were timed


def tables(records: Sequence[record.Record]) -> str:
    """Per dtype, format and launch: the backends in copies, and the kernel's advantage."""
    times = [r for r in records if r["metric"] == "time"]
    best = [r for r in records if r["metric"] == "ceiling"]
    parts = [f"Ceilings: {ceilings.text(best)}."] if best else []
    for op, dtype, form, launch in sorted({key(r) for r in times}):
        group = [r for r in times if key(r) == (op, dtype, form, launch)]
        cuda = group[0]["device_type"] == "cuda"
        columns = [*COLUMNS, *(name for name in OPS[op].rivals if _timed(name, group))]
        header = ["pass, shape", "kernel ms", *(f"{name}, copies" for name in columns)]
        header += ["eager / kernel", "compiled / kernel"]
        header += ["% of copy bandwidth"] if cuda else []
        rows = []
        for name in PASSES:
            cases: dict[tuple, dict[str, float]] = {}
            for r in group:
                if r["pass"] == name:
                    cases.setdefault(tuple(r["shape"]), {})[r["backend"]] = r["value"]
            traffic = OPS[op].traffic.get(name, math.nan) if cuda else None
            rows += [_row(f"{name} {s}", v, columns, traffic) for s, v in cases.items()]
            if len(cases) > 1:
                title = f"{name}, geometric mean"
                rows.append(_mean_row(title, list(cases.values()), columns, traffic))
        title = f"{op}, {dtype}, {form}" + (
            f", {launch}" if cuda else f", {group[0]['threads']} thread(s)"
        )
        parts.append(f"**{title}**\n\n{record.table(header, rows)}")
        parts.append(standing(group, columns[1:]))
    kept = [r for r in records if r["metric"] == "kept"]
    if kept:
        parts.append(_kept_table(kept))
    parts.append(rivals.cudnn_note(records))
    return "\n\n".join(filter(None, parts))


def key(r: record.Record) -> tuple[str, ...]:
    """What a table is of."""
    return r["op"], r["dtype"], r["format"], r["launch"]


def standing(group: Sequence[record.Record], backends: Sequence[str]) -> str:
    """In words where the kernel leads and where it trails, told apart by quartiles; "" without it.

    group: times of one operator, dtype, format and launch.
    """
    cases: dict[tuple, dict[str, record.Record]] = {}
    for r in (r for r in group if "spread" in r):
        cases.setdefault((r["pass"], tuple(r["shape"])), {})[r["backend"]] = r
    sides: dict[str, list[str]] = {"ahead of": [], "behind": [], "not told apart from": []}
    for rival in backends:
        pairs = [(v["kernel"], v[rival]) for v in cases.values() if {"kernel", rival} <= set(v)]
        ratios: dict[str, list[float]] = {side: [] for side in sides}
        for ours, theirs in pairs:
            ahead = ours["spread"]["q3"] < theirs["spread"]["q1"]
            behind = ours["spread"]["q1"] > theirs["spread"]["q3"]
            side = "ahead of" if ahead else "behind" if behind else "not told apart from"
            ratios[side].append(theirs["value"] / ours["value"])
        for side, found in ratios.items():
            if found:
                mean = record.number(measure.geometric_mean(found))
                sides[side].append(f"{rival} in {len(found)} of {len(pairs)} ({mean} x)")
    told = [f"{side} {', '.join(found)}" for side, found in sides.items() if found]
    title = ", ".join(key(group[0])[:3])
    return f"{title}: by quartiles the kernel is {'; '.join(told)}." if told else ""


def _timed(backend: str, group: Sequence[record.Record]) -> bool:
    return any(r["backend"] == backend for r in group)


def _ratio(values: dict[str, float], top: str, bottom: str) -> float:
    return values[top] / values[bottom] if {top, bottom} <= set(values) else math.nan


def _numbers(
    values: dict[str, float], columns: Sequence[str], traffic: float | None
) -> list[float]:
    numbers = [_ratio(values, name, "copy") for name in columns]
    numbers += [_ratio(values, name, "kernel") for name in ("eager", "compiled")]
    if traffic is not None:
        numbers.append(100 * traffic / 2 * _ratio(values, "copy", "kernel"))
    return numbers


def _row(
    title: str, values: dict[str, float], columns: Sequence[str], traffic: float | None
) -> list[str]:
    numbers = _numbers(values, columns, traffic)
    return [title, record.number(values.get("kernel")), *map(record.number, numbers)]


def _mean_row(
    title: str, cases: list[dict[str, float]], columns: Sequence[str], traffic: float | None
) -> list[str]:
    numbers = zip(*(_numbers(values, columns, traffic) for values in cases), strict=True)
    return [title, "", *(record.number(measure.geometric_mean(column)) for column in numbers)]


def _kept_table(kept: list[record.Record]) -> str:
    cases: dict[tuple, dict[str, float]] = {}
    for r in kept:
        key = (r["op"], r["dtype"], r["format"], r["pass"], tuple(r["shape"]))
        cases.setdefault(key, {})[r["backend"]] = r["value"]
    rows = [
        [f"{op} {dtype} {form} {part} {shape}"]
        + [f"{v[b] / 2**20:.1f}" if b in v else "-" for b in ("kernel", "eager")]
        + [record.number(_ratio(v, "kernel", "eager"))]
        for (op, dtype, form, part, shape), v in cases.items()
    ]
    return "**Kept for the backward**\n\n" + record.table(
        ["tensor", "kernel MiB", "eager MiB", "kernel / eager"], rows
    )
