"""IBN-Net on ResNet, ResNeXt and SE-ResNet: instance norm in early layers, batch norm elsewhere.

IBN-a mixes both norms in the first norm of every block of stages 1 to 3. IBN-b instead normalizes
each image once more after the residual sum that ends stages 1 and 2, and in the stem.

Source: Pan et al., ECCV 2018, https://arxiv.org/abs/1807.09441; weights and key names of
https://github.com/XingangPan/IBN-Net. Built on timm's ResNet. Differs: pools globally, so any input
size runs; each norm, residual sum and activation is one fused operator.
"""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from ibnvision.layers import BatchNormAct2d

from .checkpoint import checkpoint_filter_fn, release_cfg
from .norm_act import fuse, fuse_sequence, instance, mix

PLACEMENT = {
    "none": (None, None, None, None),
    "a": ("a", "a", "a", None),
    "b": ("b", "b", None, None),
}


class SqueezeExcite(nn.Module):
    """Channel attention with bias-free linear layers, under the keys fc.0 and fc.2.

    Source: Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507.
    """

    def __init__(
        self, channels: int, reduction: int = 16, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False, **dd),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False, **dd),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x, [N, C, H, W], scaled by a weight in (0, 1) for each image and channel."""
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class FusedBlock(nn.Module):
    """What fused BasicBlock and Bottleneck share: `fuse` rewrites the norms that timm built.

    `adds` says that the last norm takes the shortcut and activates; else `IN`, if any, does it.
    """

    __constants__ = ["adds"]
    last = 0  # number of the norm before the sum
    dropped = 0  # number of the norm that DropBlock follows

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adds = False
        self.IN: Any = None

    @torch.jit.ignore
    def add_module(self: Any, name: str, module: Any) -> None:
        """As nn.Module's; a last norm that timm swaps (frozen, synchronized) gets no sum."""
        if name == f"bn{self.last}" and self.adds and not isinstance(module, BatchNormAct2d):
            self.adds = False
            setattr(self, f"act{self.last}", module.act)
            module.act = nn.Identity()
        nn.Module.add_module(self, name, module)

    def fuse(self: Any, ratio: float | None, normalize_sum: bool, dd: dict[str, Any]) -> None:
        """Fuse all norms; give the first one `ratio` (IBN-a), or the sum a norm (IBN-b)."""
        for i in range(1, self.last):
            norm, act = getattr(self, f"bn{i}"), getattr(self, f"act{i}")
            apart = i == self.dropped and not isinstance(self.drop_block, nn.Identity)
            inner = nn.Identity() if apart else act
            if i == 1 and ratio is not None:
                norm, rest = mix(norm, inner, self.conv1.out_channels, ratio, dd)
            else:
                norm, rest = fuse(norm, inner)
            setattr(self, f"bn{i}", norm)
            setattr(self, f"act{i}", act if apart else rest)

        norm, act = getattr(self, f"bn{self.last}"), getattr(self, f"act{self.last}")
        plain = self.se is None and self.drop_path is None and not normalize_sum
        self.adds = plain and isinstance(norm, nn.BatchNorm2d)
        if normalize_sum:
            channels = getattr(self, f"conv{self.last}").out_channels
            self.IN, act = instance(act, channels, dd)
        if self.adds:
            norm, act = fuse(norm, act)
        else:
            norm, _ = fuse(norm, nn.Identity())
        setattr(self, f"bn{self.last}", norm)
        setattr(self, f"act{self.last}", act)
        fuse_sequence(self.downsample)


