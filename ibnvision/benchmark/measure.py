"""Interleaved timing and the statistics of what was timed, in numpy."""

import contextlib
import ctypes
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Call = Callable[[], object]
WALL, CPU = 0, 1  # columns of a sample
LONG_S = 2.0
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc, malloc.h


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory mapped, for the rest of the process; whether it will.

    By default glibc maps every large block anew and trims its heap: the next call pays for page
    faults, or not, by luck. PyTorch's performance guide advises a caching allocator on CPUs for
    this reason. Only glibc can be told; elsewhere nothing changes. CUDA memory is not touched.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no C library by that name, or no glibc
        return False
    # no block of its own mapping, and never a trimmed heap
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Have torch compute with so many CPU threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def add_compiled(
    name: str, make: Callable[[], Call], calls: dict[str, Call], skipped: dict[str, str]
) -> None:
    """Put a call that a compiler has to prepare among `calls`, run once, or why not in `skipped`.

    A compiler that is missing or fails must not end the other calls.
    """
    torch._dynamo.reset()
    call = make()
    try:
        call()
    except Exception as error:
        words = str(error).strip().splitlines() or [""]
        skipped[name] = f"{type(error).__name__}: {words[0]}"
    else:
        calls[name] = call


def interleave(
    backends: Mapping[str, Call],
    repeats: int,
    *,
    at_least_s: float = 0.004,
    warmup: int = 2,
    seed: int = 0,
) -> dict[str, Array]:
    """Time every backend `repeats` times; each repetition runs all of them once, in shuffled order.

    A load on the machine that comes and goes then falls on all of them alike. A sample repeats a
    short call until `at_least_s` seconds have passed and holds seconds per call; one untimed call
    goes before it, so that caches and the allocator are as this backend leaves them, not the last.
    A call of more than LONG_S seconds is its own warming up.

    Returns: name -> [repeats, 2], the columns wall time and CPU time of the whole process.
    """
    calls, long = {}, set()
    for name, call in backends.items():
        for _ in range(warmup):
            call()
        start = time.perf_counter()
        call()
        once = max(time.perf_counter() - start, 1e-7)
        calls[name] = max(1, min(1000, math.ceil(at_least_s / once)))
        if once > LONG_S:
            long.add(name)
    samples = {name: np.empty((repeats, 2)) for name in backends}
    order, shuffle = list(backends), random.Random(seed)
    for repeat in range(repeats):
        shuffle.shuffle(order)
        for name in order:
            call, count = backends[name], calls[name]
            if name not in long:
                call()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                call()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            samples[name][repeat] = wall / count, cpu / count
    return samples


