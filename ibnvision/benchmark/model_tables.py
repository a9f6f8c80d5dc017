"""The tables of `ibnvision benchmark models --what table`, and what they show in words."""

from collections.abc import Callable, Sequence
from typing import Any

from . import ceilings, record, rivals

Records = Sequence[record.Record]
LATENCY, INFERENCE, TRAINING = PARTS = ("latency", "inference", "training step")
KERNEL, FOLDED = "kernel", "kernel, folded"
WITH_FOLDED = ", with ours folded"
FEW = 3  # repetitions below which an interval says nothing
FLOOR = (
    "The floor: the least bytes and operations of the convolutions, matrix products and attention, "
    "at these rates. Convolutions are counted directly, so Winograd's may pass 100 %."
)
EVEN = 0.005  # share by which memory may differ without a word
NAMES = {
    "fallback": "the fallback",
    "compiled fallback": "the compiled fallback",
    "timm": "plain timm",
    "published": "the published form",
}


def tables(records: Records) -> str:
    """For each network, dtype and format its speeds, memory, and a sentence for each side."""
    best = [r for r in records if r["metric"] == "ceiling"]
    found = [r for r in records if r["metric"] != "ceiling"]
    parts = [f"Ceilings: {ceilings.text(best)}. {FLOOR}"] if best else []
    for key in dict.fromkeys(_key(r) for r in found):
        group = [r for r in found if _key(r) == key]
        times = [r for r in group if r["metric"] == "time"]
        parts += [_title(times), _speeds(times), _memory(times)]
        ratios = [r for r in group if "low" in r]
        if ratios:
            names = [f"{r['pass']}: {r['metric']}" for r in ratios]
            parts.append(record.interval_table("kernel", names, ratios))
        parts.append("\n".join(f"- {text}" for text in standing(group)))
    return "\n\n".join(filter(None, [*parts, rivals.cudnn_note(records)]))


def _key(r: record.Record) -> tuple[str, str, str]:
    return r["model"], r["dtype"], r["format"]


def _title(times: Records) -> str:
    r = times[0]
    height, width = r["shape"][2:]
    threads = "" if r["device_type"] == "cuda" else f", {r['threads']} thread(s)"
    size = f"{height}x{width} px{threads}, by {r['clock']}"
    return f"**{', '.join(_key(r))}, {size}; {r['rival']}: {r['plain']}**"


def _cells(times: Records) -> dict[str, dict[str, record.Record]]:
    """backend -> part -> record, kernel first."""
    cells: dict[str, dict[str, record.Record]] = {}
    for r in sorted(times, key=lambda r: not r["backend"].startswith(KERNEL)):
        cells.setdefault(r["backend"], {})[r["pass"]] = r
    return cells


def _cell(r: record.Record | None, key: str, form: Callable[[Any], str]) -> str:
    return form(r[key]) if r is not None and key in r else "-"


def _speeds(times: Records) -> str:
    """Latency with quartiles, images a second, and of each the share of the floor's speed."""

    def share(value: float) -> str:
        return f"{100 * value:.0f} %"

    batches = {r["pass"]: r["shape"][0] for r in times}
    header = ["", "latency ms", "quartiles", "of the floor"]
    for part, text in ((INFERENCE, "inference"), (TRAINING, "training")):
        if part in batches:
            header += [f"{text} images/s, batch {batches[part]}", "of the floor"]
    rows = []
    for backend, cell in _cells(times).items():
        one = cell.get(LATENCY)
        row = [backend, _cell(one, "value", "{:.1f}".format)]
        row += [_cell(one, "spread", lambda s: f"{s['q1']:.1f} to {s['q3']:.1f}")]
        row += [_cell(one, "floor_fraction", share)]
        for part in (INFERENCE, TRAINING):
            if part in batches:
                r = cell.get(part)
                row.append("-" if r is None else f"{1e3 * r['shape'][0] / r['value']:.2f}")
                row.append(_cell(r, "floor_fraction", share))
        rows.append(row)
    return record.table(header, rows)


def _memory(times: Records) -> str:
    """Peak memory a part, what is kept for the backward, and seconds of compiling."""
    present = [part for part in PARTS if any(r["pass"] == part for r in times)]
    header = ["MiB", *(f"peak, {part}" for part in present), "kept for the backward"]
    header += ["compiling, s", "parameters, M", "GMACs"]
    rows = []
    for backend, cell in _cells(times).items():
        number = "{:.0f}".format
        row = [backend, *(_cell(cell.get(part), "peak_mb", number) for part in present)]
        row += [_cell(cell.get(TRAINING), "kept_mb", number)]
        spent = [f"{cell[p]['compile_s']:.0f}" for p in present if "compile_s" in cell.get(p, {})]
        any_part = next(iter(cell.values()))
        row += [" + ".join(spent) or "-", f"{any_part['param_count']:.2f}"]
        row += [_cell(cell.get(LATENCY), "infer_gmacs", "{:.2f}".format)]
        rows.append(row)
    return record.table(header, rows)


def standing(group: Records) -> list[str]:
    """A sentence for where the kernel leads, one for where it trails, one for the undecided.

    Times count by the 95 % interval of their ratio, from FEW repetitions on; memory, which does
    not vary, by its size.
    """
    sides: dict[str, list[str]] = {"ahead": [], "behind": [], "open": []}
    for r in group:
        if "low" in r:
            side = "ahead" if r["low"] > 1 else "behind" if r["high"] < 1 else "open"
            side = side if r["n"] >= FEW else "open"
            rival = r["metric"].removeprefix("times faster than ")
            part = f"the {TRAINING}" if r["pass"] == TRAINING else r["pass"]
            value = f"{r['value']:.3g} x, {r['low']:.3g} to {r['high']:.3g}"
            sides[side].append(f"{rival} in {part} ({value})")
    whole = INFERENCE if any(r["pass"] == INFERENCE for r in group) else LATENCY
    for key, part, words in (
        ("peak_mb", whole, "peak memory of inference"),
        ("peak_mb", TRAINING, "peak memory of training"),
        ("kept_mb", TRAINING, "memory kept for the backward"),
    ):
        held = {r["backend"]: r[key] for r in group if r["pass"] == part and key in r}
        for backend in (name for name in NAMES if {name, KERNEL} <= set(held)):
            ratio = held[KERNEL] / held[backend]
            side = "ahead" if ratio < 1 - EVEN else "behind" if ratio > 1 + EVEN else "open"
            if side != "open":
                sides[side].append(f"{NAMES[backend]} in {words} ({ratio:.2f} of it)")
    title = ", ".join(_key(group[0]))
    if all(r["backend"] != KERNEL for r in group):
        return [f"{title}: nothing is shown, as no kernel ran."]
    begin = {
        "behind": "the kernels are behind",
        "ahead": "the kernels are ahead of",
        "open": "nothing is shown against",
    }
    return [f"{title}: {begin[side]} {'; '.join(sides[side])}." for side in begin if sides[side]]
