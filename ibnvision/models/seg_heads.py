"""Heads of a segmenter: two small ones, and the decoders of segmentation_models_pytorch.

A head takes a list of maps [N, C, H, W], finest first, and gives logits of any size.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.layers import BatchNormAct2d


class LightHead(nn.Module):
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

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: [N, C1, H1, W1], [N, C2, H2, W2]; logits [N, K, H1, W1]."""
        low, high = self.reduce_low(maps[0]), self.reduce_high(maps[-1])
        if high.shape[-2:] != low.shape[-2:]:
            high = F.interpolate(high, low.shape[-2:], mode="bilinear", align_corners=False)
        x = self.norm1(torch.cat((low, high), 1))
        return self.classifier(self.norm2(self.conv(x)))


class TokenHead(nn.Module):
    """Each vector of the coarse map, normalized, to classes on a grid of CELLS x CELLS inside it.

    For a ViT, whose tokens all have the reduction of its patches: a linear map and nothing more, so
    that what a pixel is told about others came through the attention.

    Args:
        channels: of the coarse map.
        num_classes: K.
    """

    CELLS = 4

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, num_classes * self.CELLS**2)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: only the last is read, [N, C, H, W]; logits [N, K, CELLS * H, CELLS * W]."""
        logits = self.classifier(self.norm(maps[-1].permute(0, 2, 3, 1)))
        return F.pixel_shuffle(logits.permute(0, 3, 1, 2), self.CELLS)


class DecoderHead(nn.Module):
    """A decoder of segmentation_models_pytorch on maps that begin at about a quarter of the image.

    Args:
        decoder: called with the list [image, map of reduction 2, *maps], of which it only reads the
            sizes of the first two; these have no channels.
        channels: of its result.
        num_classes: K.
    """

    def __init__(self, decoder: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: [N, Ci, Hi, Wi], finest first; logits [N, K, H1, W1] of the finest's size."""
        n, _, h, w = maps[0].shape
        image, half = (
            maps[0].new_empty((n, 0, 4 * h, 4 * w)),
            maps[0].new_empty((n, 0, 2 * h, 2 * w)),
        )
        return self.classifier(self.decoder([image, half] + maps))


def auxiliary_head(channels: int, num_classes: int, width: int) -> nn.Sequential:
    """The head that RobustNet trains on the third stage: [N, channels, H, W] to [N, K, H, W]."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.1),
        nn.Conv2d(width, num_classes, 1),
    )


def _light(channels: Sequence[int], _: Sequence[int], num_classes: int, width: int) -> nn.Module:
    return LightHead(channels[0], channels[-1], num_classes, width)


def _tokens(channels: Sequence[int], _: Sequence[int], num_classes: int, width: int) -> nn.Module:
    return TokenHead(channels[-1], num_classes)


def _deeplabv3plus(
    channels: Sequence[int], reductions: Sequence[int], num_classes: int, width: int
) -> nn.Module:
    rates = [max(1, rate * 16 // reductions[-1]) for rate in (6, 12, 18)]
    decoder = _decoder("deeplabv3", "DeepLabV3PlusDecoder")(
        [0, 0, *channels],
        encoder_depth=5,
        out_channels=width,
        atrous_rates=rates,
        output_stride=16,
        aspp_separable=True,
        aspp_dropout=0.5,
    )
    scale = reductions[-1] / reductions[0]
    decoder.up = nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)
    return DecoderHead(decoder, width, num_classes)


def _fpn(channels: Sequence[int], _: Sequence[int], num_classes: int, width: int) -> nn.Module:
    if width % 64:
        raise ValueError(f"head_channels must be a multiple of 64 for head 'fpn', got {width}")
    decoder = _decoder("fpn", "FPNDecoder")([0, 0, *channels], 5, width, width // 2)
    return _initialized(DecoderHead(decoder, width // 2, num_classes))


def _upernet(channels: Sequence[int], _: Sequence[int], num_classes: int, width: int) -> nn.Module:
    decoder = _decoder("upernet", "UPerNetDecoder")([0, 0, *channels], 5, width)
    return _initialized(DecoderHead(decoder, width, num_classes))


def _segformer(
    channels: Sequence[int], _: Sequence[int], num_classes: int, width: int
) -> nn.Module:
    decoder = _decoder("segformer", "SegformerDecoder")([0, 0, *channels], 5, width)
    return _initialized(DecoderHead(decoder, width, num_classes))


def _decoder(folder: str, name: str) -> Any:
    package = "segmentation_models_pytorch"
    try:  # late: it takes seconds to import
        return getattr(import_module(f"{package}.decoders.{folder}.decoder"), name)
    except ImportError as error:
        raise ImportError(
            f"{name} needs {package}; pip install segmentation-models-pytorch, or use head 'light'"
        ) from error


def _initialized(head: DecoderHead) -> DecoderHead:
    from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head

    initialize_decoder(head.decoder)
    initialize_head(head.classifier)
    return head


@dataclass(frozen=True)
class Head:
    """How a head is built, and which maps of a backbone it reads.

    build: called with channels and reductions of its maps, K and its width. width: the default.
    maps: 1, the last and, if there is one, a finer one; 2, the last and a finer one; 4, the last
    four. doubling: each of them has twice the reduction of the one before. aligned: it needs images
    whose sides are multiples of the last map's reduction.
    """

    build: Callable[[Sequence[int], Sequence[int], int, int], nn.Module]
    width: int
    maps: int
    doubling: bool = False
    aligned: bool = False

    def taps(self, reductions: Sequence[int]) -> list[int]:
        """Indices of the maps among a backbone's: the last, and that nearest to 4; or four."""
        count = len(reductions)
        if self.maps == 4:
            return list(range(max(0, count - 4), count))
        return [_nearest_to_four(reductions[:-1] or reductions), count - 1]

    def problem(self, reductions: Sequence[int]) -> str:
        """What the maps of a backbone lack for this head, or ""."""
        mine = [reductions[i] for i in self.taps(reductions)]
        if self.maps == 1:
            return ""
        if len(mine) < self.maps or mine[0] >= mine[-1]:
            return f"{self.maps} maps, the last one coarser than the first"
        if self.doubling and any(b != 2 * a for a, b in itertools.pairwise(mine)):
            return "four maps, each of twice the reduction of the one before"
        return ""


HEADS = {
    "light": Head(_light, 64, maps=1),
    "tokens": Head(_tokens, 64, maps=1),
    "deeplabv3plus": Head(_deeplabv3plus, 256, maps=2, aligned=True),
    "fpn": Head(_fpn, 256, maps=4, doubling=True, aligned=True),
    "upernet": Head(_upernet, 256, maps=4),
    "segformer": Head(_segformer, 256, maps=4),
}


def _nearest_to_four(reductions: Sequence[int]) -> int:
    return min(range(len(reductions)), key=lambda i: max(reductions[i] / 4, 4 / reductions[i]))
