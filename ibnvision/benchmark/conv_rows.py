"""DEConv as a layer, and the ways in which others compute it, as modules of one tensor."""

import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.layers import DEConv

from .fold_rows import branch_kernels
from .official_dea_net import OfficialDEConv


class DetailConv(DEConv):
    """Our layer as in DEA-Net.

    Args:
        shape: [N, C, H, W] of its input.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape[1], shape[1], 3, padding=1)

    def parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """The five weights and the five biases, central to vanilla."""
        parameters = [p for p in self._parameters_in_order() if p is not None]
        return parameters[:5], parameters[5:]


class IndexDetailConv(DetailConv, OfficialDEConv):
    """As published: the five kernels by index assignments, their sum, one convolution."""


class FiveConvolutions(DetailConv):
    """As the paper draws it: five convolutions of the input, and the sum of their results."""

    def forward(self, x: Tensor) -> Tensor:
        """x: of the shape; the same shape."""
        weights, biases = self.parts()
        kernels = [*branch_kernels(*weights[:4]), weights[4]]
        total = F.conv2d(x, kernels[0], biases[0], padding=1)
        for kernel, bias in zip(kernels[1:], biases[1:], strict=True):
            total = total + F.conv2d(x, kernel, bias, padding=1)
        return total


def folded(shape: tuple[int, ...]) -> nn.Module:
    """One plain convolution of the same size: what is left of the layer once it is folded."""
    return nn.Conv2d(shape[1], shape[1], 3, padding=1)
