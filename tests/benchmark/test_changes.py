import pytest

from ibnvision.benchmark import changes
from ibnvision.benchmark.changes import BETTER, SAME, WORSE

HERE = {"device": "a processor", "cache_bytes": 2**25, "torch": "2", "threads": 1, "heap": "kept"}


def time_of(backend, ms, *, run="a", width=0.02, **other):
    """A time whose quartiles lie `width` of it apart."""
    head = {"bench": "ops", "run": run, "quick": False, "op": "ibn_norm", "pass": "eval"} | HERE
    spread = {"q1": ms * (1 - width / 2), "q3": ms * (1 + width / 2)}
    fields = {"shape": [8, 64, 56, 56], "dtype": "fp32", "format": "nchw", "metric": "time"}
    return head | fields | {"backend": backend, "value": ms, "unit": "ms", "spread": spread} | other


def run_of(kernel, eager=20.0, copy=1.0, **other):
    times = {"kernel": kernel, "eager": eager, "copy": copy}
    return [time_of(backend, ms, **other) for backend, ms in times.items()]


def verdicts(then, now):
    return [c.verdict for c in changes.compare(then, now).changes]


def test_a_planted_regression_and_a_gain_are_found_on_a_machine_at_half_its_speed():
    (found,) = changes.compare(run_of(2.0), run_of(2 * 2.4, 40.0, 2.0)).changes
    assert found.verdict == WORSE and found.factor == pytest.approx(1.2)
    assert found.name == "ibn_norm eval 8x64x56x56 fp32 nchw: kernel"
    assert (found.then, found.now) == ("0.1 eager, 2 copy", "0.12 eager, 2.4 copy")
    assert verdicts(run_of(2.0), run_of(2 * 1.6, 40.0, 2.0)) == [BETTER]


def test_a_slower_machine_alone_changes_nothing():
    (found,) = changes.compare(run_of(2.0), run_of(6.0, 60.0, 3.0)).changes
    assert found.verdict == SAME and found.factor == pytest.approx(1.0)


@pytest.mark.parametrize("kernel, verdict", [(2.4, SAME), (3.2, WORSE)])
def test_within_the_recorded_quartiles_nothing_is_called_a_change(kernel, verdict):
    assert verdicts(run_of(2.0, width=0.2), run_of(kernel, width=0.2)) == [verdict]


def test_a_change_below_the_least_is_none_however_narrow_the_quartiles():
    assert verdicts(run_of(2.0, width=0.0), run_of(2.08, width=0.0)) == [SAME]


def test_the_control_hides_what_is_no_larger_than_what_others_moved_by():
    """Eager by copy moved by 1.3 elsewhere, so 1.2 of ours may be as much noise."""
    then, now = run_of(2.0), run_of(2.4)
    quiet = changes.compare(then, now)
    assert quiet.control == pytest.approx(1.0) and quiet.changes[0].verdict == WORSE
    other = {"shape": [8, 512, 14, 14]}
    moved = changes.compare(then + run_of(2.0, **other), now + run_of(2.3, 26.0, **other))
    assert moved.control == pytest.approx(1.3)
    assert [c.verdict for c in moved.changes] == [SAME, SAME]


def test_the_intervals_must_lie_apart_by_every_outside_backend():
    """By eager and copy the kernel is 1.3 times slower; the times of compiled say nothing."""
    sides = [run_of(kernel) for kernel in (2.0, 2.6)]
    assert verdicts(*sides) == [WORSE]
    assert verdicts(*(side + [time_of("compiled", 10.0, width=0.6)] for side in sides)) == [SAME]


def test_a_unit_that_moved_alone_is_no_change_of_ours():
    """By copy the kernel is 1.5 times slower, by eager it is not."""
    assert verdicts(run_of(2.0), run_of(3.0, 30.0)) == [SAME]


def test_our_own_fallback_is_no_yardstick():
    """Else a fallback that got faster would make a regression of the kernel."""
    then, now = ([time_of("kernel", 2.0), time_of("fallback", f)] for f in (20.0, 10.0))
    found = changes.compare(then, now)
    assert found.changes == [] and len(found.unjudged) == 2 and found.control is None
    then, now = ([*run_of(2.0), time_of("fallback", f)] for f in (20.0, 10.0))
    assert verdicts(then, now) == [SAME, BETTER]


