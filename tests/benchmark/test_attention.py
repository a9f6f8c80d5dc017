import numpy as np
import pytest
import torch

from ibnvision.benchmark import attention, findings, record
from ibnvision.benchmark.attention_calls import PREFIX, TILE, WINDOW, Case, tile_order


def test_tile_order_walks_tile_by_tile():
    order = tile_order(2 * TILE)
    assert order[:PREFIX].tolist() == list(range(PREFIX))
    assert sorted(order.tolist()) == list(range(PREFIX + 4 * TILE**2))
    first = order[PREFIX : PREFIX + TILE**2] - PREFIX
    assert (first // (2 * TILE)).max() == TILE - 1 and (first % (2 * TILE)).max() == TILE - 1


def test_visible_pairs_are_counted():
    case = Case(attention.FORWARD, 20, 1, 1, "fp32", "cpu", True)
    token = torch.arange(PREFIX + 400)
    row, column = (token - PREFIX) // 20, (token - PREFIX) % 20
    near = ((row[:, None] - row).abs() <= WINDOW // 2) & (
        (column[:, None] - column).abs() <= WINDOW // 2
    )
    prefix = token < PREFIX
    assert case.pairs == int((near | prefix | prefix[:, None]).sum())


def test_derived_ratios_by_hand():
    samples = {"dense": np.array([4.0, 6.0, 9.0]), "kernel": np.array([2.0, 2.0, 3.0])}
    (found,) = attention.derived(samples | {"halo bf16": samples["dense"]})
    assert found["metric"] == "times faster than dense"
    assert found["value"] == 3.0 and found["low"] == 2.0 and found["high"] == 3.0


def test_cases_hold_what_the_targets_judge():
    made = {(c.part, c.side) for c in attention.cases("cpu", quick=False)}
    for part in (attention.FORWARD, attention.BOTH):
        assert {(part, side) for side in (32, 64, 96)} <= made
    gpu = attention.cases("cuda", quick=False)
    assert {c.dtype for c in gpu} == {"bf16"} and {c.side for c in gpu} == {64, 128}


@pytest.mark.slow
def test_quick_run_is_recorded_and_judges_nothing(tmp_path, capsys):
    path = tmp_path / "attention.jsonl"
    arguments = ["--quick", "--no-compile", "--repeats", "1", "--out", str(path)]
    assert attention.main(arguments) == 0
    found = record.read(path)
    passes = {r["pass"] for r in found if r["metric"] == "time"}
    assert passes == {attention.FORWARD, attention.BOTH, attention.INFERENCE, attention.STEP}
    assert any(r["metric"] == "times faster than dense" for r in found)
    assert "No target is judged by this run." in capsys.readouterr().out
    assert all(f is None for f in findings.judge(found))
