"""Object detection: torchvision's detectors on any timm feature backbone."""

import difflib
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSRegressionHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from ibnvision.layers import keep_modes

from .backbone import check_names, create_features, freeze_norms, freeze_stages, known
from .feature_pyramid import FPN_NORMS, DetectorBackbone, SimpleFeaturePyramid
from .placement import fuse, place_mixstyle, place_norm


@dataclass(frozen=True)
class Detector:
    """A detector of torchvision, and the maps and anchors that it has by default.

    build: its class. strides: of the levels that come from one map. anchor: side of a level's
    smallest anchor, in strides of that level. scales, ratios: of a level's anchors. anchors:
    keyword argument of the anchor generator. prefix: of the options of its results.
    """

    build: Any
    strides: tuple[int, ...]
    anchor: int
    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    anchors: str = "anchor_generator"
    prefix: str = ""

    def taps(self, reductions: Sequence[int]) -> list[int]:
        """Indices of the maps to read among a backbone's; [] where these do not fit."""
        count, need = len(reductions), len(self.strides)
        if len(set(reductions)) == 1:
            return [count - 1] if reductions[-1] in (4, 8, 16, 32) else []
        last = reductions[-need:]
        doubling = all(b == 2 * a for a, b in itertools.pairwise(last))
        return list(range(count - need, count)) if len(last) == need and doubling else []


_RATIOS = (0.5, 1.0, 2.0)
DETECTORS = {
    "faster_rcnn": Detector(
        FasterRCNN, (4, 8, 16, 32), 8, (1,), _RATIOS, "rpn_anchor_generator", "box_"
    ),
    "retinanet": Detector(RetinaNet, (8, 16, 32), 4, (1, 2 ** (1 / 3), 2 ** (2 / 3)), _RATIOS),
    "fcos": Detector(FCOS, (8, 16, 32), 1, (1,), (1.0,)),
}
_LEVELS = 5
_RESULTS = ("score_thresh", "nms_thresh", "detections_per_img")
_NEVER = -1e4  # a logit of probability 0, whatever the weights do around it


