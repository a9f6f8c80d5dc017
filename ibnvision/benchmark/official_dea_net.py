"""DEA-Net as it is published, in PyTorch's own operators: what `restoration` measures ours against.

Keys and numbers are those of ibnvision.models.dea_net. It computes in the memory format of its
input, frees what it no longer needs, and convolves once with the five kernels' sum.

Source: Chen et al., IEEE TIP 2024, https://arxiv.org/abs/2301.04805.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ibnvision.layers import DEAB, DEB, CGAFusion, DEConv
from ibnvision.models.dea_net import DEANet

from .fold_rows import fold_by_index


class OfficialDEConv(DEConv):
    """The five kernels by index assignments, their sum, one convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]; the same shape."""
        *weights, central, horizontal, vertical, angular, vanilla = self._parameters_in_order()
        assert central is not None
        bias = central + horizontal + vertical + angular + vanilla  # type: ignore[operator]
        return F.conv2d(x, fold_by_index(*weights), bias, padding=1)  # type: ignore[arg-type]


def pixel_weights(attention: DEAB | CGAFusion, x: Tensor) -> Tensor:
    """The gate of content-guided attention for x, [N, C, H, W]."""
    coarse = attention.ca(x) + attention.sa(x)
    return attention.pa(x, coarse)


class OfficialDEB(DEB):
    """Sums and activation as separate passes."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]; the same shape."""
        return self.conv2(self.act1(self.conv1(x)) + x) + x


class OfficialDEAB(DEAB):
    """Its attention with an interleaved and padded copy."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """x: [N, C, H, W]; the same shape."""
        r = self.conv2(self.act1(self.conv1(x)) + x)
        return r * pixel_weights(self, r) + x


class OfficialCGAFusion(CGAFusion):
    """The mixup in five passes."""

    def forward(self, low: Tensor, high: Tensor, pooled: Tensor | None = None) -> Tensor:
        """low, high: [N, C, H, W]; the same shape."""
        total = low + high
        weights = torch.sigmoid(pixel_weights(self, total))
        return self.conv(total + weights * low + (1 - weights) * high)


class OfficialDEANet(DEANet):
    """In the memory format of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, 3, H, W]; the same shape."""
        return self._decode(self._encode(x))


_OFFICIAL = {
    DEConv: OfficialDEConv,
    DEB: OfficialDEB,
    DEAB: OfficialDEAB,
    CGAFusion: OfficialCGAFusion,
    DEANet: OfficialDEANet,
}


def official(model: DEANet) -> DEANet:
    """`model` itself, from now on computing as published; returns it."""
    for module in model.modules():
        module.__class__ = _OFFICIAL.get(type(module), type(module))
    return model
