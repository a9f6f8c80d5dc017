"""A 3x3 convolution of stride 1, with the ReLU and the sum that may follow it, for inference.

    y = act(conv2d(x, weight, bias, padding=1)) + residual          act: ReLU or nothing

On the CPU, for float32 in channels_last where no gradient is recorded, a kernel computes it by
minimal filtering, F(2x2, 3x3): 16 products instead of 36 for four results, act and sum in the same
pass. Nothing is kept between calls. All else takes the framework's convolution, and so do compilers
and exporters. Error bound and what infinities become: csrc/conv3x3/README.md.

Source: Winograd, 1980; Lavin and Gray, CVPR 2016, https://arxiv.org/abs/1509.09308.
"""

from typing import Any

import torch
from torch import Tensor

from ._checks import check_parameter, check_vector
from ._kernels import (
    PLAIN_TYPES,
    below_autograd,
    fall_back,
    lib,
    register,
    runs_directly,
    why_no_kernel,
)
from ._layout import dense

CHANNELS = 16  # the kernel takes multiples
WIDEST = 256  # channels either way: bounds the transformed weight to 4 MiB
PIXELS = 256  # fewer do not repay the transformed weight

_INPUTS = "Tensor x, Tensor weight, Tensor? bias"
lib.define(f"conv3x3({_INPUTS}=None, Tensor? residual=None, bool relu=False) -> Tensor")
lib.define(f"conv3x3_forward({_INPUTS}, Tensor? residual, bool relu) -> Tensor")


def conv3x3_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool
) -> Tensor:
    """The definition, by the framework's convolution."""
    y = torch.conv2d(x, weight, bias, padding=1)
    y = y.relu() if relu else y
    return y if residual is None else y + residual


def why_framework(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
) -> str:
    """Why these arguments of conv3x3 take the framework's convolution; "" for the kernel."""
    tensors = [t for t in (x, weight, bias, residual) if t is not None]
    watched = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if watched or any(type(t) not in PLAIN_TYPES for t in tensors):
        return "a compiler or an exporter watches"
    if x.device.type != "cpu":
        return f"no {x.device.type} kernel"
    reason = why_no_kernel("conv3x3_forward", x)
    if reason:
        return reason
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "a gradient is recorded"
    if any(t.dtype != torch.float32 for t in tensors) or torch.is_autocast_enabled("cpu"):
        return "not float32"
    inputs, outputs = x.shape[1], weight.shape[0]
    if inputs % CHANNELS or outputs % CHANNELS or not 0 < max(inputs, outputs) <= WIDEST:
        return f"channels are no multiples of {CHANNELS} up to {WIDEST}"
    if x.shape[0] * x.shape[2] * x.shape[3] < PIXELS:
        return f"fewer than {PIXELS} pixels"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return "x is not channels_last"
    return ""


def conv3x3_entry(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Body of the operator: checks, and chooses the kernel or the framework."""
    if x.dim() != 4:
        raise ValueError(f"x must be [N, C, H, W], got shape {tuple(x.shape)}")
    outputs = weight.shape[0] if weight.dim() else 1
    check_parameter("weight", weight, (outputs, x.shape[1], 3, 3), x)
    check_vector("bias", bias, outputs, x)
    if residual is not None:
        check_parameter("residual", residual, (x.shape[0], outputs, *x.shape[2:]), x)
    reason = why_framework(x, weight, bias, residual)
    if reason:
        fall_back("conv3x3", reason)
        return conv3x3_reference(x, weight, bias, residual, relu)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    parameters = dense(weight), None if bias is None else bias.contiguous()
    return _kernel(x, *parameters, residual, relu)


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Convolve x with 3x3 kernels (stride and padding 1), apply ReLU, add a residual.

    Args:
        x: [N, C, H, W].
        weight: [O, C, 3, 3].
        bias: [O] or None.
        residual: [N, O, H, W], added behind the ReLU; None adds nothing.
        relu: whether negative sums become 0.

    Returns:
        [N, O, H, W], dtype and memory format as torch.conv2d gives them.

    Raises:
        ValueError, TypeError: a shape, device or dtype that does not hold.
        RuntimeError: what torch.conv2d raises.
    """
    if not torch.jit.is_scripting() and not torch.compiler.is_compiling():
        if runs_directly(x, weight, bias, residual):
            return conv3x3_entry(x, weight, bias, residual, relu)
    return torch.ops.ibnvision.conv3x3(x, weight, bias, residual, relu)


def _fake_forward(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    size = (x.shape[0], weight.shape[0], *x.shape[2:])
    return x.new_empty(size).contiguous(memory_format=torch.channels_last)


_kernel = below_autograd(torch.ops.ibnvision.conv3x3_forward.default)
register("conv3x3", entry=conv3x3_entry, fake_forward=_fake_forward, kernel_dtypes=(torch.float32,))


def example_inputs(
    *shape: int,
    out: int | None = None,
    kind: str = "plain",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    channels_last: bool = True,
    seed: int = 0,
) -> tuple[Any, ...]:
    """The arguments of conv3x3 for an x of `shape`.

    `kind` is plain (no bias, no residual, no ReLU), bias, relu (with bias) or block (all of them).
    """
    generator = torch.Generator().manual_seed(seed)
    wide = shape[1] if out is None else out

    def draw(*size: int) -> Tensor:
        t = torch.randn(*size, generator=generator, dtype=torch.float64).to(device, dtype)
        last = channels_last and len(size) == 4
        return t.contiguous(memory_format=torch.channels_last) if last else t

    weight = draw(wide, shape[1], 3, 3) / (9 * shape[1]) ** 0.5
    bias = None if kind == "plain" else draw(wide)
    residual = draw(shape[0], wide, *shape[2:]) if kind == "block" else None
    return (draw(*shape), weight, bias, residual, kind in ("relu", "block"))