class _OwnSize(GeneralizedRCNNTransform):
    """Images keep their size."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mean={self.image_mean}, std={self.image_std})"


def create_detector(
    backbone: str,
    detector: str = "faster_rcnn",
    *,
    num_classes: int,
    pretrained: bool = False,
    in_chans: int = 3,
    norm: str | None = None,
    mixstyle: Sequence[int] = (),
    mixstyle_args: dict[str, Any] | None = None,
    fpn_channels: int = 256,
    fpn_norm: str | None = None,
    frozen_norm: bool | None = None,
    trainable_stages: int | None = None,
    min_size: int | Sequence[int] | None = 800,
    max_size: int = 1333,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    anchor_sizes: Sequence[float | Sequence[float]] | None = None,
    aspect_ratios: Sequence[float] | None = None,
    score_thresh: float | None = None,
    nms_thresh: float | None = None,
    detections_per_img: int | None = None,
    fused: bool = True,
    backbone_args: dict[str, Any] | None = None,
    **detector_args: Any,
) -> nn.Module:
    """A detector of torchvision on a timm backbone.

    Detectors: "faster_rcnn" (Ren et al., NeurIPS 2015), "retinanet" (Lin et al., ICCV 2017) and
    "fcos" (Tian et al., ICCV 2019), on a feature pyramid (Lin et al., CVPR 2017) of five levels.
    Faster R-CNN reads the last four maps, of strides 4 to 32, and a subsampled fifth; the others
    the last three, and two more by convolutions of stride 2. Of a backbone of one scale, as a plain
    ViT, the last map is made into SimpleFeaturePyramid. ViTs and Swins take any image size.

    Called as in torchvision. In training, model(images, targets): a dict of scalar losses; in
    evaluation, model(images): for each image {"boxes" [m, 4], "labels" int64 [m], "scores" [m]},
    best first, x0 y0 x1 y1 in pixels of that image. images: a list of [in_chans, H, W] in [0, 1],
    of any sizes, which the model normalizes and resizes; targets: a list of dicts with "boxes"
    [n, 4] and "labels" int64 [n] in 1..K, others ignored; n may be 0. AssertionError for boxes
    without area. See detection_losses for losses in evaluation.

    Batch norm and small batches: a detector often trains with 2 to 4 images of a step, whose batch
    statistics are poor, and a backbone from scratch may fit its source by statistics that no other
    domain has: a one-minute Faster R-CNN, trained so, read 91 AP50 on its source and 0 in fog and
    at night. Pretrained batch norms are therefore frozen by default, as in torchvision; from
    scratch take as many images as fit, or norms of the image alone, with fpn_norm "group" if any.

    The boxes of a new FCOS begin two units of length wide, at torchvision's a point: there the ReLU
    of one side may shut at every place for good, and a network from scratch then read 8 AP50 on its
    source where the next seed read 72.

    Under autocast the results of the heads are float32: torchvision takes its boxes' dtype from
    them, and bfloat16 knows only multiples of 4 pixels from 512 on. The model of a CNN or Swin
    scripts, without mixstyle and norm "sw"; scripted it gives (losses, detections). torch.export
    takes model.backbone, not the search for boxes behind it. For inference also
    fold_norm(model.backbone).

    Args:
        backbone: timm model name that supports features_only. Its coarse maps have to double
            their stride from one to the next.
        detector: a name in DETECTORS.
        num_classes: K, the number of classes of objects, without background; torchvision is built
            with K + 1. Label 0 is never predicted by a new model.
        pretrained: load the backbone's published weights.
        in_chans: channels of the images; other than 3 need mean and std.
        norm, mixstyle, mixstyle_args: as in create_segmenter. The whitening losses read
            model.backbone.standardized_maps() after a forward in training.
        fpn_channels: width of all levels; for "fcos" a multiple of 32 from 64 on.
        fpn_norm: a name in FPN_NORMS, after each convolution of the pyramid; None is none, but
            "layer" for a backbone of one scale.
        frozen_norm: layers of the backbone with batch statistics stay in eval mode and their
            weights and biases do not train; of an IBN the instance half goes on normalizing each
            image by its own statistics. Pure instance norms train. None: exactly if pretrained.
        trainable_stages: how many stages of the backbone train, counted from the last, in [0, 5];
            5 has the stem too; of a plain ViT a stage is a quarter of the blocks. None is 3 if
            pretrained, else 5. Norms below keep moving their statistics unless frozen.
        min_size, max_size: the shorter side is scaled to min_size pixels (in training to one of
            several, drawn for each image), the longer one to at most max_size. min_size None leaves
            images as they are.
        mean, std: of the images, by channel; None are those of the backbone's weights.
        anchor_sizes: sides in pixels of each level's anchors, for the five levels; a number of
            RetinaNet's stands for the three sizes of its octave, FCOS has one number a level, its
            unit of length. None are torchvision's, 32 to 512 (FCOS 8 to 128), at usual strides,
            and smaller for a backbone of smaller ones.
        aspect_ratios: height over width of the anchors at each level.
        score_thresh, nms_thresh, detections_per_img: which boxes evaluation gives; None are
            torchvision's.
        fused: run norms and activations of timm's CNNs through the fused op; numbers and names
            stay.
        backbone_args: further keyword arguments of the backbone, as {"ibn": "b"}.
        **detector_args: further ones of torchvision's class, as rpn_post_nms_top_n_train=200, and
            of its transform, size_divisible and fixed_size.

    Raises:
        KeyError: unknown backbone, detector, norm or fpn_norm.
        TypeError: unknown keyword argument.
        ValueError: a number out of range; a backbone whose maps do not fit the detector or that
            cannot take norm, mixstyle or trainable_stages; anchors of another number of levels.
    """
    known("detector", detector, DETECTORS)
    check_names(backbone, norm)
    if fpn_norm is not None:
        known("fpn_norm", fpn_norm, FPN_NORMS)
    kind = DETECTORS[detector]
    _check_numbers(num_classes, fpn_channels, trainable_stages, min_size)
    if detector == "fcos" and (fpn_channels % 32 or fpn_channels < 64):
        # its 32 groups would have one value each on a level of one pixel, which group norm refuses
        raise ValueError(f"fpn_channels must be 64, 96, ... for 'fcos', got {fpn_channels}")
    _check_keywords(kind, detector, detector_args)
    features, ours = _create(
        backbone, norm, {"pretrained": pretrained, "in_chans": in_chans, **(backbone_args or {})}
    )
    reductions = features.feature_info.reduction()
    taps = kind.taps(reductions)
    if not taps:
        raise ValueError(_misfit(backbone, detector, reductions))
    place_norm(features, norm, ours, fused)
    if mixstyle:
        place_mixstyle(features, mixstyle, mixstyle_args or {})
    if trainable_stages is None:
        trainable_stages = 3 if pretrained else 5
    freeze_stages(features, trainable_stages)
    frozen = freeze_norms(features) if (pretrained if frozen_norm is None else frozen_norm) else []
    channels = features.feature_info.channels()
    pyramid, strides = _pyramid(
        kind, [channels[i] for i in taps], [reductions[i] for i in taps], fpn_channels, fpn_norm
    )
    if fused:
        fuse(pyramid)
    options = {
        kind.anchors: _anchors(kind, strides, anchor_sizes, aspect_ratios),
        **_results(kind, score_thresh, nms_thresh, detections_per_img),
        "size_divisible": max(reductions[-1], strides[len(kind.strides) - 1]),
        **_normalization(features, in_chans, mean, std),
        "min_size": 800 if min_size is None else min_size,
        "max_size": max_size,
    }
    levels = DetectorBackbone(features, taps, pyramid, fpn_channels, frozen)
    model = kind.build(levels, num_classes + 1, **{**options, **detector_args})
    if min_size is None:
        old = model.transform
        model.transform = _OwnSize(1, 1, old.image_mean, old.image_std, old.size_divisible)
    if "head" not in detector_args:
        _silence_background(model, num_classes)
        _open_boxes(model)
    _widen_results(model)
    model.num_classes = num_classes
    return model


def detection_losses(
    model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The losses of training, computed in evaluation: running statistics are used and stay.

    Images are resized as in evaluation. Chance is only in the samplers of Faster R-CNN, from
    torch's global generator. Gradients are recorded unless the caller switches them off. The modes
    of all modules are as before afterwards.

    Args:
        model: a detector of create_detector or torchvision.
        images, targets: as in training.
    """
    with keep_modes(model):
        model.eval()
        for part in (model, getattr(model, "rpn", None), getattr(model, "roi_heads", None)):
            if part is not None:
                part.training = True  # it alone, its children stay in eval mode
        return model(images, targets)


