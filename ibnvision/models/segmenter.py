"""Semantic segmentation: any timm feature backbone and a small head."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.layers import BatchNormAct2d


class FPNHead(nn.Module):
    """One fine and one coarse feature map, reduced, joined at the finer size and classified.

    Args:
        low_channels, high_channels: channels of the fine and of the coarse map.
        num_classes: K.
        channels: width of the joined map, half from each.
    """

    def __init__(
        self, low_channels: int, high_channels: int, num_classes: int, channels: int = 64
    ) -> None:
        super().__init__()
        half = channels // 2
        self.reduce_low = nn.Conv2d(low_channels, half, 1, bias=False)
        self.reduce_high = nn.Conv2d(high_channels, channels - half, 1, bias=False)
        self.norm1 = BatchNormAct2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = BatchNormAct2d(channels)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low: [N, C1, H1, W1], high: [N, C2, H2, W2]; logits [N, K, H1, W1]."""
        low, high = self.reduce_low(low), self.reduce_high(high)
        if high.shape[-2:] != low.shape[-2:]:
            high = F.interpolate(high, low.shape[-2:], mode="bilinear", align_corners=False)
        x = self.norm1(torch.cat((low, high), 1))
        return self.classifier(self.norm2(self.conv(x)))


class TokenHead(nn.Module):
    """Each vector of the coarse map, normalized, to classes on a grid of CELLS x CELLS inside it.

    For a ViT, whose tokens all have the reduction of its patches: a linear map and nothing more, so
    that what a pixel is told about others came through the attention.

    Args:
        low_channels, channels: not used, the fine map is not read.
        high_channels: channels of the coarse map.
        num_classes: K.
    """

    CELLS = 4

    def __init__(
        self, low_channels: int, high_channels: int, num_classes: int, channels: int = 64
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(high_channels)
        self.classifier = nn.Linear(high_channels, num_classes * self.CELLS**2)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low: not read, high: [N, C2, H2, W2]; logits [N, K, CELLS * H2, CELLS * W2]."""
        logits = self.classifier(self.norm(high.permute(0, 2, 3, 1)))
        return F.pixel_shuffle(logits.permute(0, 3, 1, 2), self.CELLS)


HEADS: dict[str, Callable[[int, int, int, int], nn.Module]] = {"fpn": FPNHead, "tokens": TokenHead}


class Segmenter(nn.Module):
    """A feature backbone, a head on its map of reduction 4 (or the nearest) and its last one.

    Args:
        backbone: timm network built with features_only.
        head: called as head(low, high); gives logits of any size.
        low: index of the fine map among the backbone's.
        num_classes: K.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, low: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.low = low
        self.num_classes = num_classes
        self.channels_last_maps = getattr(backbone, "output_fmt", "NCHW") == "NHWC"

    def forward(self, x: Tensor) -> Tensor:
        """x: images [N, in_chans, H, W]; logits [N, K, H, W] in the dtype of the backbone."""
        features = self.backbone(x)
        low, high = features[self.low], features[-1]
        if self.channels_last_maps:
            low, high = low.permute(0, 3, 1, 2), high.permute(0, 3, 1, 2)
        logits = self.head(low, high)
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


def create_segmenter(
    backbone: str,
    num_classes: int,
    *,
    head: str = "fpn",
    head_channels: int = 64,
    pretrained: bool = False,
    in_chans: int = 3,
    output_stride: int | None = None,
    backbone_args: dict[str, Any] | None = None,
) -> Segmenter:
    """Segmenter on a timm backbone.

    Args:
        backbone: timm model name that supports features_only.
        num_classes: number of classes K, at least 1.
        head: a name in HEADS.
        head_channels: width of the head, at least 2.
        pretrained: load the backbone's published weights.
        in_chans: channels of the images.
        output_stride: stride of the last map; None leaves the backbone's own.
        backbone_args: further keyword arguments of the backbone, as {"ibn": "b"}.

    Raises:
        KeyError: unknown backbone or head.
        ValueError: num_classes or head_channels out of range.
    """
    _known("head", head, HEADS)
    if ":" not in backbone and not timm.is_model(backbone):
        _known("backbone", backbone.split(".")[0], timm.list_models())
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if head_channels < 2:
        raise ValueError(f"head_channels must be at least 2, got {head_channels}")
    arguments = dict(backbone_args or {})
    if output_stride is not None:
        arguments["output_stride"] = output_stride
    features: Any = timm.create_model(
        backbone, pretrained=pretrained, features_only=True, in_chans=in_chans, **arguments
    )
    channels, reductions = features.feature_info.channels(), features.feature_info.reduction()
    low = _nearest_to_four(reductions[:-1] or reductions)
    maps = HEADS[head](channels[low], channels[-1], num_classes, head_channels)
    return Segmenter(features, maps, low, num_classes)


def _nearest_to_four(reductions: Sequence[int]) -> int:
    return min(range(len(reductions)), key=lambda i: max(reductions[i] / 4, 4 / reductions[i]))


def _known(what: str, name: str, names: Any) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, 0.0)[0]
        raise KeyError(f"{what} {name!r} is unknown, nearest {near!r}")
