"""DEA-Net: a dehazing network of detail-enhanced convolutions and content-guided attention.

It maps an image in [0, 1] to the image without haze: no classifier, no normalization of the input.
Depths (3, 3, 6, 3, 3) are DEA-Net-S; DEA-Net-CR is DEA-Net trained with one more loss.

Source: Chen et al., IEEE TIP 2024, https://arxiv.org/abs/2301.04805; key names of
https://github.com/cecret3350/DEA-Net. Differs: training and folded form are one class; on the CPU
it computes in channels_last, the faster format there, whatever the format of the image.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import (
    build_model_with_cfg,
    checkpoint,
    generate_default_cfgs,
    register_model,
)
from timm.models._features import feature_take_indices
from torch import Tensor, fx, nn

from ibnvision.layers import DEAB, DEB, CGAFusion, DEConv, reparameterize

from .checkpoint import checkpoint_filter_fn, fill, read_weights
from .dea_weights import arguments_of, match_form
from .restore import MULTIPLE, SMALLEST, restore


class SumFusion(nn.Module):
    """The fusion without attention: a 1x1 convolution of the sum."""

    def __init__(self, dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 1, device=device, dtype=dtype)

    def forward(self, low: Tensor, high: Tensor, pooled: Tensor | None = None) -> Tensor:
        """low, high: [N, C, H, W]; the same shape. pooled, of CGAFusion, is not used."""
        return self.conv(low + high)


class DEANet(nn.Module):
    """DEA-Net; forward takes [N, in_chans, H, W], sides multiples of 4 and at least 16.

    restore takes any size. fuse folds every DEConv in place. A weights file of either form loads
    into either form (load_weights).

    Args:
        in_chans: channels of the image, in and out.
        num_classes: stays 0, since the network has no classes; timm passes it to every network,
            and a number other than 0 is warned about.
        width: channels at full size; twice at half and four times at a quarter of it.
        depths: blocks at full, half and a quarter of the size, then at half and at full size again.
        reductions: of the channel attention: in the blocks and the first fusion, in the second.
        detail: False puts plain convolutions in the place of DEConv.
        attention: False leaves out the content-guided attention of blocks and fusions.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 0,
        width: int = 32,
        depths: Sequence[int] = (4, 4, 8, 4, 4),
        reductions: Sequence[int] = (8, 4),
        detail: bool = True,
        attention: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        _check_arguments(in_chans, width, depths, reductions)
        if num_classes != 0:
            text = f"num_classes={num_classes} is ignored: a restoration network has no classes"
            warnings.warn(text, stacklevel=2)
        self.in_chans, self.width, self.depths = in_chans, width, tuple(depths)
        self.num_classes, self.num_features = 0, 4 * width
        self.head_hidden_size, self.out_features = self.num_features, in_chans
        self.grad_checkpointing = False
        dd = {"device": device, "dtype": dtype}

        def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, stride, 1, **dd)

        def up(inputs: int) -> nn.Sequential:
            layer = nn.ConvTranspose2d(inputs, inputs // 2, 3, 2, 1, output_padding=1, **dd)
            return nn.Sequential(layer, nn.ReLU(inplace=True))

        def blocks(stage: str, count: int, dim: int) -> tuple[str, ...]:
            names = tuple(f"{stage}_block{i + 1}" for i in range(count))
            for name in names:
                deep = attention and stage == "level3"
                block = DEAB(dim, reductions[0], detail, **dd) if deep else DEB(dim, detail, **dd)
                self.add_module(name, block)
            return names

        def fusion(dim: int, reduction: int) -> nn.Module:
            return CGAFusion(dim, reduction, **dd) if attention else SumFusion(dim, **dd)

        one, two, four = width, 2 * width, 4 * width
        self.down1 = nn.Sequential(conv(in_chans, one))
        first = ("down1", *blocks("down_level1", depths[0], one), "down2")
        self.down2 = nn.Sequential(conv(one, two, 2), nn.ReLU(inplace=True))
        self.fe_level_2 = conv(two, two)
        second = ("fe_level_2", *blocks("down_level2", depths[1], two), "down3")
        self.down3 = nn.Sequential(conv(two, four, 2), nn.ReLU(inplace=True))
        self.fe_level_3 = conv(four, four)
        third = ("fe_level_3", *blocks("level3", depths[2], four))
        self.mix1 = fusion(four, reductions[0])
        self.up1 = up(four)
        fourth = ("mix1", "up1", *blocks("up_level2", depths[3], two))
        self.mix2 = fusion(two, reductions[1])
        self.up2 = up(two)
        fifth = ("mix2", "up2", *blocks("up_level1", depths[4], one), "up3")
        self.up3 = nn.Sequential(conv(one, in_chans))
        # modules in the order of their calls; the first three stages end in what the others take
        self.stages: tuple[tuple[str, ...], ...] = (first, second, third, fourth, fifth)
        self.feature_info = [
            {"num_chs": one, "reduction": 1, "module": first[-2]},
            {"num_chs": two, "reduction": 2, "module": second[-2]},
            {"num_chs": four, "reduction": 4, "module": third[-1]},
        ]

    @property
    def fused(self) -> bool:
        """Whether every DEConv is folded."""
        return not any(isinstance(module, DEConv) for module in self.modules())

    def fuse(self) -> "DEANet":
        """Fold every DEConv into one convolution, in place; returns self."""
        reparameterize(self)
        return self

    def _call(self, name: str, x: Tensor) -> Tensor:
        module = getattr(self, name)
        if self.grad_checkpointing and "_block" in name:
            return checkpoint(module, x)
        return module(x)

    def _encode(self, x: Tensor) -> list[Tensor]:
        """The maps at the end of the first three stages: two skips and the bottleneck."""
        maps = []
        for stage in self.stages[:3]:
            for name in stage:
                x = self._call(name, x)
            maps.append(x)
        return maps

    def _decode(self, maps: list[Tensor]) -> Tensor:
        """The image from the maps of _encode, which are taken out of the list to free them."""
        x = maps.pop()
        for stage in self.stages[3:]:
            x = getattr(self, stage[0])(maps.pop(), x)
            for name in stage[1:]:
                x = self._call(name, x)
        return x

    def __prepare_scriptable__(self) -> fx.GraphModule:
        return fx.symbolic_trace(self)  # TorchScript cannot walk a list of names

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, in_chans, H, W] in [0, 1]; the same shape, not clamped.

        A pruned network ends at its last map.

        Raises:
            TypeError: x is not of a floating-point type.
            ValueError: the channels are others, or H or W is below 16 or no multiple of 4.
        """
        if len(self.stages) < 5:
            return self.forward_features(x)
        return _in_format_of(self._decode(self._encode(_admitted(x, self.in_chans))), x)

    def forward_features(self, x: Tensor) -> Tensor:
        """x as in forward; the bottleneck [N, 4 * width, H / 4, W / 4]."""
        return self._encode(_admitted(x, self.in_chans))[-1]

    def forward_head(
        self, x: Tensor, skips: Sequence[Tensor] | None = None, pre_logits: bool = False
    ) -> Tensor:
        """The image from the bottleneck x and the skips.

        Args:
            skips: the outputs of down2, [N, 2 * width, H / 2, W / 2], and of down3,
                [N, 4 * width, H / 4, W / 4].
            pre_logits: as in timm; here nothing comes before the image: x is returned.

        Raises:
            ValueError: no two skips.
        """
        if pre_logits:
            return x
        if skips is None or len(skips) != 2:
            raise ValueError(
                "skips must be the outputs of down2 and down3, since the decoder takes them, got "
                f"{'none' if skips is None else len(skips)}"
            )
        return self._decode([*skips, x])

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of feature_info before each halving, as in timm's own networks."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted, last = feature_take_indices(3, indices)
        x, maps = _admitted(x, self.in_chans), []
        for level, stage in enumerate(self.stages[:3]):
            tap = self.feature_info[level]["module"]
            for name in stage:
                x = self._call(name, x)
                if name == tap and level in wanted:
                    maps.append(x)
                if name == tap and level == last and stop_early:
                    return maps if intermediates_only else (x, maps)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] | None = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what no map of `indices` needs, the decoder included; the indices from 0."""
        wanted, last = feature_take_indices(3, indices)
        if prune_head or last < 2:
            kept = self.stages[: last + 1]
            kept = (*kept[:-1], kept[-1] if last == 2 else kept[-1][:-1])
            for name in {n for stage in self.stages for n in stage}.difference(*kept):
                delattr(self, name)
            self.stages = kept
        return wanted

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of every block for the backward pass and compute the rest again."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names for layer-wise learning rates, from the image inward."""
        order = r"^(?:down1|down_level1|down2|fe_level_2|down_level2|down3|fe_level_3)"
        blocks = [(r"^level3_block(\d+)", None), (r"^(?:mix|up)\w*", (99999,))]
        return {"stem": order, "blocks": r"^level3" if coarse else blocks}

    def restore(self, x: Tensor, max_memory: int | None = None) -> Tensor:
        """The image without haze for an image of any size, values in [0, 1]; no gradient.

        Args:
            x: [N, in_chans, H, W] in [0, 1], of any floating-point type and on any device.
            max_memory: bytes that the tensors alive at any time may take, weights, the given x and
                the workspace of libraries aside; the result is the same up to rounding. None: no
                limit.

        Returns: [N, in_chans, H, W] with the type and device of x.

        Raises:
            TypeError: x is not of a floating-point type.
            ValueError: x has another number of channels, an empty side, or max_memory is too small
                (the error names the smallest that works and the stage that needs it).
        """
        return restore(self, x, max_memory)

    def match_form(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`state`, of either form, in the form of this network; see dea_weights.match_form."""
        return match_form(self, state)


def from_weights(path: str | Path) -> DEANet:
    """The network of a weights file of any published form, with the width and depths of the file.

    Raises: as load_weights; ValueError too where the file holds no DEA-Net.
    """
    state = read_weights(path)
    try:
        model = DEANet(**arguments_of(state))
    except ValueError as error:
        raise ValueError(f"weights file {str(path)!r} holds no DEA-Net: {error}") from error
    fill(model, state, path)
    return model.eval()


def _check_arguments(
    in_chans: int, width: int, depths: Sequence[int], reductions: Sequence[int]
) -> None:
    if in_chans < 1:
        raise ValueError(f"in_chans must be at least 1, got {in_chans}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if len(depths) != 5 or min(depths) < 0:
        raise ValueError(f"depths must be 5 counts of blocks, 0 or more, got {tuple(depths)}")
    if len(reductions) != 2 or min(reductions) < 1:
        raise ValueError(f"reductions must be 2 numbers from 1 on, got {tuple(reductions)}")


@fx.wrap
def _admitted(
    x: Tensor, channels: int, multiple: int = MULTIPLE, smallest: int = SMALLEST
) -> Tensor:
    """x, checked, in the memory format to compute in; TorchScript reads no globals."""
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}")
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x must have the shape [N, {channels}, H, W], got {list(x.shape)}")
    h, w = x.shape[2], x.shape[3]
    if h % multiple != 0 or w % multiple != 0 or h < smallest or w < smallest:
        raise ValueError(
            f"x must have sides that are multiples of {multiple} and at least {smallest}, got "
            f"H={h}, W={w}; restore(x) takes any size"
        )
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


@fx.wrap
def _in_format_of(image: Tensor, x: Tensor) -> Tensor:
    """image in the memory format of x."""
    if x.is_contiguous():
        return image.contiguous()
    return image.contiguous(memory_format=torch.channels_last)


def _cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 0,
        "input_size": (3, 256, 256),
        "min_input_size": (3, SMALLEST, SMALLEST),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "first_conv": "down1.0",
        "classifier": None,
        "origin_url": "https://github.com/cecret3350/DEA-Net",
        "paper_ids": "arXiv:2301.04805",
    }


default_cfgs = generate_default_cfgs({"dea_net.untrained": _cfg(), "dea_net_s.untrained": _cfg()})


def _create(
    name: str, depths: Sequence[int], pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    return build_model_with_cfg(
        DEANet,
        name,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
        pretrained_filter_fn=checkpoint_filter_fn,
        **{"depths": depths, **kwargs},
    )


@register_model
def dea_net(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DEA-Net, also the network of DEA-Net-CR."""
    return _create("dea_net", (4, 4, 8, 4, 4), pretrained, kwargs)


@register_model
def dea_net_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DEA-Net-S, with three quarters of the blocks."""
    return _create("dea_net_s", (3, 3, 6, 3, 3), pretrained, kwargs)
