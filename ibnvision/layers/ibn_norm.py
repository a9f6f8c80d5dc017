"""Norm layers on the fused op ibn_norm: IBN, IBNAct2d, BatchNormAct2d, InstanceNormAct2d.

Each takes [N, C, H, W] and an optional residual of the same shape, added after the norm and before
the activation (InstanceNormAct2d: before the norm). Parameters and buffers keep their published
names. An activation that the op does not know, and a drop layer, run as modules after it.

Source: Pan et al., ECCV 2018, https://arxiv.org/abs/1807.09441; constructor conventions of timm.
"""

from typing import Any

import timm.layers
import torch
from torch import Tensor, nn

from ibnvision.ops import ibn_norm

_NO_SYNC = (
    "statistics over several processes are not supported by the fused layers; "
    "keep BatchNorm2d here or train in one process"
)


def _fused(act: nn.Module, drop: nn.Module) -> tuple[bool, str, float]:
    """Whether act runs inside the op, its name there, and the slope of leaky_relu."""
    names = {nn.Identity: "none", nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.SiLU: "silu"}
    if type(act) in names and type(drop) is nn.Identity:
        return True, names[type(act)], float(getattr(act, "negative_slope", 0.01))
    return False, "none", 0.01


class BatchNormAct2d(timm.layers.BatchNormAct2d):
    """timm's BatchNormAct2d through ibn_norm, with an optional residual.

    Constructor, parameters, buffers and numbers are timm's.
    """

    def __init__(self, num_features: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_features, *args, **kwargs)
        self.fused, self.act_name, self.slope = _fused(self.act, self.drop)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: [N, C, H, W]; act(norm(x) + residual) in x's dtype and memory format."""
        y = ibn_norm(
            x, None, None, self.weight, self.bias, self.running_mean, self.running_var,
            self.num_batches_tracked, residual if self.fused else None, 0, False, False,
            self.act_name, self.slope, self.training, self.momentum, self.eps,
        )  # fmt: skip
        if self.fused:
            return y
        y = self.drop(y)
        return self.act(y if residual is None else y + residual)


class InstanceNormAct2d(nn.InstanceNorm2d):
    """Instance norm with activation, act(norm(x + residual)): the extra norm of IBN-b.

    Args:
        num_features: C.
        eps: added to the variance.
        affine: whether weight and bias exist.
        apply_act, act_layer: as in timm's BatchNormAct2d.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        apply_act: bool = True,
        act_layer: Any = nn.ReLU,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps=eps, affine=affine, device=device, dtype=dtype)
        self.act = timm.layers.create_act_layer(act_layer) if apply_act else nn.Identity()
        self.fused, self.act_name, self.slope = _fused(self.act, nn.Identity())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: [N, C, H, W]; act(norm(x + residual)) in x's dtype and memory format."""
        y = ibn_norm(
            x, self.weight, self.bias, None, None, None, None, None, residual,
            self.num_features, False, True, self.act_name, self.slope, self.training, 0.1, self.eps,
        )  # fmt: skip
        return y if self.fused else self.act(y)


class IBN(nn.Module):
    """Instance norm on a share of the channels, batch norm on the rest (IBN-a's layer).

    The submodules IN and BN hold parameters and running statistics under the official keys; they
    are not called. BN's training flag, momentum and eps are read at every call, so freezing works.

    Args:
        num_features: C, any width.
        ratio: share of instance-normalized channels in [0, 1]; the count is int(C * ratio).
        instance_last: they are the last channels instead of the first, and the batch-normalized
            ones count int(C * (1 - ratio)), as in the official DenseNets.
        eps, momentum: as in BatchNorm2d.

    Raises:
        ValueError: ratio outside [0, 1].
    """

    def __init__(
        self,
        num_features: int,
        ratio: float = 0.5,
        *,
        instance_last: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
        dd = {"device": device, "dtype": dtype}
        count = int(num_features * ratio)
        self.num_features = num_features
        self.instance_last = instance_last
        self.instance_channels = (
            num_features - int(num_features * (1 - ratio)) if instance_last else count
        )
        self.IN = nn.InstanceNorm2d(self.instance_channels, eps=eps, affine=affine, **dd)
        self.BN = nn.BatchNorm2d(
            num_features - self.instance_channels, eps, momentum, affine, track_running_stats, **dd
        )
        self.act_name, self.slope = "none", 0.01

    @torch.jit.ignore
    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As nn.Module's, but no SyncBatchNorm: it would never be called."""
        if isinstance(module, nn.SyncBatchNorm):
            raise NotImplementedError(_NO_SYNC)
        super().add_module(name, module)

    def _norm(self, x: Tensor, residual: Tensor | None) -> Tensor:
        bn = self.BN
        if not hasattr(bn, "momentum"):  # replaced by a frozen batch norm
            return ibn_norm(
                x, self.IN.weight, self.IN.bias, bn.weight, bn.bias, bn.running_mean,
                bn.running_var, None, residual, self.instance_channels, self.instance_last, False,
                self.act_name, self.slope, False, 0.0, bn.eps,
            )  # fmt: skip
        return ibn_norm(
            x, self.IN.weight, self.IN.bias, bn.weight, bn.bias, bn.running_mean, bn.running_var,
            bn.num_batches_tracked, residual, self.instance_channels, self.instance_last, False,
            self.act_name, self.slope, bn.training, bn.momentum, bn.eps,
        )  # fmt: skip

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: [N, C, H, W]; norm(x) + residual in x's dtype and memory format."""
        return self._norm(x, residual)

    def extra_repr(self) -> str:
        return f"{self.num_features}, instance_channels={self.instance_channels}"


class IBNAct2d(IBN):
    """IBN with activation, by the constructor conventions of timm's BatchNormAct2d.

    Args:
        num_features, ratio, instance_last: see IBN.
        apply_act, act_layer, act_kwargs, inplace, drop_layer: see timm's BatchNormAct2d.
    """

    def __init__(
        self,
        num_features: int,
        ratio: float = 0.5,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        apply_act: bool = True,
        act_layer: Any = nn.ReLU,
        act_kwargs: dict[str, Any] | None = None,
        inplace: bool = True,
        drop_layer: Any = None,
        instance_last: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_features,
            ratio,
            instance_last=instance_last,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
            device=device,
            dtype=dtype,
        )
        self.drop = drop_layer() if drop_layer is not None else nn.Identity()
        kwargs = {"inplace": inplace, **(act_kwargs or {})}
        act = timm.layers.create_act_layer(act_layer, **kwargs) if apply_act else None
        self.act = nn.Identity() if act is None else act
        self.fused, self.act_name, self.slope = _fused(self.act, self.drop)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x, residual: [N, C, H, W]; act(norm(x) + residual) in x's dtype and memory format."""
        y = self._norm(x, residual if self.fused else None)
        if self.fused:
            return y
        y = self.drop(y)
        return self.act(y if residual is None else y + residual)
