import pytest
import torch
from torch import nn

from ibnvision.benchmark import detector, findings, network_cost, record
from ibnvision.ops import reference_ops

SUBJECT = detector.SUBJECT


@pytest.fixture(autouse=True)
def few_boxes(monkeypatch):
    few = {"box_batch_size_per_image": 16, "rpn_post_nms_top_n_test": 40}
    monkeypatch.setattr(detector, "LIGHT", few)


def setup(part: str) -> network_cost.Setup:
    return network_cost.Setup("resnet18_ibn_b", "resnet18", part, 32, 2, "cpu", "nchw", "fp32")


def networks(part: str) -> dict[str, nn.Module]:
    small = setup(part)
    found = {
        "ours": SUBJECT.network(small, small.model),
        "plain": SUBJECT.network(small, small.plain, fused=False),
        "bare": SUBJECT.bare(small),
    }
    return found | ({} if part == network_cost.TRAINING else {"folded": SUBJECT.folded(small)})


def test_bare_detector_keeps_all_convolutions_and_strips_the_backbone_alone():
    ours, plain, bare = networks(network_cost.TRAINING).values()

    def shapes(model):
        return sorted(tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Conv2d))

    assert shapes(bare) == shapes(ours) == shapes(plain)
    left = (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d, nn.ReLU)
    assert not [m for m in bare.backbone.modules() if isinstance(m, left)]
    assert [m for m in bare.rpn.modules() if isinstance(m, nn.ReLU)]


def test_a_step_trains_every_weight_with_finite_losses():
    small = setup(network_cost.TRAINING)
    batch = SUBJECT.batch(small)
    for name, model in networks(network_cost.TRAINING).items():
        torch.manual_seed(0)
        loss = SUBJECT.loss(model, batch)
        loss.backward()
        assert torch.isfinite(loss), name
        assert all(p.grad is not None for p in model.parameters()), name


@pytest.mark.parametrize("part", [network_cost.TRAINING, network_cost.INFERENCE])
def test_all_variants_search_the_same_boxes(part):
    """Proposals, samples and results: the work must not hang on what a network computes."""
    batch, seen = SUBJECT.batch(setup(part)), {}
    for name, model in networks(part).items():
        pooled = seen[name] = []
        model.roi_heads.box_roi_pool.register_forward_hook(
            lambda _, given, __, pooled=pooled: pooled.extend(given[1])
        )
        torch.manual_seed(0)
        with torch.no_grad():
            if part == network_cost.INFERENCE:
                found = SUBJECT.infer(model, batch)
                pooled += [one[key] for one in found for key in ("boxes", "scores", "labels")]
                assert all(len(one["boxes"]) > 10 for one in found)
            else:
                SUBJECT.loss(model, batch)
    for name, boxes in seen.items():
        for ours, theirs in zip(seen["ours"], boxes, strict=True):
            assert torch.equal(ours, theirs), name


def test_folding_and_fallback_compute_the_same_levels():
    small, x = setup(network_cost.INFERENCE), torch.randn(1, 3, 32, 32)
    ours, folded = SUBJECT.network(small, small.model), SUBJECT.folded(small)
    assert not [m for m in folded.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        expected = ours.backbone(x)
        with reference_ops():
            plain = ours.backbone(x)
        for levels in (folded.backbone(x), plain):
            for name, level in levels.items():
                torch.testing.assert_close(level, expected[name], rtol=1e-4, atol=1e-4)


def finding(metric: str, value: float, **where) -> record.Record:
    head = {"bench": "detector", "run": "1", "quick": False, "device_type": "cpu", "threads": 1}
    return head | {"metric": metric, "value": value} | where


def test_targets_judge_both_parts_and_formats_and_the_gpu():
    records = [
        finding(metric, value, format=form, **{"pass": part})
        for metric, value in (("recovered", 61.0), ("times faster than fallback", 0.99))
        for part in (network_cost.TRAINING, network_cost.INFERENCE)
        for form in ("nchw", "channels_last")
    ]
    where = {"format": "channels_last", "pass": network_cost.TRAINING, "device_type": "cuda"}
    records.append(finding("times faster than fallback", 1.15, **where))
    text = findings.verdict(records)
    assert text.count("Faster R-CNN") == 9
    assert (text.count(" met |"), text.count("MISSED")) == (5, 4)
    step = next(x for x in text.splitlines() if "GPU" in x)
    assert "640 px, batch 8: times fallback" in step and ">= 1.15 x" in step


@pytest.mark.slow
def test_quick_run_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(network_cost, "FORMATS", {"nchw": torch.contiguous_format})
    path = tmp_path / "detector.jsonl"
    assert detector.main(["--quick", "--repeats", "1", "--out", str(path)]) == 0
    records = record.read(path)
    assert {r["pass"] for r in records} == {network_cost.TRAINING, network_cost.INFERENCE}
    assert all(len(r["samples_ms"]) == 1 for r in records if r["metric"] == "time")
    assert all(r["quick"] and r["model"] == "resnet18_ibn_b Faster R-CNN" for r in records)
    assert "times faster than fallback" in capsys.readouterr().out
