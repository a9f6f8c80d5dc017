"""Pixel attention of content-guided attention and what follows it, in one pass.

    m = ca + sa                                                  broadcast to [N, C, H, W]
    a = conv7x7(interleave(s, m), weight, bias)                  groups = C, reflect padding 3
    p = sigmoid(a)
    gate:   s = x                    y = s * p + residual
    mixup:  s = low + high           y = s + w * low + (1 - w) * high,  w = sigmoid(p)

The mixup takes the sigmoid twice, as the published weights need it; w stays within (0.5, 0.731).
Neither the interleaved tensor nor a padded one exists in memory: reflection is index arithmetic,
and a constant passes through it unchanged, so that the part of ca is ca * sum(weight[:, 1]).

Source: Chen, He, Lu, IEEE TIP 33 (2024), https://arxiv.org/abs/2301.04805.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_like, check_parameter, check_vector
from ._kernels import (
    KERNEL_DTYPES,
    backward_function,
    eager_function,
    fall_back,
    is_eager,
    lib,
    register,
    runs_directly,
    why_no_kernel,
)
from ._layout import dense, dense_like, statistics_dtype

REACH = 3  # of the 7x7 kernel

_INPUTS = "Tensor x, Tensor ca, Tensor sa, Tensor weight, Tensor bias"
lib.define(
    f"content_guided_attention({_INPUTS}, Tensor? residual=None, Tensor? high=None) -> Tensor"
)
lib.define(f"content_guided_attention_forward({_INPUTS}, Tensor? residual, Tensor? high) -> Tensor")
lib.define(
    f"content_guided_attention_backward(Tensor dy, {_INPUTS}, Tensor? high) -> (Tensor dx, "
    "Tensor d_ca, Tensor d_sa, Tensor d_weight, Tensor d_bias, Tensor d_high)"
)


def content_guided_attention_reference(
    x: Tensor,
    parameters: Sequence[Tensor],
    residual: Tensor | None,
    high: Tensor | None,
) -> Tensor:
    """The definition; `parameters` are ca, sa, weight and bias. Differentiable to any order."""
    ca, sa, weight, bias = parameters
    low = x.to(statistics_dtype(x))
    deep = None if high is None else high.to(low.dtype)
    s = low if deep is None else low + deep
    if x.numel() == 0:  # gradients are 0, not absent
        y = s + 0 * sum(v.sum() for v in parameters)
        y = y if residual is None else y + residual
    else:
        pairs = torch.stack((s, ca + sa), 2).flatten(1, 2)
        padded = F.pad(pairs, (REACH,) * 4, mode="reflect")
        p = torch.sigmoid(F.conv2d(padded, weight, bias, groups=x.shape[1]))
        if deep is None:
            y = s * p if residual is None else s * p + residual
        else:
            w = torch.sigmoid(p)
            y = s + w * low + (1 - w) * deep
    return dense_like(y.to(x.dtype), dense(x))


def _check(
    x: Tensor,
    ca: Tensor,
    sa: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    high: Tensor | None,
) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must be [N, C, H, W], got shape {tuple(x.shape)}")
    images, channels, height, width = x.shape
    if height <= REACH or width <= REACH:
        raise ValueError(
            f"the sides of x must be at least {REACH + 1}, since {REACH} pixels are reflected at "
            f"each border; got {height}x{width}"
        )
    for name, value in (("x", x), ("residual", residual), ("high", high)):
        if value is not None and value.dtype not in KERNEL_DTYPES:
            raise TypeError(
                f"{name} must be float32, float16, bfloat16 or float64, got {value.dtype}"
            )
    check_parameter("ca", ca, (images, channels, 1, 1), x)
    check_parameter("sa", sa, (images, 1, height, width), x)
    check_parameter("weight", weight, (channels, 2, 7, 7), x)
    check_vector("bias", bias, channels, x)
    check_like("residual", residual, x)
    check_like("high", high, x)
    if residual is not None and high is not None:
        raise ValueError("residual belongs to the gate and high to the mixup: got both")


def content_guided_attention_entry(
    x: Tensor,
    ca: Tensor,
    sa: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    high: Tensor | None = None,
) -> Tensor:
    """Body of the operator: checks, brings dtypes together, chooses kernel or definition."""
    _check(x, ca, sa, weight, bias, residual, high)
    other = high if residual is None else residual
    if other is not None and other.dtype != x.dtype:
        dtype = torch.promote_types(x.dtype, other.dtype)
        x = x.to(dtype)
        residual, high = (None if t is None else t.to(dtype) for t in (residual, high))
    dtype = statistics_dtype(x)
    parameters = [t if t.dtype == dtype else t.to(dtype) for t in (ca, sa, weight, bias)]
    reason = why_no_kernel("content_guided_attention_forward", x)
    if reason:
        fall_back("content_guided_attention", reason)
        return content_guided_attention_reference(x, parameters, residual, high)
    x = dense(x)
    residual, high = (None if t is None else dense_like(t, x) for t in (residual, high))
    inputs = (x, *(t.contiguous() for t in parameters), residual, high)
    if not is_eager():
        return torch.ops.ibnvision.content_guided_attention_forward(*inputs)
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    return _eager_forward(needs_grad, *inputs)


def content_guided_attention(
    x: Tensor,
    ca: Tensor,
    sa: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    high: Tensor | None = None,
) -> Tensor:
    """Gate x by its pixel attention, or mix x (low-level) and `high` (deep) features by theirs.

    Args:
        x: [N, C, H, W] with H and W at least 4; float32, float16, bfloat16 or float64, contiguous
            or channels_last (any other layout is copied to contiguous). The gated features, or the
            low-level ones of the mixup.
        ca: channel attention, [N, C, 1, 1], without a sigmoid.
        sa: spatial attention, [N, 1, H, W], without a sigmoid.
        weight: [C, 2, 7, 7]: of each channel the taps on the features and those on ca + sa.
        bias: [C].
        residual: of x's shape, added to the gated features; None adds nothing.
        high: of x's shape: the deep features; given, the mixup is computed instead of the gate.

    Returns:
        y of x's shape and memory format, in the dtype to which x, residual and high promote. Sums
        are in float32, for float64 in float64. Kept for the backward: the inputs, but not the
        residual; the attention is computed again.

    Raises:
        ValueError: a shape or device that does not hold, or both residual and high.
        TypeError: a dtype that is not listed.
    """
    if not torch.jit.is_scripting() and not torch.compiler.is_compiling():
        if runs_directly(x, ca, sa, weight, bias, residual, high):
            return content_guided_attention_entry(x, ca, sa, weight, bias, residual, high)
    return torch.ops.ibnvision.content_guided_attention(x, ca, sa, weight, bias, residual, high)


_backward_op = backward_function("content_guided_attention_backward")


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    *kept, residual, high = inputs
    ctx.save_for_backward(*kept, high)
    ctx.has_residual = residual is not None
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 7
    x, *parameters, high = ctx.saved_tensors
    dy = dense_like(dy, x)
    *gradients, d_high = _backward_op(dy, x, *parameters, high)
    return (*gradients, dy if ctx.has_residual else None, None if high is None else d_high)


def _fake_forward(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(dense(x))


def _fake_backward(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    x = dense(x)
    *parameters, high = rest
    d_high = x.new_empty((0,)) if high is None else torch.empty_like(x)
    gradients = [p.new_empty(p.shape) for p in parameters]
    return (torch.empty_like(x), *gradients, d_high)


_eager_forward = eager_function("content_guided_attention_forward", _setup_context, _backward)
register(
    "content_guided_attention",
    entry=content_guided_attention_entry,
    backward=_backward,
    setup_context=_setup_context,
    fake_forward=_fake_forward,
    fake_backward=_fake_backward,
)


def example_inputs(
    *shape: int,
    kind: str = "gate",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    channels_last: bool = False,
    seed: int = 0,
) -> tuple[Any, ...]:
    """x, ca, sa, weight, bias, residual and high for an x of `shape`.

    `kind` is gate (residual and high None), residual or mixup.
    """
    generator = torch.Generator().manual_seed(seed)
    images, channels, *space = shape

    def draw(*size: int, like: torch.dtype = dtype) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(device, like)

    def image() -> Tensor:
        t = draw(*shape)
        return t.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else t

    param = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        image(),
        draw(images, channels, 1, 1, like=param),
        draw(images, 1, *space, like=param),
        draw(channels, 2, 7, 7, like=param) / 7,
        draw(channels, like=param),
        image() if kind == "residual" else None,
        image() if kind == "mixup" else None,
    )
