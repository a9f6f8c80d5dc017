"""The blocks of DEA-Net: DEB, a detail-enhanced residual block, and DEAB, which adds attention.

Source: Chen et al., IEEE TIP 2024, https://arxiv.org/abs/2301.04805. Submodules keep the published
names; without a gradient to record, the sums run in place. Where the op conv3x3 has a kernel for a
plain convolution, its ReLU and its sum, they are one call of it.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ibnvision.ops.conv3x3 import conv3x3, why_framework

from .content_guided_attention import CGA
from .detail_conv import DEConv


@fx.wrap
def _add_to(fresh: Tensor, x: Tensor) -> Tensor:
    """fresh + x, in the memory of fresh (which nobody else holds) where no gradient is recorded."""
    if torch.is_grad_enabled() or fresh.dtype != x.dtype:
        return fresh + x
    return fresh.add_(x)


def _is_bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of module computes what `kind` does and nobody waits for it."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module) is kind and not hooks and "forward" not in vars(module)


def _runs_kernel(conv: nn.Module, x: Tensor, act: nn.Module | None) -> bool:
    """Whether conv3x3 computes act(conv(x)) by its kernel."""
    return (
        isinstance(x, Tensor)  # and no proxy of FX
        and _is_bare(conv, nn.Conv2d)
        and (act is None or _is_bare(act, nn.ReLU))
        and not nn.modules.module._has_any_global_hook()
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
        and not why_framework(x, conv.weight, conv.bias)  # type: ignore[arg-type]
    )


def _convolve(conv: nn.Module, x: Tensor, act: nn.Module | None, residual: Tensor | None) -> Tensor:
    """act(conv(x)) + residual; act, a ReLU, and residual where they are given."""
    if _runs_kernel(conv, x, act):
        return conv3x3(x, conv.weight, conv.bias, residual, act is not None)  # type: ignore[arg-type]
    y = conv(x) if act is None else act(conv(x))
    return y if residual is None else _add_to(y, residual)


def _first(dim: int, detail: bool, dd: dict[str, Any]) -> nn.Module:
    layer = DEConv if detail else nn.Conv2d
    return layer(dim, dim, 3, padding=1, **dd)


class DEB(nn.Module):
    """y = conv2(r) + x with r = relu(conv1(x)) + x; conv1 is a DEConv.

    Args:
        dim: C.
        detail: False puts a plain convolution in the place of DEConv, as folding does.
    """

    def __init__(
        self, dim: int, detail: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = _first(dim, detail, dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]; the same shape."""
        if torch.jit.is_scripting():
            return _add_to(self.conv2(_add_to(self.act1(self.conv1(x)), x)), x)
        return _convolve(self.conv2, _convolve(self.conv1, x, self.act1, x), None, x)


class DEAB(CGA):
    """y = r * weights(r) + x with r = conv2(relu(conv1(x)) + x); conv1 is a DEConv.

    Args:
        dim: C.
        reduction: of the channel attention.
        detail: as in DEB.
    """

    def __init__(
        self,
        dim: int,
        reduction: int = 8,
        detail: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(dim, reduction, device, dtype)
        dd = {"device": device, "dtype": dtype}
        self.conv1 = _first(dim, detail, dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, **dd)

    def body(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]; r, the features before the attention."""
        if torch.jit.is_scripting():
            return self.conv2(_add_to(self.act1(self.conv1(x)), x))
        return _convolve(self.conv2, _convolve(self.conv1, x, self.act1, x), None, None)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """x: [N, C, H, W], sides at least 4; the same shape."""
        return self.attend(self.body(x), x)
