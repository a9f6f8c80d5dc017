"""How the project's bars read their numbers from one run's records; NaN where it holds none."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import detection_scores, measure, record
from .lambda_converter import FAILED
from .op_rows import OPS, TIMED

Records = Sequence[record.Record]
SAME = 1e-5  # relative difference of features that are called the same
OP = "ibn_norm"  # the operator whose speed most bars judge


def _ratios(records: Records, top: str, bottom: str, **where: Any) -> dict[tuple, float]:
    """(dtype, format, launch, shape) -> time of `top` by that of `bottom`, in the cases with both.

    records: times; those that match `where` count. Of a run on a GPU nothing unless every case has
    both: a compiler may have been cut off.
    """
    cases: dict[tuple, dict[str, float]] = {}
    for r in records:
        if all(r[key] == value for key, value in where.items()):
            key = (r["dtype"], r["format"], r["launch"], tuple(r["shape"]))
            cases.setdefault(key, {})[r["backend"]] = r["value"]
    both = {k: v[top] / v[bottom] for k, v in cases.items() if {top, bottom} <= set(v)}
    partial = len(both) < sum(bottom in v for v in cases.values())
    return {} if partial and records[0]["device_type"] == "cuda" else both


def _times(records: Records, device: str, op: str = OP) -> Records:
    """The times of an operator; of a run on a GPU, which ends at its limit, only of a whole one."""
    found = _matching(_judged(records, device, op), "time", {})
    asked = itertools.product(TIMED[device], OPS[op].formats, OPS[op].cuda_shapes)
    whole = set(asked) <= {(r["dtype"], r["format"], tuple(r["shape"])) for r in found}
    return found if whole or device != "cuda" else []


def faster(
    top: str, bottom: str, device: str, op: str = OP, **where: Any
) -> Callable[[Records], float]:
    """How many times faster `bottom` is: geometric mean over shapes, the least over all else.

    On the CPU it counts one thread only.
    """

    def value(records: Records) -> float:
        groups: dict[tuple, list[float]] = {}
        for key, ratio in _ratios(_times(records, device, op), top, bottom, **where).items():
            groups.setdefault(key[:3], []).append(ratio)
        return min(map(measure.geometric_mean, groups.values()), default=math.nan)

    return value


def least(
    top: str, bottom: str, device: str, op: str = OP, **where: Any
) -> Callable[[Records], float]:
    """As `faster`, but the least single case."""
    return lambda records: min(
        _ratios(_times(records, device, op), top, bottom, **where).values(), default=math.nan
    )


def copies(form: str) -> Callable[[Records], float]:
    """The kernel's training forward in copies, the most over tensors larger than the cache."""

    def value(records: Records) -> float:
        judged = [r for r in _times(records, "cpu") if exceeds_cache(r)]
        found = _ratios(judged, "kernel", "copy", format=form, **{"pass": "forward"})
        return max(found.values(), default=math.nan)

    return value


def bandwidth(records: Records) -> float:
    """Least share of the copy bandwidth, in percent, above the cache, by CUDA-graph replay."""
    shares = []
    judged = [r for r in _times(records, "cuda") if exceeds_cache(r)]
    for name in ("forward", "forward+backward"):
        traffic = OPS[OP].traffic[name]
        found = _ratios(judged, "copy", "kernel", launch="graph", **{"pass": name})
        shares += [100 * traffic / 2 * ratio for ratio in found.values()]
    return min(shares, default=math.nan)


def exceeds_cache(r: record.Record) -> bool:
    """Whether the record's tensor is larger than the last-level cache of its device."""
    size = {"fp32": 4, "fp16": 2, "bf16": 2}[r["dtype"]] * math.prod(r["shape"])
    return size > r["cache_bytes"]


def kept(records: Records) -> float:
    """Bytes kept for the backward, kernel by eager, the most over all cases."""
    cases: dict[tuple, dict[str, float]] = {}
    for r in records:
        if r["metric"] == "kept" and r["op"] == OP and r["device_type"] == "cpu":
            key = (r["dtype"], r["format"], r["pass"], tuple(r["shape"]))
            cases.setdefault(key, {})[r["backend"]] = r["value"]
    both = [v["kernel"] / v["eager"] for v in cases.values() if {"kernel", "eager"} <= set(v)]
    return max(both, default=math.nan)


@dataclass(frozen=True)
class Stored:
    """A recorded number: of the records of a metric the least value, or the most.

    device: of which type, on a CPU of one thread and fp32 only; None: any. where: fields and their
    values.
    """

    metric: str
    device: str | None
    where: dict[str, Any]
    choose: Callable[..., record.Record] = min

    def __call__(self, records: Records) -> float:
        return float(found["value"]) if (found := self.record(records)) else math.nan

    def record(self, records: Records) -> record.Record | None:
        """The record that holds the number."""
        judged = records if self.device is None else _judged(records, self.device)
        found = _matching(judged, self.metric, self.where)
        return self.choose(found, key=lambda r: r["value"]) if found else None


def stored(metric: str, device: str | None = None, **where: Any) -> Stored:
    """The value of the one record with this metric; the least where several match."""
    return Stored(metric, device, where)


def most(metric: str, device: str | None = None, **where: Any) -> Stored:
    """As `stored`, but the most."""
    return Stored(metric, device, where, max)


def fewest(metric: str, row: str | None = None, **where: Any) -> Callable[[Records], float]:
    """How many seeds or repetitions stand behind the records of a metric, at the least.

    row: only of a run that holds this one.
    """

    def value(records: Records) -> float:
        found = _matching(records, metric, where)
        whole = row is None or any(r["model"] == row for r in found)
        return min((r["n"] for r in found), default=math.nan) if whole else math.nan

    return value


def _matching(records: Records, metric: str, where: dict[str, Any]) -> list[record.Record]:
    return [
        r for r in records if r["metric"] == metric and all(r.get(k) == v for k, v in where.items())
    ]


def _judged(records: Records, device: str, op: str = OP) -> Records:
    return [
        r
        for r in records
        if r["device_type"] == device
        and (device == "cuda" or (r["threads"] == 1 and r.get("dtype", "fp32") == "fp32"))
        and r.get("op", op) == op
    ]


def unconverged(records: Records) -> float:
    """How many detectors count for nothing."""
    rows = {r["model"]: r["not_converged"] for r in records if r["metric"] == detection_scores.AP50}
    return float(sum(map(bool, rows.values()))) if rows else math.nan


def converted(records: Records) -> float:
    """How many networks have the features of before when a window covers their grid."""
    found = _matching(records, "difference", {"window": "whole"})
    return float(sum(r["value"] <= SAME for r in found)) if found else math.nan


def unexplained(records: Records) -> float:
    """How many names of transformers end in an error that is no refusal."""
    found = [r for r in records if r["metric"] == "models"]
    lost = [r["value"] for r in found if r["outcome"] == FAILED]
    return float(sum(lost)) if found else math.nan


def slowest_step(records: Records) -> float:
    """CPU training step on one thread, times the fallback: the least of all sizes."""
    cases: dict[tuple, dict[str, float]] = {}
    judged = [r for r in records if r["device_type"] == "cpu" and r["threads"] == 1]
    for r in _matching(judged, "time", {"pass": "training step"}):
        if r["variable"] != "threads":
            cases.setdefault((r["variable"], r["size"]), {})[r["backend"]] = r["value"]
    both = [v["fallback"] / v["kernel"] for v in cases.values() if {"fallback", "kernel"} <= set(v)]
    return min(both, default=math.nan)
