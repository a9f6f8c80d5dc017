"""IBN-Net on DenseNet: the first norm of every third layer of blocks 1 to 3 mixes both norms.

Here the batch-normalized channels come first (60 %) and the instance-normalized ones last (40 %).

Source: Pan et al., ECCV 2018, https://arxiv.org/abs/1807.09441; weights and key names of
https://github.com/XingangPan/IBN-Net. Built on timm's DenseNet. Differs: pools globally, so any
input size runs; each norm and its activation are one fused operator.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.densenet import DenseNet
from torch import nn

from .checkpoint import checkpoint_filter_fn, release_cfg
from .norm_act import fuse, mix


class DenseNetIBN(DenseNet):
    """timm's DenseNet with IBN and fused norms.

    Args:
        growth_rate, block_config, device, dtype, **kwargs: as in timm's DenseNet.
        ibn: "a", or "none" for the plain network.
        ratio: share of instance-normalized channels in the mixed norms, in [0, 1].

    Raises:
        KeyError: unknown name in ibn.
        ValueError: ratio outside [0, 1].
    """

    def __init__(
        self,
        growth_rate: int = 32,
        block_config: Sequence[int] = (6, 12, 24, 16),
        ibn: str = "a",
        ratio: float = 0.4,
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        if ibn not in ("a", "none"):
            raise KeyError(f"ibn must be 'a' or 'none' for a DenseNet, got {ibn!r}, nearest 'a'")
        dd = {"device": device, "dtype": dtype}
        super().__init__(growth_rate, tuple(block_config), **kwargs, **dd)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()  # the published recipe keeps the framework's defaults
        for name, norm in list(self.named_modules()):
            if not isinstance(norm, BatchNormAct2d):
                continue
            if ibn == "a" and _is_mixed(name, len(block_config)):
                channels = norm.num_features
                layer, _ = mix(norm, norm.act, channels, ratio, dd, instance_last=True)
            else:
                layer, _ = fuse(norm, norm.act)
            self.set_submodule(name, layer)

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """The classifier, or its name."""
        return "classifier" if name_only else self.classifier


def _is_mixed(name: str, blocks: int) -> bool:
    """Whether `name` is a norm that IBN-a mixes."""
    match = re.fullmatch(r"features\.denseblock(\d+)\.denselayer(\d+)\.norm1", name)
    return match is not None and int(match[1]) < blocks and int(match[2]) % 3 == 1


def _cfg(name: str = "") -> dict[str, Any]:
    return release_cfg(name, first_conv="features.conv0", classifier="classifier")


default_cfgs = generate_default_cfgs(
    {
        "densenet121_ibn_a.in1k": _cfg("densenet121_ibn_a-e4af5cc1"),
        "densenet161_ibn_a.untrained": _cfg(),
        "densenet169_ibn_a.in1k": _cfg("densenet169_ibn_a-9f32c161"),
        "densenet201_ibn_a.untrained": _cfg(),
    }
)


def _create(
    name: str,
    growth_rate: int,
    block_config: Sequence[int],
    pretrained: bool,
    kwargs: dict[str, Any],
) -> nn.Module:
    return build_model_with_cfg(
        DenseNetIBN,
        name,
        pretrained,
        feature_cfg={"flatten_sequential": True},
        pretrained_filter_fn=checkpoint_filter_fn,
        **{"growth_rate": growth_rate, "block_config": block_config, **kwargs},
    )


@register_model
def densenet121_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DenseNet-121 with IBN-a."""
    return _create("densenet121_ibn_a", 32, (6, 12, 24, 16), pretrained, kwargs)


@register_model
def densenet161_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DenseNet-161 with IBN-a."""
    return _create("densenet161_ibn_a", 48, (6, 12, 36, 24), pretrained, kwargs)


@register_model
def densenet169_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DenseNet-169 with IBN-a."""
    return _create("densenet169_ibn_a", 32, (6, 12, 32, 32), pretrained, kwargs)


@register_model
def densenet201_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DenseNet-201 with IBN-a."""
    return _create("densenet201_ibn_a", 32, (6, 12, 48, 32), pretrained, kwargs)
