from functools import partial

import numpy as np
import pytest

from ibnvision.benchmark import blocks, measure, record, scaling, scaling_pictures, scaling_tables
from ibnvision.benchmark.scaling_rows import BATCH, CHANNELS, RESOLUTION, ROWS, THREADS

BASE = {"batch": 8, "resolution": 56, "channels": 64}
HEAD = {"bench": "scaling", "run": "a", "quick": False, "device_type": "cpu", "threads": 1}
HEAD |= {"op": "lambda_attention", "pass": "forward", "dtype": "fp32", "format": "nchw"}
HEAD |= {"base": BASE, "cells": "patches", "n": 7}


def times(variable, backend, milliseconds):
    return [
        HEAD
        | {"metric": "time", "variable": variable, "backend": backend, "size": size, "value": ms}
        | {"spread": {"q1": 0.9 * ms, "q3": 1.2 * ms}, "unit": "ms"}
        for size, ms in milliseconds.items()
    ]


def exponent(variable, backend, value, sizes):
    fields = {"metric": "exponent", "variable": variable, "backend": backend, "sizes": sizes}
    return HEAD | fields | {"value": value, "low": value - 0.02, "high": value + 0.03}


def recorded():
    made = times(RESOLUTION, "dense", {16: 1.0, 32: 16.0})
    made += times(RESOLUTION, "kernel", {16: 2.0, 32: 8.0, 64: 32.0})
    made += times(THREADS, "kernel", {1: 8.0, 2: 4.0})
    made += [exponent(RESOLUTION, "dense", 2.0, [16, 32])]
    made += [exponent(RESOLUTION, "kernel", 1.0, [16, 32, 64]) | {"pairs_exponent": 1.107}]
    return made + [exponent(THREADS, "kernel", -1.0, [1, 2])]


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(measure, "bootstrap", partial(measure.bootstrap, draws=200))


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_slope_is_the_exponent_of_the_medians(power):
    amounts = [1, 4, 16]
    samples = [np.array([3.0, 1.0, 50.0]) * amount**power for amount in amounts]
    assert scaling.slope(amounts)(*samples) == pytest.approx(power)


def test_the_slope_by_hand_where_no_power_fits():
    """log2 of the times 0, 0, 3 at log2 of the sizes 0, 1, 2: 1.5 by least squares."""
    samples = [np.array([t, t]) for t in (1.0, 1.0, 8.0)]
    assert scaling.slope([1, 2, 4])(*samples) == pytest.approx(1.5)


def test_resolution_counts_pixels_and_its_interval_is_over_repetitions(few_draws):
    level = np.array([1.0, 1.1, 3.0, 0.9, 1.0])  # a load that all sizes share leaves it alone
    samples = {f"kernel {side}": level * side**2 for side in (8, 16, 32)}
    row = ROWS["lambda_attention"]
    (found,) = scaling.exponents(row, RESOLUTION, [8, 16, 32], "kernel", samples)
    assert found["unit"] == "power of patches"
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx([1.0, 1.0, 1.0])
    samples["kernel 32"] = samples["kernel 32"] * [1.0, 1.3, 0.8, 1.0, 1.2]
    (found,) = scaling.exponents(row, RESOLUTION, [8, 16, 32], "kernel", samples)
    assert found["low"] < found["value"] < found["high"]


def test_thread_counts_are_powers_of_two_up_to_the_cores(monkeypatch):
    assert scaling.thread_counts(1) == (1,) and scaling.thread_counts(6) == (1, 2, 4)
    for cores, listed in ((1, False), (2, True)):
        monkeypatch.setattr(scaling.os, "cpu_count", lambda cores=cores: cores)
        found = scaling.variables(ROWS["ibn_norm"], "cpu", quick=False)
        assert (THREADS in found) is listed
    assert THREADS not in scaling.variables(ROWS["ibn_norm"], "cuda", quick=False)
    assert THREADS not in scaling.variables(ROWS["ibn_norm"], "cpu", quick=True)


def test_every_base_point_is_among_the_sizes_of_each_variable():
    """So that the curves of one row cross."""
    for row in ROWS.values():
        assert all(row.base[variable] in sizes for variable, sizes in row.sizes.items())
        assert row.at(BATCH, 3, quick=False) == {**row.base, BATCH: 3}
        assert row.at(THREADS, 2, quick=False) == row.base
    assert max(ROWS["lambda_attention"].sizes[RESOLUTION]) == 128
    assert ROWS["lambda_attention"].shape(ROWS["lambda_attention"].base) == [1, 2, 1029, 64]


