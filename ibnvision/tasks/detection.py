"""Detection: images in [0, 1], each of its own size, to boxes with a class and a score.

A target is {"boxes": float32 [n, 4], x0 y0 x1 y1 in pixels, "labels": int64 [n] from 1, "ignore":
bool [n], "area", "image_id"}, see `ibnvision.data`; a prediction {"boxes", "labels", "scores"}.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import draw_bounding_boxes

from ibnvision.data.names import known
from ibnvision.methods.oa_mix import oa_mix
from ibnvision.metrics import DetectionMetric

from .detection_augment import AUGMENTS
from .detection_augment import augment as augment  # one of the functions of a task
from .detection_network import TwoViews, restorer_in_front
from .panels import enlarge, in_a_row, legend, to_bytes

score = "ap50_pct"
EVALUATION_BATCH = 1  # a detector pads the images of a batch to one size, which moves its results
RAGGED = True
SHOWN = 0.5  # score from which on a box is drawn
CONSISTENCY_LOSSES = ("class_consistency", "box_consistency")
LOSSES = {  # detector -> the losses of its training, whose weights `loss_args` may change
    "faster_rcnn": ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"),
    "retinanet": ("classification", "bbox_regression"),
    "fcos": ("classification", "bbox_regression", "bbox_ctrness"),
}


def check(cfg: Any) -> None:
    """Refuse what this task cannot train or evaluate.

    Raises: KeyError for an unknown detector, key of `loss_args` or part of `augment`; TypeError and
    ValueError for their values, and for a protocol of evaluation that boxes do not have.
    """
    parts = cfg.augment.split("+")
    for part in parts:
        known("augment", part, AUGMENTS)
    if "none" in parts and len(parts) > 1:
        raise ValueError(f"augment must name none alone, got {cfg.augment!r}")
    detector = cfg.model_args.get("detector", "faster_rcnn")
    losses = LOSSES[known("model_args.detector", detector, LOSSES)]
    losses += CONSISTENCY_LOSSES if cfg.model_args.get("consistency") else ()
    for name in LOSSES:
        if not isinstance(cfg.model_args.get(name, {}), dict):
            raise TypeError(f"model_args.{name} must be a table, got {cfg.model_args[name]!r}")
    for key, value in cfg.loss_args.items():
        known(f"loss_args key of {detector}", key, losses)
        if type(value) not in (int, float):
            raise TypeError(f"loss_args.{key} must be a number, got {value!r}")
        if not value >= 0:
            raise ValueError(f"loss_args.{key} must be at least 0, got {value!r}")
    if cfg.protocol != "native" or cfg.eval_scales != (1.0,) or cfg.eval_flip:
        raise ValueError(
            "protocol, eval_scales and eval_flip must be left out in detection, where an image is "
            f"seen once, got {cfg.protocol!r}, {list(cfg.eval_scales)}, {cfg.eval_flip}"
        )
    if cfg.class_uniform:
        raise ValueError(
            f"class_uniform must be 0 in detection, where crops have no classes of pixels, got "
            f"{cfg.class_uniform}"
        )


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """{image, target, domain} of lists, an entry for each item: images may differ in size."""
    return {key: [item[key] for item in items] for key in ("image", "target", "domain")}


def build_model(
    name: str,
    *,
    num_classes: int,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    restorer: dict[str, Any] | None = None,
    consistency: str = "",
    **args: Any,
) -> nn.Module:
    """A detector of torchvision on a timm backbone, see `ibnvision.models.create_detector`.

    `args` go there; unknown names are its errors. num_classes: without background. min_size 0, a
    number for configs: images keep their size. restorer: a restoration network in front of it, see
    `detection_network.restorer_in_front`. consistency: a name in CONSISTENCY there, a loss that
    holds what is said of an image and of the same one under `oa_mix` together; "" for none. `args`
    may hold a table for each detector, see `chosen`.
    """
    from ibnvision.models import create_detector

    args = chosen(args)
    if args.get("min_size") == 0:
        args["min_size"] = None
    network = create_detector(name, num_classes=num_classes, mean=mean, std=std, **args)
    if consistency:
        network = TwoViews(network, consistency)
    return restorer_in_front(network, restorer) if restorer else network


def chosen(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a model without the tables that are named after detectors, but with what that of
    its own detector holds: one config for all of them, `model_args.detector=fcos` chooses.
    """
    own = args.get(args.get("detector", "faster_rcnn"), {})
    return {key: value for key, value in args.items() if key not in LOSSES} | own


