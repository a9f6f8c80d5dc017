import math
import platform
import subprocess
import sys
import time

import numpy as np
import pytest

from ibnvision.benchmark import measure


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.302653), (4, 2.776445), (30, 2.042272)]
)
def test_t_quantile_matches_the_published_table(degrees, expected):
    assert measure.t_quantile(degrees) == pytest.approx(expected, rel=1e-4)


def test_t_test_is_the_interval_s_other_side():
    # at 4 degrees t = 2.776445 leaves 5 % in both tails, 4.604095 1 %
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])  # standard error sqrt(2.5 / 5)
    for t, p in ((2.776445, 0.05), (4.604095, 0.01), (-2.776445, 0.05), (0.0, 1.0)):
        assert measure.t_test(list(values + t * math.sqrt(0.5))) == pytest.approx(p, rel=1e-4)
    assert measure.t_test([1.0, 2.0]) is None
    assert measure.t_test([2.0, 2.0, 2.0]) == 0.0 and measure.t_test([0.0, 0.0, 0.0]) == 1.0


def test_t_interval_by_hand():
    # mean 2, sample deviation 1, three values: 2 -+ 4.302653 / sqrt(3)
    low, high = measure.t_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), rel=1e-4)
    assert measure.t_interval([1.0, 2.0]) is None


def test_mean_std_is_the_population_deviation():
    assert measure.mean_std([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) == (5.0, 2.0)


def test_geometric_mean_and_spread():
    assert measure.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert math.isnan(measure.geometric_mean([]))
    assert measure.spread([4.0, 0.0, 1.0, 2.0, 3.0]) == {"min": 0, "q1": 1, "q3": 3, "max": 4}


def test_bootstrap_keeps_the_pairs():
    """A load that slows both of a pair cancels in the ratio, so the interval has no width."""
    bottom = np.array([1.0, 5.0, 2.0, 9.0, 3.0])
    low, high = measure.bootstrap(lambda a, b: float(np.median(a / b)), 2 * bottom, bottom)
    assert (low, high) == (2.0, 2.0)


def test_bootstrap_of_a_mean_covers_it():
    values = np.random.default_rng(0).normal(10.0, 1.0, 50)
    low, high = measure.bootstrap(lambda a: float(a.mean()), values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(50), rel=0.15)


def test_interleave_runs_all_in_every_repetition_and_tells_them_apart():
    order = []

    def work(name, seconds):
        order.append(name)
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    calls = {"slow": lambda: work("slow", 8e-3), "fast": lambda: work("fast", 2e-3)}
    samples = measure.interleave(calls, 6, at_least_s=0, warmup=0)
    assert samples["slow"].shape == (6, 2)
    repetitions = [order[i : i + 4] for i in range(2, 26, 4)]  # each runs once before it is timed
    assert all(a == b and c == d and {a, c} == {"slow", "fast"} for a, b, c, d in repetitions)
    assert np.median(samples["slow"][:, measure.CPU]) == pytest.approx(8e-3, rel=0.2)
    assert np.median(samples["fast"][:, measure.CPU]) == pytest.approx(2e-3, rel=0.2)


def test_a_long_call_is_not_warmed_up_before_each_sample(monkeypatch):
    counts, clock = {"long": 0, "short": 0}, [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def work(name, seconds):
        counts[name] += 1
        clock[0] += seconds

    calls = {"long": lambda: work("long", 2.1), "short": lambda: work("short", 1.9)}
    measure.interleave(calls, 3, at_least_s=0, warmup=1)
    assert counts == {"long": 2 + 3, "short": 2 + 6}


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_kept_memory_is_not_faulted_in_again():
    """64 MiB written forty times; how often the heap grows before it serves all is chance."""
    code = """
import resource, sys, torch
from ibnvision.benchmark import measure
assert sys.argv[1] == "default" or measure.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
found = []
for _ in range(40):
    before = faults()
    torch.ones(2**24)
    found.append(faults() - before)
print(min(found))
"""
    least = {
        heap: int(subprocess.check_output([sys.executable, "-P", "-c", code, heap], text=True))
        for heap in ("kept", "default")
    }
    # 16384 pages of 4 KiB or, with huge pages, 32: by default every write faults all of them in
    assert 2 * least["kept"] < 32 <= least["default"]
