"""Feature pyramids for detectors: maps of several strides and one width, from a timm backbone."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ibnvision.layers import InstanceWhiteningAct2d


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or as many as divide both 32 and channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


FPN_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "layer": LayerNorm2d,
}


class SimpleFeaturePyramid(nn.Module):
    """All levels from one map, for backbones of one scale such as a plain ViT.

    A level of twice the resolution comes from a transposed convolution of half the channels, of
    four times from two with norm and GELU between, a coarser one from max pooling. A 1x1 and a 3x3
    convolution, each with its norm, follow. Called as torchvision's FeaturePyramidNetwork.

    Args:
        in_channels: of the map.
        out_channels: of each level.
        reduction: stride of the map, a power of 2.
        strides: of the levels, powers of 2, finest first.
        extra_blocks: makes coarser levels from these.
        norm_layer: called with a number of channels; the paper has a layer norm over channels.

    Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV
    2022, https://arxiv.org/abs/2203.16527.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        reduction: int,
        strides: Sequence[int],
        extra_blocks: ExtraFPNBlock,
        norm_layer: Callable[[int], nn.Module] = LayerNorm2d,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for stride in strides:
            width, layers = in_channels, []
            for i in range(int(math.log2(reduction / stride))):
                layers += [norm_layer(width), nn.GELU()] if i else []
                layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
                width //= 2
            if stride > reduction:
                layers.append(nn.MaxPool2d(stride // reduction))
            options: dict[str, Any] = {"norm_layer": norm_layer, "activation_layer": None}
            layers.append(Conv2dNormActivation(width, out_channels, 1, **options))
            layers.append(Conv2dNormActivation(out_channels, out_channels, 3, **options))
            self.levels.append(nn.Sequential(*layers))
        self.extra_blocks = extra_blocks

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """x: one map [N, in_channels, H, W]; "0", "1", ... and the names of the extra levels to
        [N, out_channels, h, w], finest first."""
        maps = list(x.values())
        levels: list[Tensor] = []
        names: list[str] = []
        for i, level in enumerate(self.levels):
            levels.append(level(maps[0]))
            names.append(str(i))
        levels, names = self.extra_blocks(levels, maps, names)
        out: dict[str, Tensor] = {}
        for name, y in zip(names, levels):  # noqa: B905 (scripted code knows no strict)
            out[name] = y
        return out


class DetectorBackbone(nn.Module):
    """A timm backbone and a pyramid on some of its maps, as torchvision's detectors want it.

    The names in the state are those of torchvision's BackboneWithFPN: body and fpn.

    Args:
        body: timm network built with features_only.
        taps: indices of the maps among the body's, finest first.
        fpn: called with a dict "0", "1", ... of maps, gives such a dict.
        out_channels: of its maps.
        frozen: names of layers of the body that stay in eval mode.

    Attributes:
        whitened_channels: C of every map that a whitening layer standardizes, in running order.
    """

    whitened_channels: list[int]
    frozen: list[str]
    taps: list[int]

    def __init__(
        self,
        body: nn.Module,
        taps: Sequence[int],
        fpn: nn.Module,
        out_channels: int,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels
        self.taps = list(taps)
        self.frozen = list(frozen)
        self.channels_last_maps = getattr(body, "output_fmt", "NCHW") == "NHWC"
        self.whitened_channels = [layer.num_features for layer in self._whitening()]
        self.train(self.training)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: images [N, in_chans, H, W], sides multiples of the coarsest tapped reduction; the
        levels [N, out_channels, h, w] by name, finest first."""
        features = self.body(x)
        maps: dict[str, Tensor] = {}
        for i, tap in enumerate(self.taps):
            y = features[tap]
            maps[str(i)] = y.permute(0, 3, 1, 2) if self.channels_last_maps else y
        return self.fpn(maps)

    @torch.jit.ignore
    def train(self, mode: bool = True) -> "DetectorBackbone":
        """As nn.Module's, but for the frozen layers."""
        super().train(mode)
        for name in self.frozen:
            self.body.get_submodule(name).eval()
        return self

    @torch.jit.unused
    def standardized_maps(self) -> list[Tensor]:
        """What the whitening losses read: a list of [N, C, h, w], the standardized maps of the
        last forward in training before their activation, given away once."""
        return [layer.take() for layer in self._whitening()]

    @torch.jit.unused
    def _whitening(self) -> list[InstanceWhiteningAct2d]:
        return [m for m in self.body.modules() if isinstance(m, InstanceWhiteningAct2d)]
