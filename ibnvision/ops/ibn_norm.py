"""Instance-batch normalization with residual and activation in one pass.

    z = x + residual                                          (residual_first)
    n = (z - mean) * rsqrt(var + eps) * weight + bias
    y = act(n)   or   act(n + residual)                       (residual after the norm)

Instance channels (a contiguous range at the start or the end) take mean and var over their own
image, in training and in evaluation; the rest takes them over the batch, in evaluation from the
running statistics. Statistics are [N, C], so that groups between one image and the batch need no
new kernel.

Source: Pan et al., ECCV 2018, https://arxiv.org/abs/1807.09441. Differs: the range is given, not
inferred; the official layers split into equal pieces and fail for odd widths and single pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_choice, check_image, check_like, check_vector
from ._kernels import (
    backward_function,
    eager_function,
    fall_back,
    is_eager,
    lib,
    register,
    runs_directly,
    why_no_kernel,
)
from ._layout import dense, dense_like, is_channels_last, statistics_dtype

ACTIVATIONS = ("none", "relu", "leaky_relu", "silu")  # the index is the code in csrc/ibn_norm

_PARAMETERS = "Tensor? in_weight, Tensor? in_bias, Tensor? bn_weight, Tensor? bn_bias"
_LAYOUT = "int instance_channels, bool instance_last, bool residual_first"
lib.define(
    f"ibn_norm(Tensor x, {_PARAMETERS}, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
    f"Tensor(c!)? num_batches_tracked, Tensor? residual, {_LAYOUT}, str act, float slope, "
    "bool training, float? momentum, float eps) -> Tensor"
)
lib.define(
    f"ibn_norm_forward(Tensor x, {_PARAMETERS}, Tensor? running_mean, Tensor? running_var, "
    f"Tensor? residual, {_LAYOUT}, int act, float slope, bool batch_stats, bool keep_mask, "
    "float eps) -> (Tensor y, Tensor mean, Tensor var, Tensor mask)"
)
lib.define(  # the same, and the running statistics move
    f"ibn_norm_forward_tracking(Tensor x, {_PARAMETERS}, Tensor(a!) running_mean, "
    f"Tensor(b!) running_var, Tensor? residual, {_LAYOUT}, int act, float slope, "
    "bool batch_stats, bool keep_mask, float eps, Tensor? num_batches_tracked, float momentum) "
    "-> (Tensor y, Tensor mean, Tensor var, Tensor mask)"
)
lib.define(
    f"ibn_norm_backward(Tensor dy, Tensor x, {_PARAMETERS}, Tensor? residual, Tensor mean, "
    f"Tensor var, Tensor mask, {_LAYOUT}, int act, float slope, bool batch_stats, "
    "bool residual_grad, float eps) -> (Tensor dx, Tensor d_in_weight, Tensor d_in_bias, "
    "Tensor d_bn_weight, Tensor d_bn_bias, Tensor d_residual)"
)


def _activate(x: Tensor, act: str, slope: float) -> Tensor:
    if act == "relu":
        return F.relu(x)
    if act == "leaky_relu":
        return F.leaky_relu(x, slope)
    return F.silu(x) if act == "silu" else x


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1,) + (1,) * (x.dim() - 2)
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def _instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    if x[0, 0].numel() == 1:  # PyTorch's own leaves a rounding where the bias is the answer
        return _affine(x - x, weight, bias)
    return torch.instance_norm(x, weight, bias, None, None, True, 0.0, eps, False)


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x normalized by the batch, its mean and its unbiased variance, 0 for one value."""
    mean, var = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
    if x.numel() == x.shape[1]:
        return _affine(x - x, weight, bias), x.detach().flatten(), var
    # momentum 1 leaves exactly the batch's own statistics in the buffers
    return torch.batch_norm(x, weight, bias, mean, var, True, 1.0, eps, False), mean, var


