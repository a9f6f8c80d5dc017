"""Puts norms and MixStyle against changes of domain into the first stages of a backbone.

The places of the norms are those of RobustNet (Choi et al., CVPR 2021,
https://arxiv.org/abs/2103.15597) and of IBN-b: the norm of the stem, and the residual sums that end
stages 1 and 2. What RobustNet calls IN there is IBN-b.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ibnvision.layers import (
    BatchNormAct2d,
    InstanceNormAct2d,
    InstanceWhiteningAct2d,
    MixStyle,
    SwitchWhiten2d,
    convert_to_ibn,
    fuse_norm_act,
)

NORMS = {"ibn_a": "a", "ibn_b": "b", "whiten": "b", "sw": "b"}  # name: IBN with the same places


class SwitchWhitenAct2d(nn.Module):
    """act(norm(x + residual)) with the switchable whitening of ibnvision.layers."""

    def __init__(self, num_features: int, act: nn.Module) -> None:
        super().__init__()
        self.norm = SwitchWhiten2d(num_features)
        self.act = act

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: [N, C, H, W]; the same shape."""
        return self.act(self.norm(x if residual is None else x + residual))


def place_norm(backbone: nn.Module, norm: str | None, placed: bool, fused: bool) -> None:
    """Change the norms of a backbone in place and, if fused, run all of its norms fused.

    Args:
        norm: a name in NORMS, or None.
        placed: the backbone was built with IBN at these places, and fused.

    Raises:
        ValueError: a backbone that has no such places, or one whose maps are read by hooks.
    """
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
    if norm is not None and not placed:
        if hooked:
            raise ValueError(f"norm {norm!r} needs a backbone whose maps are not read by hooks")
        try:
            convert_to_ibn(backbone, NORMS[norm])
        except ValueError as error:
            raise ValueError(f"norm {norm!r} finds no place in this backbone: {error}") from error
    if fused and not placed and not hooked:  # a fused norm moves what a hook would read
        fuse(backbone)
    if norm not in ("whiten", "sw"):
        return
    for name, old in list(backbone.named_modules()):
        if type(old) is InstanceNormAct2d:
            new: nn.Module
            if norm == "whiten":
                new = InstanceWhiteningAct2d(old.num_features, old.eps, old.act)
            else:
                new = SwitchWhitenAct2d(old.num_features, old.act)
            backbone.set_submodule(name, new.train(old.training))


def fuse(module: nn.Module) -> None:
    """fuse_norm_act where module holds a batch norm that is not fused yet."""
    if any(
        isinstance(m, nn.BatchNorm2d) and type(m) is not BatchNormAct2d for m in module.modules()
    ):
        fuse_norm_act(module)


class _Mix:
    """A forward hook, so that no name in the state of the model changes; it follows the flag of
    its module and is copied with it."""

    def __init__(self, mix: nn.Module, channels_last: bool) -> None:
        self.mix, self.channels_last = mix, channels_last

    def __call__(self, module: nn.Module, _: Any, y: Tensor) -> Tensor:
        if not module.training:
            return y
        if self.channels_last:
            return self.mix(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.mix(y)


def place_mixstyle(backbone: Any, stages: Sequence[int], arguments: dict[str, Any]) -> None:
    """Let MixStyle change the results of these stages, in training.

    Args:
        stages: numbers in [1, 4], of a backbone whose last four maps end its stages.
        arguments: of MixStyle.

    Raises:
        ValueError: stages out of range, or a backbone whose stages are no modules.
    """
    names = map_modules(backbone)[-4:]
    reductions = backbone.feature_info.reduction()[-4:]
    if len(names) < 4 or reductions[0] == reductions[-1]:
        raise ValueError(f"mixstyle needs a backbone of four stages, got reductions {reductions}")
    if len(set(stages)) != len(stages) or not all(s in (1, 2, 3, 4) for s in stages):
        raise ValueError(f"mixstyle must be different numbers in [1, 4], got {tuple(stages)}")
    channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    for stage in stages:
        name = names[stage - 1]
        if not name:
            missing = backbone.feature_info.module_name()[stage - 5]
            raise ValueError(f"mixstyle finds no module {missing!r} that ends stage {stage}")
        module = backbone.get_submodule(name)
        module.register_forward_hook(_Mix(MixStyle(**arguments), channels_last))


def map_modules(backbone: Any) -> list[str]:
    """The module of backbone that ends at each of its maps, by name; "" where there is none."""
    known = {name for name, _ in backbone.named_modules()}
    found = []
    for name in backbone.feature_info.module_name():
        places = (name, name.replace(".", "_"), f"model.{name}", f"body.{name}")
        found.append(next((place for place in places if place in known), ""))
    return found
