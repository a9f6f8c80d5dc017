import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from ibnvision.benchmark import network_cost, record, segmentation

SUBJECT = segmentation.SUBJECT
SMALL = network_cost.Setup(
    "resnet18_ibn_b", "resnet18", network_cost.TRAINING, 64, 2, "cpu", "channels_last", "fp32"
)


def test_bare_segmenter_keeps_the_convolutions_of_ours_and_nothing_else():
    ours = SUBJECT.network(SMALL, SMALL.model)
    bare = SUBJECT.bare(SMALL)

    def shapes(model):
        return sorted(tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Conv2d))

    assert shapes(bare) == shapes(ours)
    left = (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d, nn.ReLU)
    assert not [m for m in bare.modules() if isinstance(m, left)]
    out = bare(torch.randn(2, 3, 64, 64))
    (out["out"].sum() + out["aux"].sum()).backward()
    assert all(p.grad is not None for p in bare.parameters())


def test_ours_leaves_no_norm_unfused():
    """A ReLU that stands behind a norm by itself would cost what the kernel is there to save."""
    unfused = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.ReLU)
    named = SUBJECT.network(SMALL, SMALL.model).named_modules()
    # a fused norm keeps its activation as the child "act"
    plain = [n for n, m in named if type(m) in unfused and not n.endswith(".act")]
    assert plain == []


def test_the_steps_compute_the_same_loss():
    calls, _ = network_cost.variants(SUBJECT, SMALL, compiled=False)
    assert {"fallback", "plain", "bare"} <= set(calls)
    for call in calls.values():
        call()  # forward, backward and step run through


def test_inference_measures_folding_and_kernels_apart():
    setup = dataclasses.replace(SMALL, part=network_cost.INFERENCE)
    calls, skipped = network_cost.variants(SUBJECT, setup, compiled=False)
    every = {"fallback", "plain", "bare", "folded fallback", "kernel", "unfolded"}
    assert set(calls) | set(skipped) == every
    assert set(skipped) <= {"kernel", "unfolded"}
    folded, x = SUBJECT.folded(setup), torch.randn(1, 3, 64, 64)
    assert not [n for n, m in folded.named_modules() if is_run(n) and isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        torch.testing.assert_close(
            folded(x), SUBJECT.network(setup, setup.model)(x), rtol=1e-4, atol=1e-4
        )
    samples = {
        k: np.full(9, float(v))
        for k, v in dict(zip(sorted(every), (5, 10, 8, 4, 9, 7), strict=True)).items()
    }
    found = {f["metric"]: f["value"] for f in network_cost.derived(samples)}
    # bare 5, fallback 10, folded fallback 8, kernel 4, plain 9, unfolded 7
    assert found["recovered"] == pytest.approx(120)
    assert found["recovered by folding alone"] == pytest.approx(40)
    assert found["recovered by kernels alone"] == pytest.approx(60)
    assert found["times faster than folded fallback"] == pytest.approx(2)
    assert found["times faster than unfolded"] == pytest.approx(7 / 4)


def is_run(name: str) -> bool:
    """Whether inference runs the module of that name."""
    return not name.startswith("auxiliary")


def test_derived_numbers():
    rng = np.random.default_rng(0)
    samples = {
        k: v + rng.normal(0, 0.01, 9) for k, v in dict(fallback=10, kernel=6, bare=5).items()
    }
    found = {f["metric"]: f["value"] for f in network_cost.derived(samples)}
    assert found["recovered"] == pytest.approx(80, abs=1)
    assert found["times faster than fallback"] == pytest.approx(10 / 6, abs=0.02)
    assert "times faster than plain" not in found


@pytest.mark.slow
def test_quick_run_end_to_end(tmp_path, capsys):
    path = tmp_path / "segmentation.jsonl"
    assert segmentation.main(["--quick", "--repeats", "3", "--out", str(path)]) == 0
    records = record.read(path)
    assert {r["format"] for r in records} == {"nchw", "channels_last"}
    assert {r["pass"] for r in records} == {network_cost.TRAINING, network_cost.INFERENCE}
    assert all(r["quick"] for r in records)
    assert "recovered" in capsys.readouterr().out
