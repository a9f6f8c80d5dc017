import itertools

import pytest

from ibnvision.benchmark import findings, targets
from ibnvision.benchmark.op_rows import OPS, TIMED

SHARED = {
    "bench": "ops", "op": "ibn_norm", "quick": False, "device_type": "cpu", "threads": 1,
    "device": "a processor",
    "cache_bytes": 32 * 2**20, "dtype": "fp32", "launch": "launches", "metric": "time",
    "command": "ibnvision benchmark ops", "date": "2030-01-01T00:00:00", "commit": "abc",
}  # fmt: skip
GATE = "content_guided_attention"
SMALL, LARGE = [8, 64, 56, 56], [2, 256, 128, 256]


def times(run, values, shape=SMALL, form="nchw", name="forward", **more):
    return [
        SHARED
        | {"run": run, "shape": shape, "format": form, "pass": name, "backend": b, "value": v}
        | more
        for b, v in values.items()
    ]


def on_gpu(run, values, op="ibn_norm", **more):
    """Times of every case of an operator that a whole run on a GPU has."""
    made = itertools.product(OPS[op].cuda_shapes, OPS[op].formats, TIMED["cuda"])
    more |= {"device_type": "cuda", "op": op}
    return [
        record
        for shape, form, dtype in made
        for record in times(run, values, list(shape), form, dtype=dtype, **more)
    ]


def found(records):
    return {f.target.text: f for f in findings.judge(records) if f}


def test_speed_is_a_geometric_mean_over_shapes():
    records = times("1", {"kernel": 1.0, "eager": 4.0, "compiled": 2.0})
    records += times("1", {"kernel": 1.0, "eager": 16.0, "compiled": 1.2}, LARGE)
    got = found(records)
    assert got["CPU forward, nchw: times eager, geometric mean"].value == pytest.approx(8.0)
    assert got["CPU forward, nchw: times eager, geometric mean"].met  # the bar is 6
    worst = got["CPU forward, nchw: times compiled, worst shape"]
    assert worst.value == pytest.approx(1.2) and not worst.met  # the bar is 1.3


def test_copies_count_only_tensors_larger_than_the_cache():
    records = times("1", {"kernel": 9.0, "copy": 1.0})
    text = "CPU forward, nchw: copies, tensor larger than the cache"
    assert text not in found(records)
    records += times("1", {"kernel": 1.3, "copy": 1.0}, LARGE)
    assert found(records)[text].value == pytest.approx(1.3) and found(records)[text].met


def test_quick_runs_and_other_thread_counts_decide_nothing():
    values = {"kernel": 1.0, "eager": 9.0}
    assert not found(times("1", values, quick=True))
    assert not found(times("1", values, threads=2))


def test_a_setting_of_its_own_decides_nothing():
    run = {"bench": "generalization", "run": "a", "quick": False, "device_type": "cpu"}
    run |= {"threads": 1, "metric": "whole benchmark", "value": 1.0, "n": 1}
    assert any(findings.judge([run]))
    assert not any(findings.judge([run | {"setting": "camvid_day"}]))


def test_the_newest_run_counts():
    records = times("20300101", {"kernel": 1.0, "eager": 9.0})
    records += times("20300102", {"kernel": 1.0, "eager": 3.0})
    assert found(records)["CPU forward, nchw: times eager, geometric mean"].value == pytest.approx(
        3
    )


def test_other_operators_do_not_move_the_bars():
    records = times("1", {"kernel": 1.0, "eager": 9.0})
    records += times("1", {"kernel": 9.0, "eager": 1.0}, LARGE, op="detail_conv")
    got = found(records)["CPU forward, nchw: times eager, geometric mean"]
    assert got.value == pytest.approx(9.0)


def test_kept_bytes_take_the_worst_case():
    def kept(part, kernel, eager):
        values = {"kernel": kernel, "eager": eager}
        rows = times("1", values, name=part, metric="kept")
        return rows

    records = kept("norm+act", 10, 20) + kept("norm+residual+act", 12, 20)
    finding = found(records)["kept for the backward, share of eager's, worst"]
    assert finding.value == pytest.approx(0.6) and not finding.met


def test_bandwidth_counts_the_traffic_of_half_instance_channels():
    """Forward moves 2.5 tensors, a copy 2: a kernel of 1.25 copies runs at its bandwidth."""
    shared = {"launch": "graph", "cache_bytes": 50 * 2**20}
    records = on_gpu("1", {"kernel": 1.25, "copy": 1.0}, **shared)
    records += on_gpu("1", {"kernel": 6.5, "copy": 1.0}, **shared, name="forward+backward")
    got = found(records)["GPU share of copy bandwidth above the L2, worst"]
    assert got.value == pytest.approx(50.0) and not got.met


