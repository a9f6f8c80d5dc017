"""The blocks of DEA-Net: DEB, a detail-enhanced residual block, and DEAB, which adds attention.

Source: Chen et al., IEEE TIP 2024, https://arxiv.org/abs/2301.04805. Submodules keep the published
names; without a gradient to record, the sums run in place.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from .content_guided_attention import CGA
from .detail_conv import DEConv


@fx.wrap
def _add_to(fresh: Tensor, x: Tensor) -> Tensor:
    """fresh + x, in the memory of fresh (which nobody else holds) where no gradient is recorded."""
    if torch.is_grad_enabled() or fresh.dtype != x.dtype:
        return fresh + x
    return fresh.add_(x)


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
        return _add_to(self.conv2(_add_to(self.act1(self.conv1(x)), x)), x)


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
        return self.conv2(_add_to(self.act1(self.conv1(x)), x))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """x: [N, C, H, W], sides at least 4; the same shape."""
        return self.attend(self.body(x), x)