def test_a_call_that_is_too_long_is_left_out_with_its_reason(monkeypatch, capsys):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(scaling.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(scaling, "LIMIT_S", 2.0)
    monkeypatch.setattr(measure, "clocked", lambda calls, *rest, **more: ({}, {}, "a clock"))
    common = HEAD | {"quick": True}
    assert scaling.curves(ROWS["lambda_attention"], BATCH, (1, 2), common, 2) == []
    assert "dense 2 skipped: a call takes 3.0 s, more than 2 s" in capsys.readouterr().out


def test_the_table_and_the_sentence_say_the_recorded_numbers():
    told = scaling_tables.tables(recorded())
    assert "around batch 8, 56x56 patches, 64 channels, 1 thread(s)" in told
    rows = [[c.strip() for c in line.split("|")] for line in told.splitlines()]
    assert ["", "resolution 32x32", "8 (7.2 to 9.6)", "16 (14.4 to 19.2)", ""] in rows
    assert ["", "resolution 64x64", "32 (28.8 to 38.4)", "-", ""] in rows
    sentence = "In patches, from 16x16 to 64x64, lambda_attention's kernel grows with exponent "
    assert f"{sentence}1.00 (0.98 to 1.03); dense, up to 32x32, with 2.00 (1.98 to 2.03); " in told
    assert "that see each other, fewer at borders, with 1.11." in told
    (threads,) = (line for line in told.splitlines() if line.startswith("- In threads"))
    assert "-1.00 (-1.02 to -0.97)" in threads and "not to be judged, as 2 cores" in threads


def test_the_newest_run_of_each_operator_counts():
    newer = [r | {"run": "b", "op": "ibn_norm"} for r in recorded()]
    runs = blocks.newest_runs(recorded() + newer, "scaling")
    assert [{r["op"] for r in run} for run in runs] == [{"lambda_attention"}, {"ibn_norm"}]


def test_the_figure_draws_every_curve_on_logarithms():
    (made,) = scaling_pictures.figures(recorded()).values()
    resolution, threads = made.axes
    assert resolution.get_xscale() == resolution.get_yscale() == "log"
    curves = {bar.get_label(): bar.lines[0].get_xydata() for bar in resolution.containers}
    assert curves["kernel"].tolist() == [[256, 2.0], [1024, 8.0], [4096, 32.0]]
    assert curves["dense"].tolist() == [[256, 1.0], [1024, 16.0]]
    guides = [
        [line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() == "--"]
        for axes in (resolution, threads)
    ]
    assert guides == [[[[256, 2.0], [1024, 8.0], [4096, 32.0]]], [[[1, 8.0], [2, 4.0]]]]
    assert threads.get_title(loc="left") == "threads, wall time"


@pytest.mark.parametrize("name, rival", [("lambda_attention", "dense"), ("ibn_norm", "eager")])
def test_quick_runs(few_draws, tmp_path, capsys, name, rival):
    path = tmp_path / "scaling.jsonl"
    assert scaling.main(["--quick", "--op", name, "--out", str(path)]) == 0
    found = record.read(path)
    curves = {(r["variable"], r["backend"]) for r in found if r["metric"] == "exponent"}
    told = {r["backend"]: r["pairs_exponent"] for r in found if "pairs_exponent" in r}
    every = np.log((5 + 64) ** 2 / (5 + 16) ** 2) / np.log(4)  # in grids of 4 and 8 all are visible
    asked = ("kernel", "fallback") if name == "lambda_attention" else ()
    assert told == dict.fromkeys(asked, pytest.approx(every))
    expected = {(v, b) for v in (BATCH, RESOLUTION, CHANNELS) for b in ("fallback", rival)}
    assert expected <= curves and {r["op"] for r in found} == {name}
    assert all(
        r["value"] > 0 and r["clock"] == "process CPU time" for r in found if r["metric"] == "time"
    )
    assert f"**{name}, " in capsys.readouterr().out


def test_a_run_is_held_against_an_earlier_one(few_draws, tmp_path, capsys):
    argv = ["--quick", "--op", "lambda_attention", "--out", str(tmp_path / "scaling.jsonl")]
    scaling.main(argv)
    before = capsys.readouterr().out
    assert scaling.main([*argv, "--compare-with", argv[-1]]) in (0, 1)
    assert "Of 12 comparisons: regression " in capsys.readouterr().out
    assert "comparisons" not in before


@pytest.mark.slow
def test_quick_network_runs(tmp_path):
    path = tmp_path / "scaling.jsonl"
    assert scaling.main(["--quick", "--op", "resnet50_ibn_a", "--out", str(path)]) == 0
    times = [r for r in record.read(path) if r["metric"] == "time"]
    assert {r["shape"][-1] for r in times} == {32, 64} and all(r["value"] > 0 for r in times)
