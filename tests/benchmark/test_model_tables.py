from ibnvision.benchmark import blocks, findings, model_tables, models, verdicts
from ibnvision.benchmark.verdicts import LOST, OPEN, WON

BASE = {"bench": "models", "what": "table", "model": "net", "plain": "resnet18", "rival": "timm"}
BASE |= {"dtype": "fp32", "format": "nchw", "device_type": "cpu", "threads": 1, "clock": "CPU"}
BASE |= {"run": "20260101T000000-1", "quick": False, "command": "c", "device": "d", "torch": "2"}
BASE |= {"date": "2026-01-01T00:00:00", "commit": "", "n": 5}


def time(part, backend, value, batch, **fields):
    quartiles = {"q1": value - 0.5, "q3": value + 0.5}
    made = BASE | {"metric": "time", "pass": part, "backend": backend, "value": value}
    made |= {"shape": [batch, 3, 64, 32], "spread": quartiles, "floor_fraction": 0.25}
    return made | {"param_count": 1.5, "peak_mb": 100.0} | fields


def ratio(part, rival, low, high):
    made = BASE | {"metric": f"times faster than {rival}", "pass": part, "backend": "kernel"}
    made |= {"shape": [1, 3, 64, 32], "unit": "x"}
    return made | {"value": (low + high) / 2, "low": low, "high": high}


RECORDS = [
    time("latency", "timm", 8.0, 1),
    time("latency", "kernel", 10.0, 1),
    time("training step", "timm", 400.0, 4, kept_mb=30.0),
    time("training step", "kernel", 200.0, 4, kept_mb=15.0, peak_mb=102.0),
    time("training step", "compiled fallback", 300.0, 4, compile_s=61.2),
    ratio("latency", "plain timm", 0.7, 0.9),
    ratio("training step", "plain timm", 1.8, 2.2),
    ratio("latency", "the fallback", 0.9, 1.1),
]


def test_speeds_and_memory_stand_in_the_tables():
    text = model_tables.tables(RECORDS)
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    kernel = ["kernel", "10.0", "9.5 to 10.5", "25 %", "20.00", "25 %"]
    assert kernel in rows and ["timm", "8.0", "7.5 to 8.5", "25 %", "10.00", "25 %"] in rows
    assert ["compiled fallback", "-", "-", "-", "13.33", "25 %"] in rows
    assert ["kernel", "100", "102", "15", "-", "1.50", "-"] in rows
    assert ["compiled fallback", "-", "100", "-", "61", "1.50", "-"] in rows
    assert "64x32 px, 1 thread(s), by CPU; timm: resnet18" in text


def test_a_loss_is_said_as_plainly_as_a_win():
    behind, ahead, undecided = model_tables.standing(RECORDS)
    assert behind.startswith("net, fp32, nchw: the kernels are behind plain timm in latency (0.8 x")
    assert "plain timm in peak memory of training (1.02 of it)" in behind
    assert "ahead of plain timm in the training step (2 x, 1.8 to 2.2)" in ahead
    assert "plain timm in memory kept for the backward (0.50 of it)" in ahead
    assert undecided.endswith("nothing is shown against the fallback in latency (1 x, 0.9 to 1.1).")
    sides = verdicts.sorted_out([behind, ahead, undecided])
    assert sides == {LOST: [behind], WON: [ahead], OPEN: [undecided]}


def test_two_repetitions_show_nothing():
    found = [r | {"n": 2} for r in RECORDS if "low" in r]
    (undecided,) = model_tables.standing(found)
    assert "nothing is shown against plain timm in latency (0.8 x" in undecided


def test_without_a_kernel_nothing_is_shown():
    found = [r for r in RECORDS if r["backend"] != "kernel"]
    assert model_tables.standing(found) == ["net, fp32, nchw: nothing is shown, as no kernel ran."]


def test_a_table_stands_beside_the_steps_and_decides_only_its_own_target():
    step = {k: v for k, v in BASE.items() if k != "what"} | {"metric": "time", "backend": "kernel"}
    step |= {"pass": "training step", "value": 5.0, "spread": {"q1": 4.0, "q3": 6.0}}
    step |= {"shape": [4, 3, 64, 64], "images_per_s": 800.0, "run": "20250101T000000-1"}
    runs = blocks.newest_runs([step, *RECORDS], "models")
    assert [len(run) for run in runs] == [1, len(RECORDS)]
    assert "training step" in models.tables(runs[0]) and "latency ms" in models.tables(runs[1])
    on_cuda = [r | {"device_type": "cuda"} for r in RECORDS]
    judged = {f.target.text for f in findings.judge([*RECORDS, *on_cuda]) if f}
    assert judged == {"CPU networks of the table, least of parts and formats: times fallback"}
