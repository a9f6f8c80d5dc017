import numpy as np
import pytest
import timm
import torch
from torch import nn

from ibnvision.benchmark import models, record


def test_recovered_share_by_hand():
    slow, fast, floor = (np.array([v] * 3) for v in (10.0, 6.0, 5.0))
    assert models.recovered(slow, fast, floor) == pytest.approx(80.0)


def test_derived_numbers_have_intervals_and_skip_what_is_missing():
    rng = np.random.default_rng(0)
    samples = {"fallback": 10 + rng.normal(0, 0.1, 9), "timm": 8 + rng.normal(0, 0.1, 9)}
    samples |= {"bare": 5 + rng.normal(0, 0.1, 9), "kernel": 6 + rng.normal(0, 0.1, 9)}
    found = {f["metric"]: f for f in models.derived(samples, "cpu")}
    assert found["recovered"]["value"] == pytest.approx(80, abs=3)
    ratio = found["time by timm's resnet50"]
    assert ratio["value"] == pytest.approx(0.75, abs=0.02)
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    del samples["kernel"]
    assert models.derived(samples, "cpu") == []


def test_bare_network_keeps_every_convolution_and_nothing_else():
    plain = timm.create_model("resnet50", num_classes=10)
    bare = models.strip(timm.create_model("resnet50", num_classes=10))

    def shapes(model, kind):
        return sorted(tuple(m.weight.shape) for m in model.modules() if isinstance(m, kind))

    assert shapes(bare, nn.Conv2d) == shapes(plain, nn.Conv2d)
    assert not [m for m in bare.modules() if isinstance(m, (nn.BatchNorm2d, nn.ReLU))]
    bare(torch.randn(2, 3, 64, 64)).sum().backward()
    idle = [n for n, p in bare.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle  # the convolutions of the shortcuts work in the backward too


def test_join_passes_the_gradient_to_both():
    main, shortcut = (torch.randn(3, requires_grad=True) for _ in range(2))
    y = models._Join.apply(main, shortcut)
    assert torch.equal(y, main)
    y.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert main.grad.tolist() == shortcut.grad.tolist() == [1.0, 2.0, 3.0]


def test_quick_runs(tmp_path):
    path = tmp_path / "models.jsonl"
    assert models.main(["--quick", "--repeats", "1", "--out", str(path)]) == 0
    times = [r for r in record.read(path) if r["metric"] == "time"]
    assert {"fallback", "timm", "bare"} <= {r["backend"] for r in times}
    assert {r["format"] for r in times} == {"nchw", "channels_last"}
    assert all(r["value"] > 0 and r["model"] == "resnet18_ibn_a" for r in times)
