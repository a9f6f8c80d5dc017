"""The fold of detail_conv, and the same by index assignments, as modules of one tensor."""

import torch
from torch import Tensor, nn

from ibnvision.ops import fold_detail_conv


class Fold(nn.Module):
    """The vanilla weight -> the folded kernel; the difference branches are parameters.

    Args:
        shape: [O, I, 3, 3] of the weight.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        std = (9 * shape[1]) ** -0.5
        self.central, self.angular = (nn.Parameter(std * torch.randn(shape)) for _ in range(2))
        self.horizontal, self.vertical = (
            nn.Parameter(std * torch.randn(shape[:3])) for _ in range(2)
        )

    def forward(self, vanilla: Tensor) -> Tensor:
        return fold_detail_conv(
            (self.central, self.horizontal, self.vertical, self.angular, vanilla)
        )[0]


class IndexFold(Fold):
    """The usual form, see `fold_by_index`."""

    def forward(self, vanilla: Tensor) -> Tensor:
        return fold_by_index(self.central, self.horizontal, self.vertical, self.angular, vanilla)


def fold_by_index(
    central: Tensor, horizontal: Tensor, vertical: Tensor, angular: Tensor, vanilla: Tensor
) -> Tensor:
    """A kernel for each branch, its taps assigned by index, then their sum.

    Args:
        central, angular, vanilla: [O, I, 3, 3].
        horizontal, vertical: [O, I, 3].
    """
    first, second, third, fourth = branch_kernels(central, horizontal, vertical, angular)
    return first + second + third + fourth + vanilla


def branch_kernels(
    central: Tensor, horizontal: Tensor, vertical: Tensor, angular: Tensor
) -> list[Tensor]:
    """The 3x3 kernel of each difference branch, [O, I, 3, 3], its taps assigned by index."""
    pairs, shape = central.shape[:2], central.shape
    central, angular = central.flatten(2), angular.flatten(2)

    def kernel() -> Tensor:
        return central.new_zeros(*pairs, 9)

    first = kernel()
    first[:, :, :] = central
    first[:, :, 4] = central[:, :, 4] - central.sum(2)
    second = kernel()
    second[:, :, [0, 3, 6]] = horizontal
    second[:, :, [2, 5, 8]] = -horizontal
    third = kernel()
    third[:, :, [0, 1, 2]] = vertical
    third[:, :, [6, 7, 8]] = -vertical
    fourth = angular - angular[:, :, [3, 0, 1, 6, 4, 2, 7, 8, 5]]
    return [made.view(shape) for made in (first, second, third, fourth)]