def compute_loss(model: nn.Module, batch: dict[str, Any], cfg: Any) -> Tensor:
    """The sum of the detector's losses, each times its weight in `loss_args` (1).

    Objects to ignore are no targets: what is found there counts as background, as in torchvision's
    own training.
    """
    targets = [trainable(target) for target in batch["target"]]
    views = [_mixed(batch)] if cfg.model_args.get("consistency") else []
    losses = model(batch["image"], targets, *views)
    return torch.stack([cfg.loss_args.get(k, 1.0) * v.float() for k, v in losses.items()]).sum()


@torch.no_grad()
def _mixed(batch: dict[str, Any]) -> list[Tensor]:
    """The images of a batch under `oa_mix`, where everything stays in its place."""
    seed = int(torch.randint(2**62, ()))  # of the global generator, which checkpoints hold
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(batch["image"], batch["target"], strict=True)
    return [oa_mix(image, target["boxes"], generator) for image, target in pairs]


def trainable(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Boxes and labels of the objects that are not to be ignored and have an area: one of next to
    none at the border may lose it in a flip, and torchvision stops at such.
    """
    boxes = target["boxes"]
    kept = ~target["ignore"] & (boxes[:, 2:] > boxes[:, :2]).all(1)
    return {key: target[key][kept] for key in ("boxes", "labels")}


def predict(model: nn.Module, images: Sequence[Tensor] | Tensor) -> list[dict[str, Tensor]]:
    """{"boxes", "labels", "scores"} of each image [3, H, W] in [0, 1], best first."""
    return model(list(images))


def evaluate(model: nn.Module, batch: dict[str, Any], cfg: Any) -> tuple[list, list]:
    """Predictions and targets of a batch; there is one protocol, whole images."""
    return predict(model, batch["image"]), batch["target"]


def facts(cfg: Any) -> dict[str, Any]:
    """At which size the detector sees an image, and which of its boxes it keeps."""
    from ibnvision.models import detector_defaults

    args = chosen(cfg.model_args)
    detector = args.get("detector", "faster_rcnn")
    used = {key: args.get(key, value) for key, value in detector_defaults(detector).items()}
    if used["min_size"] == 0:
        used |= {"min_size": "that of the image", "max_size": None}
    return {"detector": detector, **used}


def new_metric(classes: Sequence[str]) -> DetectionMetric:
    """AP by COCO's and VOC's rules, and calibration, over a set."""
    return DetectionMetric(classes)


def draw(
    image: Tensor,
    target: dict[str, Tensor] | None,
    prediction: dict[str, Tensor],
    *,
    classes: Sequence[str],
    palette: Tensor,
) -> Tensor:
    """Target, if any, and prediction side by side above a legend: uint8 [3, h, w].

    image: float [3, H, W] in [0, 1]; palette: uint8 RGB, at least K rows. Boxes with a score below
    SHOWN are left out; objects to ignore are white. Small images are enlarged by a whole factor.
    """
    picture = enlarge(to_bytes(image))
    factor = picture.shape[-1] / image.shape[-1]
    panels = {}
    if target is not None:
        panels["target"] = draw_objects(picture, target, palette, factor)
    shown = prediction["scores"] >= SHOWN
    kept = {key: prediction[key][shown] for key in ("boxes", "labels")}
    panels["prediction"] = draw_objects(picture, kept, palette, factor)
    row = in_a_row(panels)
    return torch.cat([row, legend(classes, palette, row.shape[2])], 1)


def draw_objects(
    picture: Tensor,
    objects: dict[str, Tensor],
    palette: Tensor,
    factor: float = 1.0,
    words: list[str] | None = None,
) -> Tensor:
    """A picture, uint8 [3, H, W], with boxes in the colours of their classes.

    objects: "boxes" [n, 4], which are enlarged by `factor`, "labels" [n] from 1, perhaps "ignore".
    words: one for each box.
    """
    boxes = objects["boxes"].detach().cpu() * factor
    if not len(boxes):
        return picture
    colours = [tuple(palette[label - 1].tolist()) for label in objects["labels"].tolist()]
    if "ignore" in objects:
        hidden = objects["ignore"].tolist()
        colours = [(255, 255, 255) if h else c for h, c in zip(hidden, colours, strict=True)]
    side = picture.shape[-1]
    return draw_bounding_boxes(
        picture, boxes, labels=words, colors=colours, width=max(1, round(side / 400))
    )
