"""What changed between two runs of a timed benchmark beyond the noise, from their records.

The unit is a backend that is not ours, timed in the same repetitions. See `compare`.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from . import record

Records = Sequence[record.Record]
Case = tuple[object, ...]
Group = Mapping[str, record.Record]  # backend -> its time

# backends with code of this package, by how they begin; what others wrote is a yardstick
OURS = (
    *("kernel", "fallback", "halo", "folded fallback", "unfolded", "compiled fallback"),
    "ibnvision",
)
WHAT = (
    *("bench", "op", "model", "corruption", "severity", "pass", "launch", "variable", "size"),
    *("shape", "dtype", "format"),
)
WHERE = ("device", "cache_bytes", "torch", "threads", "heap", "quick")
LEAST = 1.05  # a smaller change of a time is never called one
EXACT = 1.01  # of counted bytes
WORSE, BETTER, SAME = "regression", "gain", "within the noise"


@dataclass(frozen=True)
class Ratio:
    """Time of one backend by that of another, and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """Of a backend of ours in one case. factor: now by then, above 1 is worse."""

    name: str
    then: str
    now: str
    factor: float
    verdict: str


@dataclass
class Comparison:
    """What `compare` found.

    control: the most that an outside ratio moved by, as a factor; None where no case has two
    outside backends.
    only_then, only_now, unjudged: names of what one run alone has, or of what nothing from outside
    was timed with. refused: conditions that differ, in words.
    """

    control: float | None
    changes: list[Change] = field(default_factory=list)
    only_then: list[str] = field(default_factory=list)
    only_now: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def differing(then: record.Record, now: record.Record) -> list[str]:
    """The conditions in which two records differ, in words."""
    pairs = [(key, then.get(key), now.get(key)) for key in WHERE]
    return [f"{key} was {a!r}, is {b!r}" for key, a, b in pairs if a != b]


def compare(then: Records, now: Records) -> Comparison:
    """Every case of both runs, by the newest run of each case on each side.

    A time counts as changed where the intervals of its ratio to every outside backend lie apart
    (the recorded bootstrap, else the quartiles of both times), and where it changed by more than
    LEAST and by more than `control`: the most that a ratio of outside backends to each other moved
    by, in all cases together. As it grows with their number, it is no easier to be flagged among
    many. Bytes are counted, not timed: they compare as they are.
    """
    before, after = _grouped(then), _grouped(now)
    both = [key for key in after if key in before]
    moves = [move for key in both for move in _moves(before[key], after[key])]
    control = math.exp(max(moves)) if moves else None
    found = Comparison(control)
    for key in both:
        _add(found, before[key], after[key], max(LEAST, control or 0.0))
    old, new = ({case: group for (case, _), group in side.items()} for side in (before, after))
    for (case, where), group in after.items():
        if case not in old:
            found.only_now += map(_name, filter(_is_ours, group))
        elif (case, where) not in before:
            found.refused += differing(old[case][0], group[0])
    for case in old:
        found.only_then += map(_name, filter(_is_ours, old[case])) if case not in new else ()
    found.refused = list(dict.fromkeys(found.refused))
    return found


def _grouped(records: Records) -> dict[tuple[Case, Case], list[record.Record]]:
    """Case and conditions -> the records of the newest run with something of ours in it."""
    found: dict[tuple[Case, Case], list[record.Record]] = {}
    for r in sorted(records, key=lambda r: r["run"]):
        case = tuple(tuple(v) if isinstance(v := r.get(key), list) else v for key in WHAT)
        group = found.setdefault((case, tuple(r.get(key) for key in WHERE)), [])
        if group and group[0]["run"] != r["run"]:
            group.clear()
        group.append(r)
    return {key: group for key, group in found.items() if any(map(_is_ours, group))}


def _is_ours(r: record.Record) -> bool:
    """Whether a record is judged: a time or counted bytes of a backend of ours."""
    return str(r.get("backend", "")).startswith(OURS) and (r["metric"] == "time" or _exact(r))


def _exact(r: record.Record) -> bool:
    return str(r.get("unit", "")).startswith("bytes")


