import math

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from ibnvision.methods.detection_consistency import (
    box_consistency,
    jensen_shannon_consistency,
    kullback_leibler_consistency,
    paired_predictions,
)


def logit(p):
    return math.log(p / (1 - p))


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_softmax_by_hand():
    p, q = [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]
    r = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    a, b = torch.tensor([p, q]).log(), torch.tensor([q, q]).log() + 3
    expected = (kl(p, r) + kl(q, r)) / 2
    assert jensen_shannon_consistency(a, b).item() == pytest.approx(expected / 2, rel=1e-5)
    assert kullback_leibler_consistency(a, b).item() == pytest.approx(kl(p, q) / 2, rel=1e-5)
    squared = [v**2 / sum(w**2 for w in p) for v in p]
    other = [v**2 / sum(w**2 for w in q) for v in q]
    cold = kullback_leibler_consistency(a[:1], b[:1], temperature=0.5).item()
    assert cold == pytest.approx(kl(squared, other), rel=1e-5)


def test_sigmoid_by_hand_sums_over_classes():
    p, q = [0.5, 0.9], [0.2, 0.9]
    a, b = (torch.tensor([[logit(v) for v in row]]) for row in (p, q))
    r = [0.35, 0.65]
    expected = (kl([0.5, 0.5], r) + kl([0.2, 0.8], r)) / 2
    found = jensen_shannon_consistency(a, b, form="sigmoid")
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found = kullback_leibler_consistency(a, b, form="sigmoid")
    assert found.item() == pytest.approx(kl([0.5, 0.5], [0.2, 0.8]), rel=1e-5)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_bounds_and_extremes(form):
    a = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 4
    b = a.flip(0)
    assert jensen_shannon_consistency(a, a.clone(), form=form) == 0
    one = jensen_shannon_consistency(a, b, form=form)
    assert 0 < one < math.log(2) * (1 if form == "softmax" else 6)
    torch.testing.assert_close(one, jensen_shannon_consistency(b, a, form=form))
    far = torch.tensor([[1e4, -1e4]]).requires_grad_()
    value = jensen_shannon_consistency(far, -far.detach(), form=form)
    assert value.item() == pytest.approx(math.log(2) * (1 if form == "softmax" else 2))
    value.backward()
    assert torch.isfinite(far.grad).all()


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
@pytest.mark.parametrize("function", [jensen_shannon_consistency, kullback_leibler_consistency])
def test_gradients_are_those_of_the_plain_formula(function, form):
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(4, 3, generator=generator, requires_grad=True) for _ in range(2))

    def plain(x, y):
        x, y = (
            [v.softmax(-1)] if form == "softmax" else [v.sigmoid(), 1 - v.sigmoid()] for v in (x, y)
        )
        total = 0
        for p, q in zip(x, y, strict=True):
            r = q if function is kullback_leibler_consistency else (p + q) / 2
            total = total + (p * (p / r).log()).sum(-1)
            if function is jensen_shannon_consistency:
                total = (
                    (total + (q * (q / r).log()).sum(-1)) / 2
                    if form == "softmax"
                    else (total + (q * (q / r).log()).sum(-1))
                )
        halved = form == "sigmoid" and function is jensen_shannon_consistency
        return total.mean() / (2 if halved else 1)

    found, expected = function(a, b, form=form), plain(a.double(), b.double())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_no_proposals_give_zero_and_a_gradient():
    a = torch.zeros(0, 4, requires_grad=True)
    total = jensen_shannon_consistency(a, a.detach()) + kullback_leibler_consistency(a, a.detach())
    total = total + box_consistency(a, a.detach()) + box_consistency(a, a, weight=torch.zeros(0))
    total.backward()
    assert total == 0 and a.grad.shape == (0, 4)


def test_float32_under_autocast_and_from_half():
    a = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    b = a + 1e-2 * a.flip(0)
    expected = jensen_shannon_consistency(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(jensen_shannon_consistency(a, b), expected)
        half = jensen_shannon_consistency(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, jensen_shannon_consistency(a.bfloat16().float(), b.bfloat16().float()))


def test_boxes_by_hand():
    a = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0]])
    b = torch.tensor([[0.05, 0, 0, 0], [0, 0, 0, 0]])
    first, second = 0.05**2 / 2 * 9, 1 - 1 / 18
    assert box_consistency(a, b).item() == pytest.approx((first + second) / 2, rel=1e-5)
    weighted = box_consistency(a, b, weight=torch.tensor([3.0, 1.0])).item()
    assert weighted == pytest.approx((3 * first + second) / 4, rel=1e-5)
    assert box_consistency(a, b, beta=0).item() == pytest.approx(1.05 / 2)
    assert box_consistency(a, b, weight=torch.zeros(2)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: jensen_shannon_consistency(a, a[:1]), r"\[2, 4\] and \[1, 4\]"),
        (lambda a: jensen_shannon_consistency(a, a, form="tanh"), "form must be one of softmax"),
        (lambda a: jensen_shannon_consistency(a, a, temperature=0), "temperature must be above 0"),
        (lambda a: box_consistency(a[:, :3], a[:, :3]), r"\[\.\.\., 4\], got \[2, 3\]"),
        (lambda a: box_consistency(a, a, weight=torch.ones(3)), r"weight must have shape \[2\]"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 4))


