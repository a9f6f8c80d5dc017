import numpy as np
import pytest
import timm
import torch
from torch import nn

from ibnvision.benchmark import models, record


def test_recovered_share_by_hand():
    slow, fast, floor = (np.array([v] * 3) for v in (10.0, 6.0, 5.0))
    assert models.recovered(slow, fast, floor) == pytest.approx(80.0)


def test_recovered_share_is_unbiased_and_less_scattered_than_of_plain_medians():
    """Repetitions of a busy machine: a level that all share, and bursts that hit one alone."""
    rng = np.random.default_rng(0)
    truth = np.array([10.0, 8.8, 8.0])  # of 60 %

    def of_medians(*samples):
        slow, fast, floor = map(np.median, samples)
        return 100 * (slow - fast) / (slow - floor)

    found = []
    for _ in range(400):
        level = np.exp(0.15 * rng.standard_normal(11))
        own = 1 + rng.exponential(0.02, (3, 11)) + 0.3 * (rng.random((3, 11)) < 0.05)
        samples = truth[:, None] * level * own
        found.append((models.recovered(*samples), of_medians(*samples)))
    ours, plain = np.array(found).T
    assert np.median(ours) == pytest.approx(60, abs=1)
    assert np.mean(ours) == pytest.approx(60, abs=2)
    widths = [np.subtract(*np.quantile(values, [0.975, 0.025])) for values in (ours, plain)]
    assert widths[0] < 0.5 * widths[1]


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


def test_bare_network_computes_with_ordinary_numbers():
    """Neither overflow nor denormals, whose arithmetic is slower, may shift its time."""
    bare, seen = models.strip(timm.create_model("resnet50")).train(), []
    for module in bare.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, y: seen.append(y.detach()))
    loss = nn.functional.cross_entropy(bare(torch.randn(4, 3, 64, 64)), torch.arange(4))
    loss.backward()
    values = [t.abs() for t in (*seen, *(p.grad for p in bare.parameters()))]
    assert len(seen) == 53 and all(v.isfinite().all() and v.any() for v in values)
    tiny = torch.finfo(torch.float32).tiny
    assert not any(((v > 0) & (v < tiny)).any() for v in values)


def test_step_flops_count_forward_and_backward_of_the_convolutions():
    """resnet18 at 224 px: 1.81e9 multiply-adds; three products a layer, two for the first."""
    setup = models.Setup("resnet18_ibn_a", "resnet18", 224, 1, "cpu", "nchw", "fp32")
    assert models.step_flops(setup) == pytest.approx(3 * 2 * 1.81e9 - 2 * 0.118e9, rel=0.01)


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
