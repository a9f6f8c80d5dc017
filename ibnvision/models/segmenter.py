"""Semantic segmentation: any timm feature backbone and a head."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.layers import InstanceWhiteningAct2d

from .backbone import check_names, create_features, known
from .placement import fuse, place_mixstyle, place_norm
from .seg_heads import HEADS, auxiliary_head


class Segmenter(nn.Module):
    """A feature backbone, a head on some of its maps, and what training adds.

    Args:
        backbone: timm network built with features_only.
        head: called with a list of maps [N, C, h, w]; gives logits of any size.
        taps: indices of these maps among the backbone's, finest first.
        num_classes: K.
        multiple: images whose sides are no multiples of it are extended at the right and at the
            bottom by their last pixels; the logits are cut again.
        auxiliary: a head on the last map but one, read in training only.

    Attributes:
        whitened_channels: C of every map that a whitening layer standardizes, in running order.
    """

    whitened_channels: list[int]

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        taps: Sequence[int],
        num_classes: int,
        multiple: int = 1,
        auxiliary: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary
        self.taps = list(taps)
        self.num_classes = num_classes
        self.multiple = multiple
        self.channels_last_maps = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        self.whitened_channels = [layer.num_features for layer in self._whitening()]

    def forward(self, x: Tensor) -> Tensor:
        """x: images [N, in_chans, H, W]; logits [N, K, H, W] in the dtype of the backbone.

        In training with an auxiliary head or whitening layers, a dict: "out" the logits, "aux"
        those of the auxiliary head, "whiten" a list of [N, C, h, w], the standardized maps before
        their activation. Scripted code always gives the logits alone.
        """
        images = self._extend(x) if self.multiple > 1 else x
        features = self.backbone(images)
        y = self._resize(self.head([self._map(features[i]) for i in self.taps]), images, x)
        if self.training and not torch.jit.is_scripting():
            return self._with_extras(y, features, images, x)
        return y

    @torch.jit.unused
    def standardized_maps(self, x: Tensor) -> list[Tensor]:
        """The maps of "whiten" for images [N, in_chans, H, W], in any mode, without the head."""
        layers = self._whitening()
        for layer in layers:
            layer.keep = True
        try:
            self.backbone(self._extend(x))
            return [layer.take() for layer in layers]
        finally:
            for layer in layers:
                layer.keep = False

    @torch.jit.unused
    def _with_extras(self, y: Tensor, features: list[Tensor], images: Tensor, x: Tensor) -> Any:
        extras: dict[str, Any] = {}
        if self.auxiliary is not None:
            extras["aux"] = self._resize(self.auxiliary(self._map(features[-2])), images, x)
        if self.whitened_channels:
            extras["whiten"] = [layer.take() for layer in self._whitening()]
        return {"out": y, **extras} if extras else y

    def _map(self, feature: Tensor) -> Tensor:
        return feature.permute(0, 3, 1, 2) if self.channels_last_maps else feature

    def _extend(self, x: Tensor) -> Tensor:
        h, w, m = x.shape[-2], x.shape[-1], self.multiple
        below, right = (m - h % m) % m, (m - w % m) % m
        return F.pad(x, [0, right, 0, below], mode="replicate") if below + right > 0 else x

    def _resize(self, y: Tensor, images: Tensor, x: Tensor) -> Tensor:
        y = F.interpolate(y, images.shape[-2:], mode="bilinear", align_corners=False)
        return y[..., : x.shape[-2], : x.shape[-1]] if self.multiple > 1 else y

    @torch.jit.unused
    def _whitening(self) -> list[InstanceWhiteningAct2d]:
        return [m for m in self.backbone.modules() if isinstance(m, InstanceWhiteningAct2d)]


def create_segmenter(
    backbone: str,
    num_classes: int,
    *,
    head: str = "light",
    head_channels: int | None = None,
    pretrained: bool = False,
    in_chans: int = 3,
    output_stride: int | None = None,
    auxiliary: bool = False,
    norm: str | None = None,
    mixstyle: Sequence[int] = (),
    mixstyle_args: dict[str, Any] | None = None,
    fused: bool = True,
    backbone_args: dict[str, Any] | None = None,
) -> Segmenter:
    """Segmenter on a timm backbone.

    Heads: "light", two maps joined, small; "tokens", linear, for a ViT; and the decoders of
    segmentation_models_pytorch: "deeplabv3plus" (Chen et al., ECCV 2018: separable convolutions,
    rates 6, 12, 18 at output stride 16, twice that at 8), "fpn" (Kirillov et al., CVPR 2019; its
    own upsampling aligns corners), "upernet" (Xiao et al., ECCV 2018) and "segformer" (Xie et al.,
    NeurIPS 2021). "deeplabv3plus" reads the map of reduction 4, or the nearest, and the last one;
    the next three the last four.

    Norms, put where RobustNet puts them (stem, and last residual sum of stages 1 and 2; a CNN with
    further norms before its first residual sum, as MobileNetV2, has them there too): "ibn_b",
    instance norm (the published "IBN" and "IN" rows of RobustNet are this one); "whiten", the same
    without weight and bias, for the losses IRW and ISW; "sw", switchable whitening, which is traced
    or exported, not scripted. And "ibn_a".

    Args:
        backbone: timm model name that supports features_only.
        num_classes: number of classes K, at least 1.
        head: a name in HEADS.
        head_channels: width of the head, at least 2; None is 64 for "light", 256 for decoders.
            "tokens" has none; "fpn" needs a multiple of 64.
        pretrained: load the backbone's published weights.
        in_chans: channels of the images.
        output_stride: stride of the last map, 4, 8, 16 or 32; None leaves the backbone's own, but
            is 16 for "deeplabv3plus".
        auxiliary: train a second head, twice as wide, on the third stage (the last map but one).
        norm: a name in NORMS; None leaves the backbone as its name says. The resnet*_ibn are built
            with it, any other CNN is converted by layers.convert_to_ibn after its weights.
        mixstyle: stages, from 1, whose results MixStyle mixes in training. Scripting needs a model
            without; the state is the same.
        mixstyle_args: keyword arguments of layers.MixStyle.
        fused: run norms and activations of timm's CNNs, of decoders and of the auxiliary head
            through the fused op; numbers and names stay.
        backbone_args: further keyword arguments of the backbone, as {"ibn": "b"}.

    Raises:
        KeyError: unknown backbone, head or norm.
        ValueError: num_classes, head_channels, output_stride or mixstyle out of range; weights of
            another norm; a backbone whose maps do not fit the head, or that cannot take the norm.
        ImportError: segmentation_models_pytorch is missing.
    """
    _check(backbone, head, norm, num_classes, head_channels, output_stride)
    kind = HEADS[head]
    if output_stride is None and head == "deeplabv3plus":
        output_stride = 16
    arguments = {"pretrained": pretrained, "in_chans": in_chans, **(backbone_args or {})}
    features, ours = create_features(backbone, norm, output_stride, arguments)
    reductions = features.feature_info.reduction()
    _check_fit(backbone, head, reductions, output_stride)
    place_norm(features, norm, ours, fused)
    if mixstyle:
        place_mixstyle(features, mixstyle, mixstyle_args or {})

    taps, width = kind.taps(reductions), head_channels or kind.width
    channels = features.feature_info.channels()
    maps = kind.build(
        [channels[i] for i in taps], [reductions[i] for i in taps], num_classes, width
    )
    second = None
    if auxiliary:
        if len(reductions) < 2:
            raise ValueError(f"auxiliary needs two maps or more, {backbone!r} gives one")
        second = auxiliary_head(channels[-2], num_classes, 2 * width)
    if fused:
        fuse(maps)
        if second is not None:
            fuse(second)
    multiple = reductions[-1] if kind.aligned else 1
    return Segmenter(features, maps, taps, num_classes, multiple, second)


def _check(
    backbone: str,
    head: str,
    norm: str | None,
    num_classes: int,
    head_channels: int | None,
    output_stride: int | None,
) -> None:
    known("head", head, HEADS)
    check_names(backbone, norm)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if head_channels is not None and head_channels < 2:
        raise ValueError(f"head_channels must be at least 2, got {head_channels}")
    if output_stride not in (None, 4, 8, 16, 32):
        raise ValueError(f"output_stride must be one of (4, 8, 16, 32), got {output_stride}")


def _check_fit(
    backbone: str, head: str, reductions: Sequence[int], output_stride: int | None
) -> None:
    if output_stride is not None and reductions[-1] > output_stride:
        raise ValueError(
            f"output_stride {output_stride} is out of reach of {backbone!r} with reductions "
            f"{reductions}; give output_stride=32, or use another head than {head!r}"
            if head == "deeplabv3plus"
            else f"output_stride {output_stride} is out of reach of {backbone!r}, whose maps have "
            f"reductions {reductions}"
        )
    problem = HEADS[head].problem(reductions)
    if problem:
        others = [name for name, kind in HEADS.items() if not kind.problem(reductions)]
        raise ValueError(
            f"head {head!r} needs {problem}; those of {backbone!r} have reductions {reductions}. "
            f"Heads for them: {', '.join(others)}"
        )