def test_the_recorded_bootstrap_of_a_ratio_goes_before_quartiles():
    """Quartiles that are wide as the machine was busy, and a ratio that is sharp all the same."""
    sharp = {"metric": "times faster than plain", "unit": "x"}
    sides = []
    for ms, value in ((2.0, 4.0), (2.4, 4 / 1.2)):
        pair = [time_of("kernel", ms, width=0.9), time_of("plain", 8.0, width=0.9)]
        interval = {"value": value, "low": 0.98 * value, "high": 1.02 * value}
        sides.append(pair + [time_of("kernel", 0.0) | sharp | interval])
    (found,) = changes.compare(*sides).changes
    assert found.verdict == WORSE and found.factor == pytest.approx(1.2)
    assert verdicts(*(side[:2] for side in sides)) == [SAME]
    assert changes.ratio(sides[0], "kernel", "plain").high == pytest.approx(0.25 / 0.98)


def test_a_ratio_is_found_by_the_name_of_its_rival():
    interval = {"unit": "x", "value": 1.5, "low": 1.4, "high": 1.6}
    group = [time_of("kernel", 2.0), time_of("timm", 2.0), time_of("timm fast", 2.0)]
    group += [time_of("kernel", 0.0) | {"metric": "time by timm's resnet50"} | interval]
    assert changes.ratio(group, "kernel", "timm") == changes.Ratio(1.5, 1.4, 1.6)
    assert changes.ratio(group, "kernel", "timm fast").value == 1.0


def test_counted_bytes_compare_as_they_are():
    def kept(value, backend="kernel"):
        return [time_of(backend, value) | {"metric": "kept", "unit": "bytes", "pass": "norm"}]

    assert verdicts(kept(1000), kept(1020)) == [WORSE]
    assert verdicts(kept(1000), kept(980)) == [BETTER]
    assert verdicts(kept(1000), kept(1000)) == [SAME]
    assert verdicts(kept(1000, "eager"), kept(2000, "eager")) == []


def test_what_one_run_lacks_is_listed_a_lost_kernel_too():
    then = run_of(2.0) + [time_of("kernel", 2.0, op="conv3x3")]
    now = [*run_of(2.0)[1:], time_of("fallback", 20.0)]
    found = changes.compare(then, now)
    assert found.changes == []
    assert sorted(found.only_then) == [
        "conv3x3 eval 8x64x56x56 fp32 nchw: kernel",
        "ibn_norm eval 8x64x56x56 fp32 nchw: kernel",
    ]
    assert found.only_now == ["ibn_norm eval 8x64x56x56 fp32 nchw: fallback"]


@pytest.mark.parametrize(
    "key, value", [("device", "another"), ("torch", "3"), ("threads", 2), ("heap", None)]
)
def test_other_conditions_are_refused_by_name(key, value):
    found = changes.compare(run_of(2.0, **{key: value}), run_of(9.0))
    assert found.changes == [] and found.only_then == found.only_now == []
    assert found.refused == [f"{key} was {value!r}, is {HERE[key]!r}"]


@pytest.mark.parametrize("other", [{"dtype": "bf16"}, {"format": "channels_last"}, {"shape": [1]}])
def test_another_dtype_format_or_shape_is_another_case(other):
    found = changes.compare(run_of(2.0, **other), run_of(9.0))
    assert found.changes == [] and len(found.only_then) == len(found.only_now) == 1


def test_the_newest_run_of_a_case_counts_and_its_backends_are_not_mixed():
    then = run_of(4.0, run="b") + run_of(2.0, run="a") + [time_of("compiled", 1.0, run="a")]
    now = run_of(4.0, run="c") + [time_of("compiled", 9.0, run="c")]
    (found,) = changes.compare(then, now).changes
    assert found.verdict == SAME and found.then == "0.2 eager, 4 copy"
