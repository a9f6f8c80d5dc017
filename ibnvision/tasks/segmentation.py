"""Semantic segmentation: images [N, 3, H, W] in [0, 1] to class ids [N, H, W], 255 ignored."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional as transform
from torchvision.utils import draw_segmentation_masks

from ibnvision.data.names import known
from ibnvision.methods.whitening import InstanceWhitening
from ibnvision.metrics import IGNORE, SegmentationMetric

from .panels import enlarge, in_a_row, legend, to_bytes
from .segmentation_augment import AUGMENTS
from .segmentation_augment import augment as augment  # one of the functions of a task
from .segmentation_network import Normalized

score = "miou_pct"
EVALUATION_BATCH = 0
RAGGED = False
collate = default_collate
WINDOWS = {"native": None, "half": (512, 341)}  # protocol -> side and stride of sliding windows
_LOSS_ARGS = {"auxiliary": 0.4, "whitening": 0.6}  # weights, as published for RobustNet
_WHITENING = ("kind", "begin", "collect", "clusters")


def check(cfg: Any) -> None:
    """Refuse what this task cannot train.

    Raises: KeyError for an unknown key of `loss_args` or part of `augment`; TypeError and
    ValueError for their values.
    """
    parts = cfg.augment.split("+")
    for part in parts:
        known("augment", part, AUGMENTS)
    if "none" in parts and len(parts) > 1:
        raise ValueError(f"augment must name none alone, got {cfg.augment!r}")
    for key, value in cfg.loss_args.items():
        known("loss_args key", key, _LOSS_ARGS)
        if type(value) not in (int, float):
            raise TypeError(f"loss_args.{key} must be a number, got {value!r}")
        if not value >= 0:
            raise ValueError(f"loss_args.{key} must be at least 0, got {value!r}")


def build_model(
    name: str,
    *,
    num_classes: int,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    whitening: dict[str, Any] | None = None,
    **args: Any,
) -> nn.Module:
    """A segmenter on a timm backbone: images [N, 3, H, W] in [0, 1] to logits [N, K, H, W].

    `args` go to `ibnvision.models.create_segmenter`; unknown names are its errors. whitening: a
    loss on instance covariances, {kind = "irw" or "isw", begin, collect, clusters} as in
    `methods.whitening.InstanceWhitening`; it sets norm="whiten".

    Raises: KeyError for an unknown key or kind of whitening; ValueError for another norm beside it.
    """
    from ibnvision.models import create_segmenter

    if whitening is None:
        return Normalized(create_segmenter(name, num_classes, **args), mean, std)
    for key in whitening:
        known("model_args.whitening key", key, _WHITENING)
    options = dict(whitening)
    kind = known("model_args.whitening.kind", options.pop("kind", "isw"), ("irw", "isw"))
    if args.setdefault("norm", "whiten") != "whiten":
        raise ValueError(
            f"model_args.norm must be left out beside model_args.whitening, got {args['norm']!r}"
        )
    network = create_segmenter(name, num_classes, **args)
    loss = InstanceWhitening(network.whitened_channels, selective=kind == "isw", **options)
    return Normalized(network, mean, std, loss)


def compute_loss(model: nn.Module, batch: dict[str, Any], cfg: Any) -> Tensor:
    """Mean cross entropy over the labelled pixels, in float32; 0 where a batch has none.

    Plus `loss_args.auxiliary` (0.4) times that of the auxiliary head and `loss_args.whitening`
    (0.6) times the whitening loss, where the model has them.
    """
    out, target = model(batch["image"]), batch["target"]
    if isinstance(out, Tensor):
        return _cross_entropy(out, target)
    weights = _LOSS_ARGS | cfg.loss_args
    loss = _cross_entropy(out["out"], target)
    if "aux" in out:
        loss = loss + weights["auxiliary"] * _cross_entropy(out["aux"], target)
    if "whitening" in out:
        loss = loss + weights["whitening"] * out["whitening"]
    return loss


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    total = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Class ids, int64 [N, H, W], of images [N, 3, H, W] in [0, 1]."""
    return model(images).argmax(1)


def evaluate(model: nn.Module, batch: dict[str, Any], cfg: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Class ids and targets, int64 [N, H, W], and the probability of those ids, float [N, H, W].

    The scores of `cfg.protocol` (native: the whole image at once; half: windows of 512 pixels with
    stride 341, averaged) are brought to the size of the target, bilinearly. With several
    `cfg.eval_scales`, or `cfg.eval_flip`, probabilities are averaged over the resized and mirrored
    images.
    """
    images, target = batch["image"], batch["target"]
    size = tuple(target.shape[1:])
    views = [
        (s, m) for s in cfg.eval_scales for m in ((False, True) if cfg.eval_flip else (False,))
    ]
    total: Any = 0
    for scale, mirrored in views:
        view = _rescaled(images, scale)
        scores = _scores(model, view.flip(-1) if mirrored else view, WINDOWS[cfg.protocol])
        scores = scores.flip(-1) if mirrored else scores
        if tuple(scores.shape[2:]) != size:
            scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
        total = total + scores.softmax(1)
    confidence, ids = (total / len(views)).max(1)
    return ids, target, confidence


def facts(cfg: Any) -> dict[str, Any]:
    """Protocol, windows, sizes and mirroring of `evaluate`."""
    window = WINDOWS[cfg.protocol]
    return {
        "protocol": cfg.protocol,
        "windows": f"{window[0]} px, stride {window[1]}" if window else "whole image",
        "eval_scales": list(cfg.eval_scales),
        "eval_flip": cfg.eval_flip,
    }


def _rescaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return transform.resize(images, size, antialias=True)


def _scores(model: nn.Module, images: Tensor, window: tuple[int, int] | None) -> Tensor:
    if window is None:
        return model(images).float()
    from ibnvision.models.windows import slide

    side, stride = window
    return slide(model, images, window=(side, side), stride=(stride, stride))


def new_metric(classes: Sequence[str]) -> SegmentationMetric:
    """Per-class IoU, mean IoU, pixel accuracy and calibration over a set."""
    return SegmentationMetric(classes)


def draw(
    image: Tensor,
    target: Tensor | None,
    prediction: Tensor,
    *,
    classes: Sequence[str],
    palette: Tensor,
) -> Tensor:
    """Input, target if any, and prediction side by side above a legend: uint8 [3, h, w].

    image: float [3, H, W] in [0, 1], brought to the size of the prediction; target, prediction:
    class ids [H, W]; palette: uint8, at least K rows of 3. Small images are enlarged by a whole
    factor.
    """
    if image.shape[1:] != prediction.shape:
        image = transform.resize(image, list(prediction.shape), antialias=True)
    picture = enlarge(to_bytes(image))
    colours = [tuple(row) for row in palette[: len(classes)].tolist()]

    def painted(ids: Tensor) -> Tensor:
        masks = torch.stack([ids.cpu() == k for k in range(len(classes))])
        return draw_segmentation_masks(picture, enlarge(masks), alpha=0.7, colors=colours)

    panels = {"input": picture}
    if target is not None:
        panels["target"] = painted(target)
    panels["prediction"] = painted(prediction)
    row = in_a_row(panels)
    return torch.cat([row, legend(classes, palette, row.shape[2])], 1)
