"""Lambda-shaped attention of one layer as modules of one tensor, the queries, and its rivals."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.ops import lambda_attention

PREFIX, WINDOW = 5, 15


def side_of(shape: tuple[int, ...]) -> int:
    """Rows, and columns, of the grid of patches behind the prefix in [N, heads, T, D]."""
    return math.isqrt(shape[2] - PREFIX)


def visible_pairs(prefix: int, grid: tuple[int, int], reach: tuple[int, int]) -> int:
    """Pairs of tokens that one head computes: the prefix sees all, a patch its window."""

    def near(length: int, most: int) -> int:
        return sum(min(length, i + most + 1) - max(0, i - most) for i in range(length))

    height, width = grid
    patches = near(height, reach[0]) * near(width, reach[1])
    return patches + 2 * prefix * height * width + prefix**2


def pairs_of(shape: tuple[int, ...]) -> float:
    """Visible keys of a query, their mean."""
    grid = (side_of(shape),) * 2
    return visible_pairs(PREFIX, grid, (WINDOW // 2,) * 2) / shape[2]


class LambdaHeads(nn.Module):
    """Our operator; keys and values are parameters.

    Args:
        shape: [N, heads, T, D] with T the prefix and a square grid.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.side = side_of(shape)
        self.k, self.v = (nn.Parameter(torch.randn(shape)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x: of the shape; the same shape."""
        grid = (self.side, self.side)
        return lambda_attention(x, self.k, self.v, prefix=PREFIX, grid=grid, window=WINDOW)


class MaskedHeads(LambdaHeads):
    """The same function by scaled_dot_product_attention, with its mask as a matrix."""

    mask: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        at = torch.arange(self.side)
        near = (at[:, None] - at).abs() <= WINDOW // 2
        mask = torch.ones(shape[2], shape[2], dtype=torch.bool)
        both = near[:, None, :, None] & near[None, :, None, :]
        mask[PREFIX:, PREFIX:] = both.flatten(0, 1).flatten(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: of the shape; the same shape."""
        return F.scaled_dot_product_attention(x, self.k, self.v, attn_mask=self.mask)


class DenseHeads(LambdaHeads):
    """Another function: scaled_dot_product_attention over all pairs."""

    def forward(self, x: Tensor) -> Tensor:
        """x: of the shape; the same shape."""
        return F.scaled_dot_product_attention(x, self.k, self.v)


class FlexHeads(LambdaHeads):
    """The same function by compiled FlexAttention; tokens are taken to be in tile order."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.function: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """x: of the shape; the same shape."""
        if self.function is None:
            from .attention_calls import FORWARD, Case, flex  # which imports the rows

            batch, heads = x.shape[:2]
            case = Case(FORWARD, self.side, batch, heads, "fp32", x.device.type, False)
            self.function = flex(case)
        given: tuple[Tensor, ...] = (x, self.k, self.v)
        if not torch.is_grad_enabled():  # on a CPU it refuses what might want a gradient
            given = tuple(t.detach() for t in given)
        return self.function(*given)