def interleave_cuda(
    backends: Mapping[str, Call],
    repeats: int,
    *,
    at_least_s: float = 0.002,
    warmup: int = 3,
    seed: int = 0,
) -> dict[str, Array]:
    """As `interleave`, by CUDA events on the current stream: name -> [repeats], seconds a call."""

    def timed(call: Call, count: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / count

    calls = {}
    for name, call in backends.items():
        for _ in range(warmup):
            call()
        torch.cuda.synchronize()
        calls[name] = max(1, min(1000, math.ceil(at_least_s / max(timed(call, 1), 1e-7))))
    samples = {name: np.empty(repeats) for name in backends}
    order, shuffle = list(backends), random.Random(seed)
    for repeat in range(repeats):
        shuffle.shuffle(order)
        for name in order:
            samples[name][repeat] = timed(backends[name], calls[name])
    return samples


def clocked(
    backends: Mapping[str, Call], repeats: int, device: str, threads: int, warmup: int = 2
) -> tuple[dict[str, Array], dict[str, Array], str]:
    """Interleaved seconds a call by the clock that judges, wall seconds, and the clock's name.

    The clock is CUDA's events, else with one CPU thread the process's CPU time, else wall time.
    """
    if device == "cuda":
        events = interleave_cuda(backends, repeats, warmup=max(warmup, 3))
        return events, events, "CUDA events"
    both = interleave(backends, repeats, warmup=warmup)
    wall = {name: sample[:, WALL] for name, sample in both.items()}
    if threads > 1:
        return wall, wall, "wall time"
    return {name: sample[:, CPU] for name, sample in both.items()}, wall, "process CPU time"


def spread(values: Sequence[float] | Array) -> dict[str, float]:
    """{min, q1, q3, max} of values."""
    low, q1, q3, high = np.quantile(np.asarray(values, float), [0, 0.25, 0.75, 1]).tolist()
    return {"min": low, "q1": q1, "q3": q3, "max": high}


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values; NaN of none."""
    return float(np.exp(np.mean(np.log(values)))) if len(values) else math.nan


def bootstrap(
    statistic: Callable[..., float],
    *samples: Array,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of statistic(*samples), redrawing repetitions, the same of every sample.

    samples: arrays of one length, whose entry i was taken in repetition i.
    """
    rng = np.random.default_rng(seed)
    count = len(samples[0])
    picks = rng.integers(0, count, (draws, count))
    values = [statistic(*(sample[pick] for sample in samples)) for pick in picks]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_ratio(top: Array, bottom: Array) -> float:
    """Median over repetitions of top by bottom."""
    return float(np.median(top / bottom))


def derived(
    samples: Mapping[str, Array],
    asked: Iterable[tuple[str, str, Callable[..., float], tuple[str, ...]]],
) -> list[dict[str, Any]]:
    """Fields of records: statistic(samples of the names) with its bootstrap interval.

    asked: metric, unit, statistic, names. Left out where a name is missing or a number not finite.
    """
    fields = []
    for metric, unit, statistic, names in asked:
        if not set(names) <= set(samples):
            continue
        taken = [samples[name] for name in names]
        value = statistic(*taken)
        low, high = bootstrap(statistic, *taken)
        if all(map(math.isfinite, (value, low, high))):
            fields.append(
                {"metric": metric, "value": value, "unit": unit, "low": low, "high": high}
            )
    return fields


@lru_cache
def _student(degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Angles u, and the share of Student's t between -t and t for t = sqrt(degrees) tan(u)."""
    u = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(u) ** (degrees - 1)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return u, mass / mass[-1]


def t_quantile(degrees: int, probability: float = 0.975) -> float:
    """Quantile of Student's t, probability in (0.5, 1)."""
    u, share = _student(degrees)
    return float(math.sqrt(degrees) * math.tan(np.interp(probability, 0.5 + share / 2, u)))


def t_test(values: Sequence[float]) -> float | None:
    """Two-sided p of Student's t test that the mean is 0; None below three values."""
    count = len(values)
    if count < 3:
        return None
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    mean = float(np.mean(values))
    if error == 0:
        return 0.0 if mean else 1.0
    u, share = _student(count - 1)
    return float(1 - np.interp(math.atan(abs(mean) / error / math.sqrt(count - 1)), u, share))


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation, the convention of the published tables."""
    return float(np.mean(values)), float(np.std(values))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean; None below three values, where it says nothing."""
    count = len(values)
    if count < 3:
        return None
    half = t_quantile(count - 1, (1 + level) / 2) * float(np.std(values, ddof=1)) / math.sqrt(count)
    mean = float(np.mean(values))
    return mean - half, mean + half


def cell(values: Mapping[int, float]) -> dict[str, Any]:
    """Mean, population deviation, count, values by seed, and from three seeds the interval."""
    plain = list(values.values())
    mean, std = mean_std(plain)
    found: dict[str, Any] = {"value": mean, "std": std, "n": len(plain)}
    found["values"] = {str(seed): value for seed, value in values.items()}
    interval = t_interval(plain)
    return found | (dict(zip(("low", "high"), interval, strict=True)) if interval else {})