def ibn_norm_reference(
    x: Tensor,
    values: Sequence[Tensor | None],
    residual: Tensor | None,
    instance_channels: int,
    instance_last: bool,
    residual_first: bool,
    act: str,
    slope: float,
    batch_stats: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition in PyTorch's own norms: y and the batch's mean and unbiased var.

    `values` are the weights, biases and running statistics in the operator's order. mean and var
    are [C - instance_channels], empty without batch statistics. Differentiable to any order.
    """
    in_weight, in_bias, bn_weight, bn_bias, running_mean, running_var = values
    batch_channels = x.shape[1] - instance_channels
    z = x.to(statistics_dtype(x))
    mean = var = z.new_zeros(batch_channels if batch_stats else 0)
    if residual is not None and residual_first:
        z = z + residual
    sizes = [instance_channels, batch_channels]
    order = -1 if instance_last else 1
    instance, batch = z.split(sizes[::order], 1)[::order]
    if z.numel() == 0:
        y = z + 0 * sum(v.sum() for v in values[:4] if v is not None)  # gradients are 0, not absent
    else:
        norms = []
        if instance_channels:
            norms.append(_instance_norm(instance, in_weight, in_bias, eps))
        if batch_channels and batch_stats:
            normed, mean, var = _batch_norm(batch, bn_weight, bn_bias, eps)
            norms.append(normed)
        elif batch_channels:
            args = (bn_weight, bn_bias, running_mean, running_var, False, 0.0, eps, False)
            norms.append(torch.batch_norm(batch, *args))
        y = torch.cat(norms[::order], 1) if len(norms) > 1 else norms[0]
    if residual is not None and not residual_first:
        y = y + residual
    return dense_like(_activate(y, act, slope).to(x.dtype), dense(x)), mean, var


def _move_running(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float | None,
) -> None:
    """running += (batch - running) * momentum; None is the cumulative average."""
    if mean.dtype != running_mean.dtype:
        mean, var = mean.to(running_mean.dtype), var.to(running_mean.dtype)
    batch = [mean, var]
    if momentum is not None:
        torch._foreach_lerp_([running_mean, running_var], batch, momentum)
    elif num_batches_tracked is not None:
        share = num_batches_tracked.to(mean.dtype).reciprocal()
        torch._foreach_lerp_([running_mean, running_var], batch, [share, share])


def ibn_norm_entry(
    x: Tensor,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    residual: Tensor | None,
    instance_channels: int,
    instance_last: bool,
    residual_first: bool,
    act: str,
    slope: float,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """Body of the operator: checks, chooses kernel or definition, moves the running statistics."""
    check_image(x)
    if not 0 <= instance_channels <= x.shape[1]:
        raise ValueError(
            f"instance_channels must lie in [0, C={x.shape[1]}], got {instance_channels}"
        )
    batch_channels = x.shape[1] - instance_channels
    check_vector("in_weight", in_weight, instance_channels, x)
    check_vector("in_bias", in_bias, instance_channels, x)
    check_vector("bn_weight", bn_weight, batch_channels, x)
    check_vector("bn_bias", bn_bias, batch_channels, x)
    check_vector("running_mean", running_mean, batch_channels, x)
    check_vector("running_var", running_var, batch_channels, x)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given together, got only one")
    check_like("residual", residual, x)
    check_choice("act", act, ACTIVATIONS)
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie in [0, 1] or be None, got {momentum}")
    if eps < 0:
        raise ValueError(f"eps must not be negative, got {eps}")

    batch_stats = training or running_mean is None
    can_move = running_mean is not None and (
        momentum is not None or num_batches_tracked is not None
    )
    moves = training and can_move and x.numel() > 0
    if moves and num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    dtype = statistics_dtype(x)
    tensors = (in_weight, in_bias, bn_weight, bn_bias, running_mean, running_var)
    values = [
        t if t is None or (t.dtype == dtype and t.is_contiguous()) else t.to(dtype).contiguous()
        for t in tensors
    ]
    if residual is not None and residual.dtype != x.dtype:
        residual = residual.to(x.dtype)
    reason = why_no_kernel("ibn_norm_forward", x)
    if reason:
        fall_back("ibn_norm", reason)
        y, mean, var = ibn_norm_reference(
            x, values, residual, instance_channels, instance_last, residual_first, act, slope,
            batch_stats, eps,
        )  # fmt: skip
    else:
        x = dense(x)
        if residual is not None:
            residual = dense_like(residual, x)
        needs_grad = torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, residual, *values[:4])
        )
        inputs = (
            x, *values, residual, instance_channels, instance_last, residual_first,
            ACTIVATIONS.index(act), slope, batch_stats, needs_grad, eps,
        )  # fmt: skip
        if not is_eager():
            y, all_mean, all_var, _ = torch.ops.ibnvision.ibn_norm_forward(*inputs)
        elif moves and running_mean is values[4] and running_var is values[5]:
            tracked = num_batches_tracked if momentum is None else None
            return _eager_tracking(needs_grad, *inputs, tracked, momentum or 0.0)[0]
        else:
            y, all_mean, all_var, _ = _eager_forward(needs_grad, *inputs)
        if moves:
            start, count = 0 if instance_last else instance_channels, x.numel() // x.shape[1]
            mean = all_mean[0].narrow(0, start, batch_channels)
            var = all_var[0].narrow(0, start, batch_channels) * (count / max(count - 1, 1))
    if moves and running_mean is not None and running_var is not None:
        _move_running(running_mean, running_var, num_batches_tracked, mean, var, momentum)
    return y


def ibn_norm(
    x: Tensor,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None = None,
    residual: Tensor | None = None,
    instance_channels: int = 0,
    instance_last: bool = False,
    residual_first: bool = False,
    act: str = "none",
    slope: float = 0.01,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize x, add a residual, activate; in training also move the running statistics.

    Args:
        x: [N, C, *spatial] with 1 to 3 spatial axes; float32, float16, bfloat16 or float64,
            contiguous or channels_last (any other layout is copied to contiguous).
        in_weight, in_bias: [instance_channels], or None for 1 and 0.
        bn_weight, bn_bias: [C - instance_channels], or None for 1 and 0.
        running_mean, running_var: [C - instance_channels], moved in place in training with the
            unbiased variance; None uses batch statistics always.
        num_batches_tracked: int64 scalar, counted up in training; None does not count.
        residual: of x's shape, cast to x's dtype.
        instance_channels: how many channels are instance-normalized, 0 to C.
        instance_last: whether those are the last channels (DenseNet) or the first (ResNet).
        residual_first: add the residual before the norm instead of after it.
        act: none, relu, leaky_relu or silu; slope is leaky_relu's.
        training: whether batch channels use the batch's statistics.
        momentum: of the running statistics; None is the cumulative average.
        eps: added to the variance.

    Returns:
        y in the shape, dtype and memory format of x. One value per group gives the bias.

    Raises:
        ValueError: a shape, device or range that does not hold.
        TypeError: a dtype that is not listed.
        KeyError: an unknown activation.
    """
    if not torch.jit.is_scripting() and not torch.compiler.is_compiling():
        if runs_directly(x, bn_weight, in_weight, residual):
            return ibn_norm_entry(
                x, in_weight, in_bias, bn_weight, bn_bias, running_mean, running_var,
                num_batches_tracked, residual, instance_channels, instance_last, residual_first,
                act, slope, training, momentum, eps,
            )  # fmt: skip
    return torch.ops.ibnvision.ibn_norm(
        x,
        in_weight,
        in_bias,
        bn_weight,
        bn_bias,
        running_mean,
        running_var,
        num_batches_tracked,
        residual,
        instance_channels,
        instance_last,
        residual_first,
        act,
        slope,
        training,
        momentum,
        eps,
    )


_backward_op = backward_function("ibn_norm_backward")


def _keeps_mask(residual: Tensor | None, residual_first: bool, act: int) -> bool:
    """After an added residual the sign of the sum is kept as one bit instead of the residual."""
    return (
        residual is not None and not residual_first and ACTIVATIONS[act] in ("relu", "leaky_relu")
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, *parameters = inputs[:5]
    residual, *layout, act, slope, batch_stats, _, eps = inputs[7:16]
    _, mean, var, mask = output
    recomputed = residual is not None and (layout[2] or ACTIVATIONS[act] == "silu")
    ctx.save_for_backward(x, *parameters, residual if recomputed else None, mean, var, mask)
    ctx.options = (*layout, act, slope, batch_stats)
    ctx.has_residual, ctx.eps = residual is not None, eps
    ctx.mark_non_differentiable(mean, var, mask)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    rest = (None,) * (len(ctx.needs_input_grad) - 8)
    if dy is None:
        return (None,) * 8 + rest
    x, *parameters, residual, mean, var, mask = ctx.saved_tensors
    residual_first, act = ctx.options[2], ctx.options[3]
    dy = dense_like(dy, x)
    wants = ctx.has_residual and ctx.needs_input_grad[7]
    from_kernel = wants and not residual_first and act != 0
    dx, *gradients, d_residual = _backward_op(
        dy, x, *parameters, residual, mean, var, mask, *ctx.options, from_kernel, ctx.eps
    )
    if wants and not from_kernel:
        d_residual = dx if residual_first else dy
    gradients = [None if p is None else g for p, g in zip(parameters, gradients, strict=True)]
    return (dx, *gradients, None, None, d_residual if wants else None, *rest)


def _mask_shape(x: Tensor) -> tuple[int, int]:
    """One bit an element, each row of memory ([N, C] or [N, *spatial]) padded to whole bytes."""
    row = x.shape[1] if is_channels_last(x) else x[0, 0].numel()
    return x.numel() // row if x.numel() else 0, (row + 7) // 8


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    residual, _, _, residual_first, act, _, _, keep_mask, _ = rest[6:]
    x = dense(x)
    mean = x.new_empty((x.shape[0], x.shape[1]), dtype=statistics_dtype(x))
    kept = keep_mask and _keeps_mask(residual, residual_first, act)
    mask = x.new_empty(_mask_shape(x) if kept else (0,), dtype=torch.uint8)
    return torch.empty_like(x), mean, torch.empty_like(mean), mask


def _fake_backward(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    instance, residual_grad = rest[8], rest[14]
    x = dense(x)
    sizes = (instance, instance, x.shape[1] - instance, x.shape[1] - instance)
    gradients = [x.new_empty((size,), dtype=statistics_dtype(x)) for size in sizes]
    d_residual = torch.empty_like(x) if residual_grad else x.new_empty((0,))
    return (torch.empty_like(x), *gradients, d_residual)


_eager_forward = eager_function("ibn_norm_forward", _setup_context, _backward)
_eager_tracking = eager_function("ibn_norm_forward_tracking", _setup_context, _backward)
register(
    "ibn_norm",
    entry=ibn_norm_entry,
    backward=_backward,
    setup_context=_setup_context,
    fake_forward=_fake_forward,
    fake_backward=_fake_backward,
)


def example_inputs(
    *shape: int,
    split: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    channels_last: bool = False,
    residual: bool = False,
    seed: int = 0,
) -> tuple[Any, ...]:
    """The positional arguments of ibn_norm up to instance_channels, for an x of `shape`."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]
    split = channels // 2 if split is None else split

    def draw(*size: int, like: torch.dtype = dtype) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(device, like)

    def image() -> Tensor:
        t = draw(*shape)
        return t.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else t

    param = torch.float64 if dtype == torch.float64 else torch.float32
    rest = channels - split
    return (
        image() * 2 + 1,
        draw(split, like=param),
        draw(split, like=param),
        draw(rest, like=param),
        draw(rest, like=param),
        draw(rest, like=param),
        draw(rest, like=param).abs() + 0.5,
        torch.zeros((), dtype=torch.int64, device=device),
        image() if residual else None,
        split,
    )
