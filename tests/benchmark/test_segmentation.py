import numpy as np
import pytest
import torch
from torch import nn

from ibnvision.benchmark import models, record, segmentation

SMALL = segmentation.Setup(
    "resnet18_ibn_b", "resnet18", segmentation.TRAINING, 64, 2, "cpu", "channels_last", "fp32"
)


def test_bare_segmenter_keeps_the_convolutions_of_ours_and_nothing_else():
    ours = SMALL.network(SMALL.model)
    bare = models.strip(SMALL.network(SMALL.plain, fused=False))

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
    named = SMALL.network(SMALL.model).named_modules()
    # a fused norm keeps its activation as the child "act"
    plain = [n for n, m in named if type(m) in unfused and not n.endswith(".act")]
    assert plain == []


def test_the_steps_compute_the_same_loss():
    calls, _ = segmentation.variants(SMALL, compiled=False)
    assert {"fallback", "plain", "bare"} <= set(calls)
    for call in calls.values():
        call()  # forward, backward and step run through


def test_derived_numbers():
    rng = np.random.default_rng(0)
    samples = {
        k: v + rng.normal(0, 0.01, 9) for k, v in dict(fallback=10, kernel=6, bare=5).items()
    }
    found = {f["metric"]: f["value"] for f in segmentation.derived(samples, "cpu")}
    assert found["recovered"] == pytest.approx(80, abs=1)
    assert found["times faster than fallback"] == pytest.approx(10 / 6, abs=0.02)
    assert "times faster than plain" not in found


def test_quick_run_end_to_end(tmp_path, capsys):
    path = tmp_path / "segmentation.jsonl"
    assert segmentation.main(["--quick", "--repeats", "3", "--out", str(path)]) == 0
    records = record.read(path)
    assert {r["format"] for r in records} == {"nchw", "channels_last"}
    assert {r["pass"] for r in records} == {segmentation.TRAINING, segmentation.INFERENCE}
    assert all(r["quick"] for r in records)
    assert "recovered" in capsys.readouterr().out