def test_full_table_lists_every_target_and_its_source():
    text = findings.full_table(times("1", {"kernel": 1.0, "eager": 9.0}))
    assert len(text.splitlines()) == 2 + len(targets.TARGETS)
    line = next(x for x in text.splitlines() if "CPU forward, nchw: times eager" in x)
    assert "| met |" in " ".join(line.split()) and "abc" in line and "2030-01-01" in line
    assert text.count("not measured") == len(targets.TARGETS) - 1


def test_a_run_on_a_gpu_that_lacks_a_case_decides_nothing():
    text, op = "GPU content_guided_attention forward, least: times eager", OPS[GATE]
    whole = on_gpu("1", {"kernel": 1.0, "eager": 4.0}, GATE)
    assert found(whole)[text].value == pytest.approx(4.0)
    assert len(whole) == 2 * len(op.cuda_shapes) * len(op.formats) * 2  # backends, dtypes
    assert text not in found(whole[:-2])  # the limit came before the last case
    assert text not in found(whole[:1] + whole[2:])  # or before a rival's


def test_numbers_of_other_dtypes_and_devices_do_not_move_the_bars_of_the_cpu():
    records = times("1", {"kernel": 1.0, "eager": 9.0})
    records += times("1", {"kernel": 9.0, "eager": 9.0}, dtype="bf16")
    records += times("1", {"kernel": 9.0, "eager": 9.0}, metric="kept", device_type="cuda")
    (got,) = found(records).values()
    assert got.value == pytest.approx(9.0)


def test_an_interval_stands_beside_its_value():
    more = {"bench": "models", "format": "nchw", "metric": "recovered", "low": 50.0, "high": 70.6}
    record = SHARED | {"run": "1", "value": 64.0} | more
    (got,) = found([record]).values()
    assert got.interval == (50.0, 70.6) and not got.met
    assert "64 (50 to 70.6)" in findings.full_table([record])
    assert "64 (50 to 70.6)" in findings.verdict([record])


def test_a_study_has_the_fewest_seeds_of_its_rows():
    head = SHARED | {"run": "1", "bench": "generalization", "metric": "miou"}
    head |= {"backbone": "resnet18"}
    rows = {"BN": 5, "IBN-a": 3, "ISW": 5}
    records = [head | {"model": name, "n": n, "value": 40.0} for name, n in rows.items()]
    assert not found(records[:2])  # the demo is no study
    (got,) = found(records).values()
    assert got.value == 3 and not got.met and got.target.bar == 5


def test_rows_that_do_not_count_are_counted():
    head = SHARED | {"run": "1", "bench": "detection", "metric": "ap50", "n": 5}
    rows = [("a", "source", 70.0, ""), ("a", "fog", 20.0, ""), ("b", "source", 41.0, "lost")]
    records = [
        head | {"model": name, "column": column, "value": value, "not_converged": why}
        for name, column, value, why in rows
    ]
    got = found(records)
    assert got["AP50 on the source, the least row"].value == 41.0
    text = "rows that do not count: lost at home, or no target at 10 to 90 % of it"
    assert got[text].value == 1 and not got[text].met


def test_nothing_may_be_slower_than_the_fallback_at_any_size():
    head = SHARED | {"run": "1", "bench": "scaling", "pass": "training step"}
    cases = {("batch", 1): (2.0, 1.8), ("batch", 2): (1.0, 1.5), ("width", 1): (1.0, 1.2)}
    cases[("threads", 2)] = 2.0, 1.0  # two cores are shared with whatever else runs
    records = [
        head | {"variable": variable, "size": size, "backend": backend, "value": value}
        for (variable, size), both in cases.items()
        for backend, value in zip(("kernel", "fallback"), both, strict=True)
    ]
    assert not found([r | {"device_type": "cuda"} for r in records])
    (got,) = found(records).values()
    assert got.value == pytest.approx(0.9) and not got.met


def test_networks_that_a_conversion_changes_do_not_count():
    head = SHARED | {"run": "1", "bench": "lambda_converter", "metric": "difference"}
    values = {"a": 1e-6, "b": 2e-5, "c": 0.0}
    records = [head | {"model": m, "window": "whole", "value": v} for m, v in values.items()]
    records.append(head | {"model": "a", "window": "5", "value": 0.3})
    got = found(records)
    assert got["window over the grid against SDPA, the most"].value == 2e-5
    assert got["timm networks that stay within it"].value == 2


def test_names_without_an_answer_are_counted():
    head = SHARED | {"run": "1", "bench": "lambda_converter", "metric": "models"}
    outcomes = [("served", "", 9), ("refused", "no attention", 4), ("failed", "KeyError: 1", 2)]
    records = [head | {"outcome": o, "reason": why, "value": n} for o, why, n in outcomes]
    (got,) = found(records).values()
    assert got.value == 2 and not got.met