class FusedBasicBlock(FusedBlock, BasicBlock):
    """timm's BasicBlock with every norm, residual sum and activation in the fused operator."""

    last = 2
    dropped = 1

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, inplanes, H, W]; [N, planes, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act1(self.drop_block(self.bn1(self.conv1(x))))
        x = self.conv2(self.aa(x))  # type: ignore[misc]
        if self.adds:
            return self.act2(self.bn2(x, shortcut))
        x = self.bn2(x)
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        x = self.IN(x, shortcut) if self.IN is not None else x + shortcut
        return self.act2(x)


class FusedBottleneck(FusedBlock, Bottleneck):
    """timm's Bottleneck with every norm, residual sum and activation in the fused operator."""

    last = 3
    dropped = 2

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, inplanes, H, W]; [N, 4 * planes, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.drop_block(self.bn2(self.conv2(x))))
        x = self.conv3(self.aa(x))  # type: ignore[misc]
        if self.adds:
            return self.act3(self.bn3(x, shortcut))
        x = self.bn3(x)
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        x = self.IN(x, shortcut) if self.IN is not None else x + shortcut
        return self.act3(x)


class ResNetIBN(ResNet):
    """timm's ResNet with IBN by stage and fused norms; with ibn="none" the plain network.

    Modules that the fused layers replace stay as nn.Identity, so that timm's names hold.

    Args:
        block: FusedBasicBlock or FusedBottleneck.
        layers, in_chans, channels, device, dtype, **kwargs: as in timm's ResNet.
        ibn: "a", "b", "none", or one of "a", "b", None for each stage; the stem follows "b" of the
            first stage. A stage "a" mixes every block, a stage "b" normalizes its last sum.
        ratio: share of instance-normalized channels in the mixed norms, in [0, 1].
        small_stem: for small images: one 3x3 convolution of stride 2 with channels[0] outputs and
            no pooling, so that all reductions are half of the usual ones.
        output_stride: stride of the last stage, later stages are dilated; 8, 16 or 32, with
            small_stem 4, 8 or 16 (32 is taken as 16).
        norm_layer: what is not a BatchNorm2d is used as it is, unfused, except where IBN goes.
        zero_init_last: False as in the published recipe; timm's default is True.

    Raises:
        KeyError: unknown name in ibn.
        ValueError: ibn, ratio, output_stride or channels out of range.
    """

    def __init__(
        self,
        block: Any,
        layers: Sequence[int],
        in_chans: int = 3,
        ibn: str | Sequence[str | None] = "a",
        ratio: float = 0.5,
        small_stem: bool = False,
        channels: Sequence[int] = (64, 128, 256, 512),
        output_stride: int = 32,
        zero_init_last: bool = False,
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        placement = _placement(ibn)
        strides = (4, 8, 16, 32) if small_stem else (8, 16, 32)
        if output_stride not in strides:
            raise ValueError(f"output_stride must be one of {strides}, got {output_stride}")
        if small_stem:
            clash = sorted(kwargs.keys() & {"stem_type", "stem_width", "replace_stem_pool"})
            if clash:
                raise ValueError(f"small_stem must be off to use {', '.join(clash)}")
            if channels[0] % 2:
                raise ValueError(f"channels[0] must be even with small_stem, got {channels[0]}")
            # only timm's deep stem has a free width; its convolutions are replaced below
            kwargs |= {"stem_type": "deep", "stem_width": channels[0] // 2}
            output_stride = min(2 * output_stride, 32)
        dd = {"device": device, "dtype": dtype}
        super().__init__(
            block=block,
            layers=tuple(layers),
            in_chans=in_chans,
            channels=tuple(channels),
            output_stride=output_stride,
            zero_init_last=zero_init_last,
            **kwargs,
            **dd,
        )
        if small_stem:
            self._shrink_stem(in_chans, channels[0], dd)
        self._fuse(placement, ratio, dd)

    def _shrink_stem(self: Any, in_chans: int, channels: int, dd: dict[str, Any]) -> None:
        self.conv1 = nn.Conv2d(in_chans, channels, 3, stride=2, padding=1, bias=False, **dd)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for info in self.feature_info[1:]:
            info["reduction"] //= 2

    def _fuse(self: Any, placement: Sequence[str | None], ratio: float, dd: dict[str, Any]) -> None:
        fuse_sequence(self.conv1)
        fuse_sequence(self.maxpool)
        if placement[0] == "b":
            self.bn1, self.act1 = instance(self.act1, self.feature_info[0]["num_chs"], dd)
        else:
            self.bn1, self.act1 = fuse(self.bn1, self.act1)
        for stage, variant in enumerate(placement, 1):
            blocks = self.get_submodule(f"layer{stage}")
            for i, block in enumerate(blocks, 1):
                ends = variant == "b" and i == len(blocks)
                block.fuse(ratio if variant == "a" else None, ends, dd)


def _placement(ibn: str | Sequence[str | None]) -> tuple[str | None, ...]:
    if isinstance(ibn, str):
        if ibn not in PLACEMENT:
            near = difflib.get_close_matches(ibn.lower(), PLACEMENT, 1, 0.0)[0]
            raise KeyError(
                f"ibn must be one of {', '.join(PLACEMENT)}; got {ibn!r}, nearest {near!r}"
            )
        return PLACEMENT[ibn]
    stages = tuple(ibn)
    if len(stages) != 4 or any(stage not in ("a", "b", None) for stage in stages):
        raise ValueError(f"ibn must name 'a', 'b' or None for each of 4 stages, got {stages}")
    return stages


def _cfg(name: str = "") -> dict[str, Any]:
    return release_cfg(name, first_conv="conv1", classifier="fc")


default_cfgs = generate_default_cfgs(
    {
        "resnet18_ibn_a.in1k": _cfg("resnet18_ibn_a-2f571257"),
        "resnet18_ibn_b.in1k": _cfg("resnet18_ibn_b-bc2f3c11"),
        "resnet34_ibn_a.in1k": _cfg("resnet34_ibn_a-94bc1577"),
        "resnet34_ibn_b.in1k": _cfg("resnet34_ibn_b-04134c37"),
        "resnet50_ibn_a.in1k": _cfg("resnet50_ibn_a-d9d0bb7b"),
        "resnet50_ibn_b.in1k": _cfg("resnet50_ibn_b-9ca61e85"),
        "resnet101_ibn_a.in1k": _cfg("resnet101_ibn_a-59ea0ac6"),
        "resnet101_ibn_b.in1k": _cfg("resnet101_ibn_b-c55f6dba"),
        "resnet152_ibn_a.untrained": _cfg(),
        "resnet152_ibn_b.untrained": _cfg(),
        "resnext50_ibn_a.untrained": _cfg(),
        "resnext50_ibn_b.untrained": _cfg(),
        "resnext101_ibn_a.in1k": _cfg("resnext101_ibn_a-6ace051d"),
        "resnext101_ibn_b.untrained": _cfg(),
        "resnext152_ibn_a.untrained": _cfg(),
        "resnext152_ibn_b.untrained": _cfg(),
        "se_resnet50_ibn_a.untrained": _cfg(),
        "se_resnet50_ibn_b.untrained": _cfg(),
        "se_resnet101_ibn_a.in1k": _cfg("se_resnet101_ibn_a-fabed4e2"),
        "se_resnet101_ibn_b.untrained": _cfg(),
        "se_resnet152_ibn_a.untrained": _cfg(),
        "se_resnet152_ibn_b.untrained": _cfg(),
    }
)

_DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def _create(name: str, depth: int, pretrained: bool, **kwargs: Any) -> nn.Module:
    block = FusedBottleneck if depth >= 50 else FusedBasicBlock
    return build_model_with_cfg(
        ResNetIBN,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **{"block": block, "layers": _DEPTHS[depth], **kwargs},
    )


def _resnet(name: str, depth: int, ibn: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    return _create(name, depth, pretrained, **{"ibn": ibn, **kwargs})


def _resnext(
    name: str, depth: int, ibn: str, pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    groups = {"cardinality": 32, "base_width": 4}
    return _create(name, depth, pretrained, **{"ibn": ibn, **groups, **kwargs})


def _se_resnet(
    name: str, depth: int, ibn: str, pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    attention = {"attn_layer": SqueezeExcite, **(kwargs.pop("block_args", None) or {})}
    return _create(name, depth, pretrained, **{"ibn": ibn, **kwargs}, block_args=attention)


@register_model
def resnet18_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with IBN-a."""
    return _resnet("resnet18_ibn_a", 18, "a", pretrained, kwargs)


@register_model
def resnet18_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with IBN-b."""
    return _resnet("resnet18_ibn_b", 18, "b", pretrained, kwargs)


@register_model
def resnet34_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with IBN-a."""
    return _resnet("resnet34_ibn_a", 34, "a", pretrained, kwargs)


@register_model
def resnet34_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with IBN-b."""
    return _resnet("resnet34_ibn_b", 34, "b", pretrained, kwargs)


@register_model
def resnet50_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with IBN-a."""
    return _resnet("resnet50_ibn_a", 50, "a", pretrained, kwargs)


@register_model
def resnet50_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with IBN-b."""
    return _resnet("resnet50_ibn_b", 50, "b", pretrained, kwargs)


@register_model
def resnet101_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 with IBN-a."""
    return _resnet("resnet101_ibn_a", 101, "a", pretrained, kwargs)


@register_model
def resnet101_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 with IBN-b."""
    return _resnet("resnet101_ibn_b", 101, "b", pretrained, kwargs)


@register_model
def resnet152_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-152 with IBN-a."""
    return _resnet("resnet152_ibn_a", 152, "a", pretrained, kwargs)


@register_model
def resnet152_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-152 with IBN-b."""
    return _resnet("resnet152_ibn_b", 152, "b", pretrained, kwargs)


@register_model
def resnext50_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-50 (32x4d) with IBN-a."""
    return _resnext("resnext50_ibn_a", 50, "a", pretrained, kwargs)


@register_model
def resnext50_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-50 (32x4d) with IBN-b."""
    return _resnext("resnext50_ibn_b", 50, "b", pretrained, kwargs)


@register_model
def resnext101_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-101 (32x4d) with IBN-a."""
    return _resnext("resnext101_ibn_a", 101, "a", pretrained, kwargs)


@register_model
def resnext101_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-101 (32x4d) with IBN-b."""
    return _resnext("resnext101_ibn_b", 101, "b", pretrained, kwargs)


@register_model
def resnext152_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-152 (32x4d) with IBN-a."""
    return _resnext("resnext152_ibn_a", 152, "a", pretrained, kwargs)


@register_model
def resnext152_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-152 (32x4d) with IBN-b."""
    return _resnext("resnext152_ibn_b", 152, "b", pretrained, kwargs)


@register_model
def se_resnet50_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SE-ResNet-50 with IBN-a."""
    return _se_resnet("se_resnet50_ibn_a", 50, "a", pretrained, kwargs)


@register_model
def se_resnet50_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SE-ResNet-50 with IBN-b."""
    return _se_resnet("se_resnet50_ibn_b", 50, "b", pretrained, kwargs)


@register_model
def se_resnet101_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SE-ResNet-101 with IBN-a."""
    return _se_resnet("se_resnet101_ibn_a", 101, "a", pretrained, kwargs)


@register_model
def se_resnet101_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SE-ResNet-101 with IBN-b."""
    return _se_resnet("se_resnet101_ibn_b", 101, "b", pretrained, kwargs)


@register_model
def se_resnet152_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SE-ResNet-152 with IBN-a."""
    return _se_resnet("se_resnet152_ibn_a", 152, "a", pretrained, kwargs)


@register_model
def se_resnet152_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SE-ResNet-152 with IBN-b."""
    return _se_resnet("se_resnet152_ibn_b", 152, "b", pretrained, kwargs)