def _add(found: Comparison, then: Records, now: Records, noise: float) -> None:
    """Judge one case: what is of ours in both runs, and what one lacks."""
    old, new = ({(r["metric"], r["backend"]): r for r in filter(_is_ours, g)} for g in (then, now))
    outside = _outside(then, now)
    for key, r in new.items():
        if key not in old:
            found.only_now.append(_name(r))
        elif _exact(r):
            found.changes.append(_of_bytes(old[key], r))
        elif outside:
            found.changes.append(_of_time(then, now, r, outside, noise))
        else:
            found.unjudged.append(_name(r))
    found.only_then += [_name(r) for key, r in old.items() if key not in new]


def _of_bytes(old: record.Record, new: record.Record) -> Change:
    factor = new["value"] / old["value"] if old["value"] else math.inf if new["value"] else 1.0
    then, now = (f"{r['value']:.6g} {r['unit']}" for r in (old, new))
    verdict = WORSE if factor > EXACT else BETTER if factor < 1 / EXACT else SAME
    return Change(_name(new), then, now, factor, verdict)


def _of_time(
    then: Records, now: Records, r: record.Record, outside: Sequence[str], noise: float
) -> Change:
    olds, news = ([ratio(g, r["backend"], unit) for unit in outside] for g in (then, now))
    pairs = list(zip(olds, news, strict=True))
    factor = math.exp(sum(math.log(new.value / old.value) for old, new in pairs) / len(pairs))
    verdict = SAME
    if factor > noise and all(new.low > old.high for old, new in pairs):
        verdict = WORSE
    elif factor < 1 / noise and all(new.high < old.low for old, new in pairs):
        verdict = BETTER
    before, after = (
        ", ".join(
            f"{record.number(one.value)} {unit}" for one, unit in zip(side, outside, strict=True)
        )
        for side in (olds, news)
    )
    return Change(_name(r), before, after, factor, verdict)


def _times(group: Records) -> Group:
    return {r["backend"]: r for r in group if r["metric"] == "time"}


def _outside(then: Records, now: Records) -> list[str]:
    """Backends timed in both runs whose code is not ours."""
    found = _times(now)
    return [b for b in _times(then) if b in found and not b.startswith(OURS)]


def _moves(then: Records, now: Records) -> Iterable[float]:
    """|log| of the changes of the ratios of outside backends to each other."""
    for a, b in itertools.combinations(_outside(then, now), 2):
        yield abs(math.log(ratio(now, a, b).value / ratio(then, a, b).value))


def ratio(group: Records, backend: str, unit: str) -> Ratio:
    """Time of a backend by that of another in the records of one case.

    With the bootstrap interval where a record of the two has one, else from upper by lower
    quartiles, which is wider.
    """
    for r in group:
        if r.get("backend") == backend and "low" in r:
            if _names(r, "time by", unit):
                return Ratio(r["value"], r["low"], r["high"])
            if _names(r, "times faster than", unit):
                return Ratio(1 / r["value"], 1 / r["high"], 1 / r["low"])
    times = _times(group)
    top, bottom = times[backend], times[unit]
    low, high = (top["spread"][a] / bottom["spread"][b] for a, b in (("q1", "q3"), ("q3", "q1")))
    return Ratio(top["value"] / bottom["value"], low, high)


def _names(r: record.Record, words: str, unit: str) -> bool:
    """Such as "time by timm's resnet50" for timm, which "time by timmer" is not."""
    name = f"{words} {unit}"
    return r["metric"] == name or r["metric"].startswith(f"{name}'")


def _name(r: record.Record) -> str:
    words = [str(r[key]) for key in ("op", "model", "corruption", "pass") if key in r]
    words += [f"{r['variable']} {r['size']}"] if "variable" in r else []
    words += ["x".join(map(str, r["shape"]))] if "shape" in r else []
    words += [str(r[key]) for key in ("dtype", "format") if key in r]
    words += [r["launch"]] if r.get("launch") == "graph" else []
    metric = "" if r["metric"] == "time" else f", {r['metric']}"
    return f"{' '.join(words)}: {r['backend']}{metric}"
