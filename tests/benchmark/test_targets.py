import pytest

from ibnvision.benchmark import targets

SHARED = {
    "bench": "ops", "op": "ibn_norm", "quick": False, "device_type": "cpu", "threads": 1,
    "device": "a processor",
    "cache_bytes": 32 * 2**20, "dtype": "fp32", "launch": "launches", "metric": "time",
    "command": "ibnvision benchmark ops", "date": "2030-01-01T00:00:00", "commit": "abc",
}  # fmt: skip
SMALL, LARGE = [8, 64, 56, 56], [2, 256, 128, 256]


def times(run, values, shape=SMALL, form="nchw", name="forward", **more):
    return [
        SHARED
        | {"run": run, "shape": shape, "format": form, "pass": name, "backend": b, "value": v}
        | more
        for b, v in values.items()
    ]


def found(records):
    return {f.target.text: f for f in targets.findings(records) if f}


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
    shared = {"device_type": "cuda", "launch": "graph", "cache_bytes": 50 * 2**20}
    records = times("1", {"kernel": 1.25, "copy": 1.0}, LARGE, **shared)
    records += times("1", {"kernel": 6.5, "copy": 1.0}, LARGE, name="forward+backward", **shared)
    got = found(records)["GPU share of copy bandwidth above the L2, worst"]
    assert got.value == pytest.approx(50.0) and not got.met


def test_full_table_lists_every_target_and_its_source():
    text = targets.full_table(times("1", {"kernel": 1.0, "eager": 9.0}))
    assert len(text.splitlines()) == 2 + len(targets.TARGETS)
    line = next(x for x in text.splitlines() if "CPU forward, nchw: times eager" in x)
    assert "| met |" in " ".join(line.split()) and "abc" in line and "2030-01-01" in line
    assert text.count("not measured") == len(targets.TARGETS) - 1
