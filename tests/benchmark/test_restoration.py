import copy

import numpy as np
import pytest
import timm
import torch

from ibnvision.benchmark import record, restoration, targets
from ibnvision.benchmark.official_dea_net import official
from ibnvision.testing import assert_close


@pytest.mark.parametrize("folded", [False, True], ids=["training", "folded"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_official_network_computes_the_same(folded, channels_last):
    model = timm.create_model("dea_net", **restoration.SMALL).double()
    model = model.fuse() if folded else model
    plain = official(copy.deepcopy(model))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.rand(2, 3, 20, 28, dtype=torch.float64).to(memory_format=layout)
    y = plain(x)
    assert_close(y, model(x))
    y.sum().backward()
    model(x).sum().backward()
    found = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        assert_close(found[name].grad, parameter.grad)


def test_official_network_keeps_the_format_of_its_input():
    plain, seen = official(timm.create_model("dea_net", **restoration.SMALL)).eval(), []
    plain.level3_block1.register_forward_hook(lambda _, __, y: seen.append(y))
    x = torch.rand(1, 3, 16, 32)
    with torch.no_grad():
        plain(x)
        plain.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert seen[0].is_contiguous()
    assert seen[1].is_contiguous(memory_format=torch.channels_last)


def test_derived_ratio_by_hand():
    samples = {"plain": np.array([4.0, 6.0, 9.0]), "kernel": np.array([2.0, 2.0, 3.0])}
    (found,) = restoration.derived(samples)
    assert found["metric"] == "times faster than plain"
    assert found["value"] == 3.0 and found["low"] == 2.0 and found["high"] == 3.0


def test_cases_hold_what_the_targets_judge():
    shapes = {(c.part, c.size, c.format) for c in restoration.cases("cpu", quick=False)}
    for form in ("nchw", "channels_last"):
        for part, size in (("folded inference", 256), ("folded inference", 1024)):
            assert (part, size, form) in shapes
        assert ("training step", 128, form) in shapes
    gpu = restoration.cases("cuda", quick=False)
    assert {(c.dtype, c.format) for c in gpu} == {("bf16", "channels_last")}


def test_least_of_the_sizes_is_judged():
    target = next(t for t in targets.TARGETS if "times plain contiguous" in t.text)
    row = {"metric": "times faster than plain", "device_type": "cpu", "threads": 1}
    row |= {"format": "nchw", "pass": "folded inference"}
    found = [row | {"value": v} for v in (2.5, 1.9)] + [row | {"format": "x", "value": 1.0}]
    assert target.value(found) == 1.9 and not target.met(1.9)


def test_quick_run(tmp_path):
    path = tmp_path / "restoration.jsonl"
    assert restoration.main(["--quick", "--no-compile", "--repeats", "1", "--out", str(path)]) == 0
    records = record.read(path)
    assert {"plain"} <= {r["backend"] for r in records if r["metric"] == "time"}
    live = [r for r in records if r["metric"] == "live"]
    # one map of 8 channels and the image, at the least; all maps of the network, at the most
    assert live and all(4 * (8 + 3) < r["value"] < 1133 for r in live)
    assert all(r["quick"] and r["unit"] for r in records)