def detector(kind, norm=True):
    """One small map; sizes are drawn, so that a view resized on its own would not fit."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, 4, 1), nn.BatchNorm2d(32) if norm else nn.Identity(), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.Conv2d(32, 32, 3, 4, 1))
    backbone.out_channels = 32
    sizes = {"min_size": (48, 64, 80, 96), "max_size": 160}
    if kind == "fcos":
        anchors = AnchorGenerator(((16,),), ((1.0,),))
        return FCOS(backbone, 3, anchor_generator=anchors, **sizes)
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    if kind == "retinanet":
        return RetinaNet(backbone, 3, anchor_generator=anchors, **sizes)
    pool = MultiScaleRoIAlign(["0"], 3, 2)
    return FasterRCNN(
        backbone,
        3,
        rpn_anchor_generator=anchors,
        box_roi_pool=pool,
        box_batch_size_per_image=16,
        **sizes,
    )


def scenes():
    generator = torch.Generator().manual_seed(5)
    images = [
        torch.rand(3, 64, 80, generator=generator),
        torch.rand(3, 48, 48, generator=generator),
    ]
    targets = [
        {"boxes": torch.tensor([[8.0, 8, 30, 40]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return images, targets


KINDS = ["faster_rcnn", "retinanet", "fcos"]


@pytest.mark.parametrize("kind", KINDS)
def test_identical_views_give_exactly_zero(kind):
    images, targets = scenes()
    for seed in range(4):  # each draws other sizes
        model = detector(kind).train()
        torch.manual_seed(seed)
        _, pairs = paired_predictions(model, images, [i.clone() for i in images], targets)
        assert torch.equal(*pairs.logits) and torch.equal(*pairs.boxes)
        assert jensen_shannon_consistency(*pairs.logits, form=pairs.form) == 0
        assert box_consistency(*pairs.boxes, weight=pairs.foreground) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_the_state_of_chance_are_those_of_the_model(kind):
    images, targets = scenes()
    torch.manual_seed(3)
    expected = detector(kind).train()
    torch.manual_seed(3)
    losses = expected(images, targets)
    after = torch.get_rng_state()
    model = detector(kind).train()
    torch.manual_seed(3)
    found, pairs = paired_predictions(model, images, [1 - i for i in images], targets)
    assert torch.equal(torch.get_rng_state(), after)
    assert found.keys() == losses.keys()
    assert all(torch.equal(found[key], losses[key]) for key in losses)
    count = len(pairs.foreground)
    assert pairs.logits[0].shape == pairs.logits[1].shape == (count, 3)
    assert pairs.boxes[0].shape == pairs.boxes[1].shape == (count, 4)
    assert pairs.form == ("softmax" if kind == "faster_rcnn" else "sigmoid")
    assert 0 <= pairs.foreground.min() and pairs.foreground.max() <= 1
    assert not pairs.foreground.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_backbone_through_either_view(kind):
    images, targets = scenes()
    model = detector(kind, norm=False).train()
    _, pairs = paired_predictions(model, images, [1 - i for i in images], targets)
    for detached in range(2):
        logits = [x.detach() if i == detached else x for i, x in enumerate(pairs.logits)]
        boxes = [x.detach() if i == detached else x for i, x in enumerate(pairs.boxes)]
        total = jensen_shannon_consistency(*logits, form=pairs.form) + box_consistency(*boxes)
        (grad,) = torch.autograd.grad(total, model.backbone[0].weight, retain_graph=True)
        assert total > 0 and grad.abs().max() > 0


def test_boxes_of_faster_rcnn_are_those_of_the_best_class():
    images, targets = scenes()
    model = detector("faster_rcnn").train()
    seen = []
    handle = model.roi_heads.box_predictor.register_forward_hook(lambda _, i, out: seen.append(out))
    _, pairs = paired_predictions(model, images, [1 - i for i in images], targets)
    handle.remove()
    (logits, deltas), (_, other) = seen
    best = logits[:, 1:].argmax(1) + 1
    for i in range(len(best)):
        part = slice(4 * best[i], 4 * best[i] + 4)
        assert torch.equal(pairs.boxes[0][i], deltas[i, part])
        assert torch.equal(pairs.boxes[1][i], other[i, part])


def test_models_and_views_that_do_not_fit_are_named():
    images, targets = scenes()
    with pytest.raises(TypeError, match="FasterRCNN, RetinaNet or FCOS, got Linear"):
        paired_predictions(nn.Linear(1, 1), images, images, targets)
    model = detector("fcos")
    with pytest.raises(ValueError, match="training mode"):
        paired_predictions(model.eval(), images, images, targets)
    with pytest.raises(ValueError, match="same sizes"):
        paired_predictions(model.train(), images, images[:1], targets)
