"""The tables of `ibnvision benchmark scaling` and a sentence a curve, from its records."""

from collections.abc import Sequence

from . import record
from .scaling_rows import BACKENDS, BATCH, CHANNELS, RESOLUTION, THREADS

Records = Sequence[record.Record]

VARIABLES = (BATCH, RESOLUTION, CHANNELS, THREADS)


def tables(records: Records) -> str:
    """Of each operator or network: times by variable and size, then what each curve's growth is."""
    parts = []
    for name in dict.fromkeys(r["op"] for r in records):
        mine = [r for r in records if r["op"] == name]
        parts += [f"**{title(mine)}**", _times(mine), growth(mine)]
    return "\n\n".join(parts)


def title(mine: Records) -> str:
    """What was timed, and the base point."""
    r = mine[0]
    base = f"batch {r['base'][BATCH]}, {r['base'][RESOLUTION]}x{r['base'][RESOLUTION]} {r['cells']}"
    base += f", {r['base'][CHANNELS]} channels, {r['threads']} thread(s)"
    return f"{r['op']}, {r['pass']}, {r['dtype']} {r['format']}, around {base}"


def backends(mine: Records) -> list[str]:
    """The timed ones, in the order of tables."""
    return [name for name in BACKENDS if any(r["backend"] == name for r in mine)]


def points(mine: Records, variable: str, backend: str) -> list[record.Record]:
    """The times of one curve, by size."""
    found = [
        r
        for r in mine
        if r["metric"] == "time" and r["variable"] == variable and r["backend"] == backend
    ]
    return sorted(found, key=lambda r: r["size"])


def _times(mine: Records) -> str:
    names, rows = backends(mine), []
    for variable in VARIABLES:
        cells = {(r["size"], name): r for name in names for r in points(mine, variable, name)}
        for size in sorted({size for size, _ in cells}):
            shown = f"{variable} {_shown(variable, size)}"
            rows.append([shown, *(_cell(cells.get((size, n))) for n in names)])
    return record.table(["one variable at a time", *(f"{name}, ms" for name in names)], rows)


def _cell(r: record.Record | None) -> str:
    if r is None:
        return "-"
    middle, low, high = map(record.number, (r["value"], r["spread"]["q1"], r["spread"]["q3"]))
    return f"{middle} ({low} to {high})"


def growth(mine: Records) -> str:
    """A list item for each variable: the exponent of every backend's curve, with its interval."""
    items = []
    for variable in VARIABLES:
        curves = {
            r["backend"]: r for r in mine if r["metric"] == "exponent" and r["variable"] == variable
        }
        if curves:
            first, *rest = (name for name in BACKENDS if name in curves)
            sizes = curves[first]["sizes"]
            low, high = (_shown(variable, size) for size in (sizes[0], sizes[-1]))
            what = mine[0]["cells"] if variable == RESOLUTION else variable
            text = (
                f"In {what}, from {low} to {high}, {mine[0]['op']}'s {first} grows with exponent "
            )
            text += _exponent(curves[first])
            for name in rest:
                last = curves[name]["sizes"][-1]
                span = "" if last == sizes[-1] else f", up to {_shown(variable, last)},"
                text += f"; {name}{span} with {_exponent(curves[name])}"
            if "pairs_exponent" in curves[first]:
                text += "; pairs of patches that see each other, fewer at borders, with "
                text += f"{curves[first]['pairs_exponent']:.2f}"
            items.append(f"- {text}. {_caution(mine, variable)}".rstrip())
    return "\n".join(items)


def _shown(variable: str, size: int) -> str:
    return f"{size}x{size}" if variable == RESOLUTION else str(size)


def _exponent(r: record.Record) -> str:
    return f"{r['value']:.2f} ({r['low']:.2f} to {r['high']:.2f})"


def _caution(mine: Records, variable: str) -> str:
    if variable != THREADS:
        return ""
    cores = max(r["size"] for r in mine if r["metric"] == "time" and r["variable"] == THREADS)
    return (
        f"Wall time, -1 would be perfect; recorded and not to be judged, as {cores} cores "
        "are shared with whatever else runs."
    )