def detector_defaults(detector: str) -> dict[str, Any]:
    """To which sizes a detector of create_detector scales images and which boxes it gives where
    nothing else is asked for: min_size, max_size, score_thresh, nms_thresh, detections_per_img.
    """
    known("detector", detector, DETECTORS)
    kind = DETECTORS[detector]
    ours = inspect.signature(create_detector).parameters
    theirs = inspect.signature(kind.build.__init__).parameters
    sizes = {name: ours[name].default for name in ("min_size", "max_size")}
    return sizes | {name: theirs[f"{kind.prefix}{name}"].default for name in _RESULTS}


def _create(name: str, norm: str | None, arguments: dict[str, Any]) -> tuple[Any, bool]:
    try:
        return create_features(name, norm, None, {"dynamic_img_size": True, **arguments})
    except TypeError as error:  # a CNN, which takes any size by nature
        if "dynamic_img_size" not in str(error) or "dynamic_img_size" in arguments:
            raise
    return create_features(name, norm, None, arguments)


def _check_numbers(
    num_classes: int,
    fpn_channels: int,
    trainable_stages: int | None,
    min_size: int | Sequence[int] | None,
) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, without background, got {num_classes}")
    if fpn_channels < 1:
        raise ValueError(f"fpn_channels must be at least 1, got {fpn_channels}")
    if trainable_stages not in (None, 0, 1, 2, 3, 4, 5):
        raise ValueError(f"trainable_stages must lie in [0, 5], got {trainable_stages}")
    sizes = [min_size] if isinstance(min_size, int) else min_size
    if sizes is not None and (not sizes or min(sizes) < 1):
        raise ValueError(f"min_size must be at least 1 pixel, or None, got {min_size}")


def _check_keywords(kind: Detector, detector: str, given: dict[str, Any]) -> None:
    own = {"self", "backbone", "num_classes", "image_mean", "image_std", "kwargs", kind.anchors}
    names = {*inspect.signature(kind.build.__init__).parameters, "size_divisible", "fixed_size"}
    for name in given.keys() - (names - own):
        mine = [*inspect.signature(create_detector).parameters, *(names - own)]
        near = difflib.get_close_matches(name, [n for n in mine if n != "detector_args"], 1, 0.0)[0]
        raise TypeError(
            f"create_detector has no argument {name!r} for {detector!r}, nearest {near!r}"
        )


def _misfit(backbone: str, detector: str, reductions: Sequence[int]) -> str:
    need = len(DETECTORS[detector].strides)
    others = [name for name, kind in DETECTORS.items() if kind.taps(reductions)]
    return (
        f"detector {detector!r} needs {need} last maps, each of twice the reduction of the one "
        f"before, or maps of one reduction out of 4, 8, 16 and 32; those of {backbone!r} have "
        f"reductions {reductions}. Detectors for them: {', '.join(others) or 'none'}"
        + ("" if others else "; backbones that fit all: resnet50, resnet50_ibn_a, convnext_tiny")
    )


