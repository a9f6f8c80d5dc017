"""Counts what a network must compute and move at least, from the shapes of its products.

Products are convolutions, matrix products and attention; all else is taken to be free, fused into
them. Each reads its operands from memory and writes its result once. Convolutions are counted
directly: Winograd's form needs fewer operations, so that a fast one may fall below this floor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from .attention_rows import visible_pairs


@dataclass(frozen=True)
class Work:
    """Of one call: operations (two a multiply-add), bytes moved, elements that products gave."""

    flops: int
    bytes: int
    activations: int


def _pair_channels(q: Sequence[int], prefix: int, width: int, reach: tuple[int, int]) -> int:
    """Visible pairs of all heads, times channels; q: [N, heads, T, D]."""
    batch, heads, tokens, size = q
    grid = ((tokens - prefix) // width, width)
    return batch * heads * size * visible_pairs(prefix, grid, reach)


def _forward_flops(q: Any, *rest: Any, **_: Any) -> int:
    prefix, width, reach_y, reach_x = rest[6:10]  # behind k, v, table, slopes, two prefixes
    return 4 * _pair_channels(q, prefix, width, (reach_y, reach_x))


def _backward_flops(d_out: Any, q: Any, *rest: Any, **_: Any) -> int:
    prefix, width, reach_y, reach_x = rest[8:12]  # out and lse besides
    return 10 * _pair_channels(q, prefix, width, (reach_y, reach_x))


def _own() -> dict[Any, Callable[..., int]]:
    """Operations of our attention on a grid; the other operators are counted in plain PyTorch."""
    ours = torch.ops.ibnvision
    return {
        ours.lambda_attention_forward: _forward_flops,
        ours.lambda_attention_backward: _backward_flops,
    }


class _Traffic(TorchDispatchMode):
    """Adds up bytes and results of the products inside the block."""

    def __init__(self, products: set[Any]) -> None:
        super().__init__()
        self.products, self.bytes, self.activations = products, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in self.products:
            made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
            read = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in (*made, *read))
            self.activations += made[0].numel()
        return result


def count(call: Callable[[], object]) -> Work:
    """What one call does; of our operators only attention is known, so run others as reference."""
    own = _own()
    with (
        FlopCounterMode(display=False, custom_mapping=own) as counter,
        _Traffic({*flop_registry, *own}) as traffic,
    ):
        call()
    return Work(counter.get_total_flops(), traffic.bytes, traffic.activations)
