"""Tolerances and comparisons shared by tests and benchmarks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])

# (rtol, atol) of a result against the same computation in float64, for inputs of order one
TOLERANCE = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (2e-5, 2e-5),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.6e-2, 1.6e-2),
}


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
    """Compare within the tolerance of `dtype` (default: actual's), in float64.

    NaN never passes. Raises AssertionError with the greatest difference.
    """
    rtol, atol = TOLERANCE[dtype or actual.dtype]
    torch.testing.assert_close(actual.double().cpu(), expected.double().cpu(), rtol=rtol, atol=atol)


def grads(function: Callable[..., Tensor], inputs: Sequence[Tensor | None], dy: Tensor) -> tuple:
    """function(*inputs) and the gradients of <result, dy> for every floating-point input."""
    leaves = [
        i.detach().clone().requires_grad_() if i is not None and i.is_floating_point() else i
        for i in inputs
    ]
    y = function(*leaves)
    wanted = [i for i in leaves if i is not None and i.requires_grad]
    return y.detach(), torch.autograd.grad(y, wanted, dy.to(y.dtype))