def _pyramid(
    kind: Detector,
    channels: Sequence[int],
    reductions: Sequence[int],
    width: int,
    norm: str | None,
) -> tuple[nn.Module, list[int]]:
    """The pyramid over the tapped maps and the strides of its levels."""
    extra = LastLevelMaxPool() if len(kind.strides) == 4 else LastLevelP6P7(width, width)
    layer = FPN_NORMS[norm or "layer"]
    strides = list(kind.strides if len(reductions) == 1 else reductions)
    pyramid: nn.Module
    if len(reductions) == 1:
        pyramid = SimpleFeaturePyramid(channels[0], width, reductions[0], strides, extra, layer)
    else:
        pyramid = FeaturePyramidNetwork(list(channels), width, extra, layer if norm else None)
    while len(strides) < _LEVELS:
        strides.append(2 * strides[-1])
    return pyramid, strides


def _anchors(
    kind: Detector,
    strides: Sequence[int],
    sizes: Sequence[float | Sequence[float]] | None,
    ratios: Sequence[float] | None,
) -> AnchorGenerator:
    if sizes is None:
        sizes = [kind.anchor * stride for stride in strides]
    if len(sizes) != _LEVELS:
        raise ValueError(
            f"anchor_sizes must have an entry for each of the {_LEVELS} levels, of strides "
            f"{', '.join(map(str, strides))}; got {len(sizes)}"
        )
    levels = [
        tuple(size)
        if isinstance(size, Sequence)
        else tuple(size if scale == 1 else int(size * scale) for scale in kind.scales)
        for size in sizes
    ]
    ratios = tuple(kind.ratios if ratios is None else ratios)
    counts = {len(level) for level in levels}
    if len(counts) > 1 or (kind.build is FCOS and (counts != {1} or len(ratios) != 1)):
        rule = "one size and one ratio" if kind.build is FCOS else "as many sizes"
        raise ValueError(
            f"anchor_sizes must have {rule} at each level, got {levels} and {len(ratios)} ratios"
        )
    return AnchorGenerator(tuple(levels), (ratios,) * _LEVELS)


def _results(
    kind: Detector, score: float | None, nms: float | None, count: int | None
) -> dict[str, Any]:
    given = dict(zip(_RESULTS, (score, nms, count), strict=True))
    return {f"{kind.prefix}{name}": value for name, value in given.items() if value is not None}


def _normalization(
    features: Any, in_chans: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, list[float]]:
    published = timm.data.resolve_model_data_config(features)
    found = {}
    for name, given in (("mean", mean), ("std", std)):
        values = [float(v) for v in (published[name] if given is None else given)]
        if len(values) != in_chans:
            raise ValueError(
                f"{name} must have a value for each of in_chans={in_chans}, got {values}"
                + ("" if given is not None else ", those of the backbone's weights")
            )
        found[f"image_{name}"] = values
    return found


@torch.no_grad()
def _silence_background(model: Any, num_classes: int) -> None:
    """RetinaNet and FCOS have a logit of class 0, which no target names: give it no chance."""
    if hasattr(model, "head"):
        logits = model.head.classification_head.cls_logits
        logits.weight[:: num_classes + 1] = 0
        logits.bias[:: num_classes + 1] = _NEVER


@torch.no_grad()
def _open_boxes(model: Any) -> None:
    """Let the boxes of FCOS begin two of their unit of length wide, not at a point: what is left of
    them passes a ReLU, and a side that it shuts at every place never learns again.
    """
    distances = getattr(getattr(model, "head", None), "regression_head", None)
    if isinstance(distances, FCOSRegressionHead):
        distances.bbox_reg.bias.fill_(1.0)


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _widen_lists(
    self: Any, x: tuple[list[Tensor]], y: tuple[list[Tensor], list[Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    return [_widen(z) for z in y[0]], [_widen(z) for z in y[1]]


def _widen_pair(self: Any, x: tuple[Tensor], y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return _widen(y[0]), _widen(y[1])


def _widen_dict(self: Any, x: tuple[list[Tensor]], y: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: _widen(z) for name, z in y.items()}


def _widen_results(model: Any) -> None:
    """Hooks, which scripting takes too, so that no name in the state changes."""
    if hasattr(model, "head"):
        model.head.register_forward_hook(_widen_dict)
    else:
        model.rpn.head.register_forward_hook(_widen_lists)
        model.roi_heads.box_predictor.register_forward_hook(_widen_pair)
