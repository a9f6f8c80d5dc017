"""Consistency of a detector over two views of one scene: the same proposals, the same answers.

    losses, pairs = paired_predictions(model, images, changed, targets)
    losses["loss_class_consistency"] = jensen_shannon_consistency(*pairs.logits, form=pairs.form)
    losses["loss_box_consistency"] = box_consistency(*pairs.boxes, weight=pairs.foreground)

With p and q the class distributions of a proposal in views a and b, and r = (p + q) / 2,

    JS(p, q) = KL(p || r) / 2 + KL(q || r) / 2,   KL(p || q) = sum p log(p / q),   in nats.

Form "softmax" takes classes as exclusive, background included; form "sigmoid" (RetinaNet, FCOS)
each as a yes or no of its own, and sums over them.

Sources: Lee et al., OA-DG, AAAI 2024, https://arxiv.org/abs/2312.12133 (Jensen-Shannon); Danish et
al., DivAlign, CVPR 2024, https://arxiv.org/abs/2405.14497 (Kullback-Leibler, L1 on boxes).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet

FORMS = ("softmax", "sigmoid")


def jensen_shannon_consistency(
    logits_a: Tensor, logits_b: Tensor, *, form: str = "softmax", temperature: float = 1.0
) -> Tensor:
    """Mean Jensen-Shannon divergence of the proposals, a float32 scalar; for softmax in [0, log 2].

    Exactly 0 for equal logits and, with zero gradients, for no proposals. Computed in float32, also
    under autocast.

    Args:
        logits_a, logits_b: [..., K] of the same proposals.
        form: one of FORMS.
        temperature: divides the logits, above 0.

    Raises: ValueError for shapes that differ or lack K, another form, or a temperature not above 0.
    """
    with torch.autocast(logits_a.device.type, enabled=False):
        value = torch.zeros((), device=logits_a.device)
        for a, b in _log_shares(logits_a, logits_b, form, temperature):
            value = value - (a.exp() * _to_middle(b - a) + b.exp() * _to_middle(a - b)).sum(-1) / 2
        return _mean(value)


def kullback_leibler_consistency(
    logits_a: Tensor, logits_b: Tensor, *, form: str = "softmax", temperature: float = 1.0
) -> Tensor:
    """Mean KL(p_a || p_b), p_a the teacher once it is detached. Otherwise as Jensen-Shannon."""
    with torch.autocast(logits_a.device.type, enabled=False):
        value = torch.zeros((), device=logits_a.device)
        for a, b in _log_shares(logits_a, logits_b, form, temperature):
            value = value + (a.exp() * (a - b)).sum(-1)
        return _mean(value)


def box_consistency(
    boxes_a: Tensor, boxes_b: Tensor, *, weight: Tensor | None = None, beta: float = 1 / 9
) -> Tensor:
    """Smooth L1 between the box deltas of the same proposals, summed over the four.

    Args:
        boxes_a, boxes_b: [..., 4].
        weight: [...], of each proposal; the result is the weighted mean. Default: all alike.
        beta: where the quadratic part ends, as in Faster R-CNN; 0 is L1.

    Returns: a float32 scalar; exactly 0, with zero gradients, for no proposals.
    Raises: ValueError for shapes that do not fit.
    """
    if boxes_a.shape != boxes_b.shape or boxes_a.shape[-1:] != (4,):
        raise ValueError(
            "boxes_a and boxes_b must have the same shape [..., 4], got "
            f"{list(boxes_a.shape)} and {list(boxes_b.shape)}"
        )
    if weight is not None and weight.shape != boxes_a.shape[:-1]:
        raise ValueError(
            f"weight must have shape {list(boxes_a.shape[:-1])}, got {list(weight.shape)}"
        )
    with torch.autocast(boxes_a.device.type, enabled=False):
        off = F.smooth_l1_loss(boxes_a.float(), boxes_b.float(), reduction="none", beta=beta)
        off = off.sum(-1)
        if weight is None:
            return _mean(off)
        return (off * weight.float()).sum() / weight.float().sum().clamp_min(1e-6)


def _log_shares(
    logits_a: Tensor, logits_b: Tensor, form: str, temperature: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logarithms of the outcomes' probabilities in both views; sigmoids have two outcomes."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if logits_a.shape != logits_b.shape or logits_a.dim() < 1:
        raise ValueError(
            "logits_a and logits_b must have the same shape [..., K], got "
            f"{list(logits_a.shape)} and {list(logits_b.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    a, b = logits_a.float() / temperature, logits_b.float() / temperature
    if form == "softmax":
        yield a.log_softmax(-1), b.log_softmax(-1)
    else:
        yield F.logsigmoid(a), F.logsigmoid(b)
        yield F.logsigmoid(-a), F.logsigmoid(-b)


def _to_middle(d: Tensor) -> Tensor:
    """log((1 + exp d) / 2): log r - log p for d = log q - log p; exactly 0 at 0, never inf."""
    return d.relu() + torch.log1p(torch.expm1(-d.abs()) / 2)


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)


class Pairs(NamedTuple):
    """What two views say of the same proposals, P of them."""

    logits: tuple[Tensor, Tensor]  # [P, K] each
    boxes: tuple[Tensor, Tensor]  # deltas [P, 4] each; of a box per class, that of a's best class
    foreground: Tensor  # [P], a's probability that there is an object, without gradient
    form: str  # of the logits, one of FORMS


def paired_predictions(
    model: nn.Module,
    images_a: Sequence[Tensor],
    images_b: Sequence[Tensor],
    targets: Sequence[dict[str, Tensor]],
) -> tuple[dict[str, Tensor], Pairs]:
    """The losses of view a, and what both views say of a's proposals.

    Faster R-CNN: the proposals that a's losses are computed on. RetinaNet, FCOS: all anchors. Both
    views are resized alike, also where the model draws a size. Batch norm sees them one after the
    other, each as a batch of its own.

    Args:
        model: torchvision's FasterRCNN, RetinaNet or FCOS in training mode, not wrapped.
        images_a, images_b: the same scenes, [3, H, W] each, of the same sizes.
        targets: as the model takes them.

    Raises: TypeError for another model; ValueError for one in eval mode, and for views whose
    numbers or sizes differ.
    """
    if not isinstance(model, FasterRCNN | RetinaNet | FCOS):
        raise TypeError(
            f"model must be torchvision's FasterRCNN, RetinaNet or FCOS, got {type(model).__name__}"
        )
    if not model.training:
        raise ValueError("model must be in training mode, got one in eval mode")
    sizes = [[list(image.shape) for image in view] for view in (images_a, images_b)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"images_a and images_b must have the same sizes, got {sizes}")
    draws = torch.get_rng_state()
    roi = isinstance(model, FasterRCNN)
    watched = [model.roi_heads.box_roi_pool, model.roi_heads.box_predictor] if roi else [model.head]
    with _calls(watched) as calls:
        losses = model(list(images_a), list(targets))
    features = _features_as(model, images_b, draws)
    if not roi:
        (_, a), b = calls[-1], model.head(list(features.values()))
        pair = tuple(out["cls_logits"].flatten(0, 1) for out in (a, b))
        boxes = tuple(out["bbox_regression"].flatten(0, 1) for out in (a, b))
        return losses, Pairs(pair, boxes, pair[0].detach().sigmoid().amax(-1), "sigmoid")
    ((_, proposals, shapes), _), (_, (logits, deltas)) = calls
    pooled = model.roi_heads.box_roi_pool(features, proposals, shapes)
    other, other_deltas = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    best = logits.detach()[:, 1:].argmax(-1) + 1  # class 0 is the background
    rows = torch.arange(len(best), device=best.device)
    boxes = tuple(d.view(len(best), -1, 4)[rows, best] for d in (deltas, other_deltas))
    present = 1 - logits.detach().softmax(-1)[:, 0]
    return losses, Pairs((logits, other), boxes, present, "softmax")


def _features_as(model: Any, images: Sequence[Tensor], draws: Tensor) -> dict[str, Tensor]:
    """The backbone's maps of images, resized by the same draws as the state `draws` led to."""
    after = torch.get_rng_state()
    torch.set_rng_state(draws)
    resized, _ = model.transform(list(images))
    torch.set_rng_state(after)
    features = model.backbone(resized.tensors)
    return {"0": features} if isinstance(features, Tensor) else features


@contextmanager
def _calls(modules: Sequence[nn.Module]) -> Iterator[list[tuple[tuple, Any]]]:
    """(arguments, result) of the calls of these modules inside, in order."""
    found: list[tuple[tuple, Any]] = []
    handles = [
        module.register_forward_hook(lambda _, args, out: found.append((args, out)))
        for module in modules
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
