"""Detail-enhanced convolution: five branches folded into one 3x3 kernel, then one convolution.

    kernel = C central + H horizontal + V vertical + A angular + vanilla
    y = conv2d(x, kernel, the sum of the five biases)

C, H, V and A are constant maps of taps: a tap less its neighbours (the sum of the kernel at the
centre, the opposite column, the opposite row, the tap before it on the circle). The fold, its
gradient and that one's gradient are linear in the weights, so derivatives of any order exist.

Source: Chen et al., IEEE TIP 2024, https://arxiv.org/abs/2301.04805, section III-A. Differs: the
central branch's theta is used; every size, group, dtype and device works.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import check_vector
from ._kernels import (
    KERNEL_DTYPES,
    backward_function,
    eager_function,
    fall_back,
    is_eager,
    lib,
    register,
    register_entry,
    runs_directly,
    why_no_kernel,
)
from ._layout import dense, dense_like, statistics_dtype

NAMES = ("central", "horizontal", "vertical", "angular", "vanilla")
BIAS_NAMES = tuple(f"{name}_bias" for name in NAMES)
CLOCKWISE_BEFORE = (3, 0, 1, 6, 4, 2, 7, 8, 5)  # taps are numbered by rows; the centre is its own

_WEIGHTS = "Tensor central, Tensor horizontal, Tensor vertical, Tensor angular"
_BIASES = ", ".join(f"Tensor? {name}" for name in BIAS_NAMES)
_THETAS = "float central_theta, float angular_theta"
lib.define(
    f"detail_conv(Tensor x, {_WEIGHTS}, Tensor vanilla, {_BIASES}, SymInt[2] stride, "
    f"SymInt[2] padding, SymInt[2] dilation, SymInt groups, {_THETAS}) -> Tensor"
)
lib.define(
    f"detail_conv_fold({_WEIGHTS}, Tensor vanilla, {_BIASES}, {_THETAS}) "
    "-> (Tensor weight, Tensor bias)"
)
lib.define(  # without vanilla: the differences alone
    f"detail_conv_forward({_WEIGHTS}, Tensor? vanilla, {_BIASES}, {_THETAS}) "
    "-> (Tensor weight, Tensor bias)"
)
lib.define(
    f"detail_conv_backward(Tensor d_weight, {_THETAS}) -> "
    "(Tensor d_central, Tensor d_horizontal, Tensor d_vertical, Tensor d_angular)"
)


def tap_map(central_theta: float = 1.0, angular_theta: float = 1.0) -> Tensor:
    """[9, 33], float64: kernel taps from central 9, horizontal 3, vertical 3, angular 9, vanilla 9.

    Taps are numbered by rows.
    """
    rows = []
    for tap in range(9):
        row, column = divmod(tap, 3)
        central = [float(i == tap) - (central_theta if tap == 4 else 0.0) for i in range(9)]
        horizontal = [float((1 - column) * (i == row)) for i in range(3)]
        vertical = [float((1 - row) * (i == column)) for i in range(3)]
        before = CLOCKWISE_BEFORE[tap]
        angular = [float(i == tap) - angular_theta * (i == before) for i in range(9)]
        rows.append(central + horizontal + vertical + angular + [float(i == tap) for i in range(9)])
    return torch.tensor(rows, dtype=torch.float64)


def detail_conv_reference(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    central_theta: float,
    angular_theta: float,
) -> tuple[Tensor, Tensor]:
    """The definition: all taps of a pair of channels times tap_map; biases summed.

    `weights` are in the order of NAMES. Returns weight [O, I, 3, 3] in the memory format of the
    vanilla branch, and bias [O], empty without biases. Sums are float32, for float64 float64.
    """
    vanilla = weights[-1]
    dtype = statistics_dtype(vanilla)
    device = vanilla.device.type
    on_meta = device == "meta"  # which autocast does not know
    with contextlib.nullcontext() if on_meta else torch.autocast(device, enabled=False):
        taps = torch.cat([w.flatten(2) for w in weights], 2).to(dtype)
        maps = tap_map(central_theta, angular_theta).to(taps)
        folded = torch.einsum("oij,kj->oik", taps, maps).view(vanilla.shape).to(vanilla.dtype)
    given = [b.to(dtype) for b in biases if b is not None]
    bias = torch.stack(given).sum(0).to(vanilla.dtype) if given else vanilla.new_empty(0)
    return dense_like(folded, dense(vanilla)), bias


def _check_weights(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
    vanilla = weights[-1]
    if vanilla.dim() != 4 or vanilla.shape[2:] != (3, 3):
        raise ValueError(f"vanilla must be [O, I, 3, 3], got shape {tuple(vanilla.shape)}")
    if vanilla.dtype not in KERNEL_DTYPES:
        raise TypeError(
            f"vanilla must be float32, float16, bfloat16 or float64, got {vanilla.dtype}"
        )
    for name, weight in zip(NAMES[:4], weights, strict=False):
        shape = vanilla.shape[:3] if name in ("horizontal", "vertical") else vanilla.shape
        if weight.shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(weight.shape)}")
        if weight.device != vanilla.device:
            raise ValueError(
                f"{name} must be on the device of vanilla, {vanilla.device}, got {weight.device}"
            )
    for name, bias in zip(BIAS_NAMES, biases, strict=True):
        check_vector(name, bias, vanilla.shape[0], vanilla)
    for name, tensor in zip(NAMES + BIAS_NAMES, (*weights, *biases), strict=True):
        if tensor is not None and tensor.dtype != vanilla.dtype:
            raise TypeError(
                f"{name} must have the dtype of vanilla, {vanilla.dtype}, got {tensor.dtype}"
            )


def detail_conv_fold_entry(*args: Any) -> tuple[Tensor, Tensor]:
    """Body of the fold: checks, and chooses kernel or definition. bias is empty for None."""
    weights, biases, thetas = args[:5], args[5:10], args[10:]
    _check_weights(weights, biases)
    for name, theta in zip(("central_theta", "angular_theta"), thetas, strict=True):
        if not abs(theta) < math.inf:
            raise ValueError(f"{name} must be finite, got {theta}")
    reason = why_no_kernel("detail_conv_forward", weights[-1])
    if reason:
        fall_back("detail_conv", reason)
        return detail_conv_reference(weights, biases, *thetas)
    inputs = _in_one_format(args)
    if not is_eager():
        return torch.ops.ibnvision.detail_conv_forward(*inputs)
    needs_grad = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in inputs[:10]
    )
    return _eager_forward(needs_grad, *inputs)


def _in_one_format(args: Sequence[Any]) -> tuple[Any, ...]:
    """The kernel's arguments, the square weights in the memory format of the vanilla branch."""
    central, horizontal, vertical, angular, vanilla, *rest = args
    like = dense(central if vanilla is None else vanilla)
    central, angular = dense_like(central, like), dense_like(angular, like)
    vanilla = None if vanilla is None else like
    lines = horizontal.contiguous(), vertical.contiguous()
    return (central, *lines, angular, vanilla, *(_contiguous(b) for b in rest[:5]), *rest[5:])


def _contiguous(t: Tensor | None) -> Tensor | None:
    return t if t is None else t.contiguous()


def detail_conv_entry(
    x: Tensor,
    central: Tensor,
    horizontal: Tensor,
    vertical: Tensor,
    angular: Tensor,
    vanilla: Tensor,
    central_bias: Tensor | None,
    horizontal_bias: Tensor | None,
    vertical_bias: Tensor | None,
    angular_bias: Tensor | None,
    vanilla_bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    central_theta: float,
    angular_theta: float,
) -> Tensor:
    """Body of the operator: the fold in the weights' dtype, then the framework's convolution."""
    biases = (central_bias, horizontal_bias, vertical_bias, angular_bias, vanilla_bias)
    weight, bias = detail_conv_fold_entry(
        central, horizontal, vertical, angular, vanilla, *biases, central_theta, angular_theta
    )
    if x.dim() not in (3, 4) or x.shape[-3] != weight.shape[1] * groups:
        raise ValueError(
            f"x must be [N, C, H, W] or [C, H, W] with C={weight.shape[1] * groups} channels, "
            f"{groups} groups of {weight.shape[1]}, got shape {tuple(x.shape)}"
        )
    has_bias = any(b is not None for b in biases)
    return torch.conv2d(x, weight, bias if has_bias else None, stride, padding, dilation, groups)


def detail_conv(
    x: Tensor,
    central: Tensor,
    horizontal: Tensor,
    vertical: Tensor,
    angular: Tensor,
    vanilla: Tensor,
    central_bias: Tensor | None = None,
    horizontal_bias: Tensor | None = None,
    vertical_bias: Tensor | None = None,
    angular_bias: Tensor | None = None,
    vanilla_bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    central_theta: float = 1.0,
    angular_theta: float = 1.0,
) -> Tensor:
    """Fold five branches into one 3x3 kernel, in one launch, and convolve x with it once.

    Args:
        x: [N, C, H, W] or [C, H, W]; under autocast in any float dtype, else in the weights'.
        central, angular, vanilla: [O, C / groups, 3, 3]; float32, float16, bfloat16 or float64,
            folded in that dtype under autocast too. The memory format of vanilla is the kernel's.
        horizontal, vertical: [O, C / groups, 3], the left column and the top row.
        central_bias, ..., vanilla_bias: [O] or None; their sum is the bias.
        stride, padding, dilation, groups: as in torch.conv2d; one number for both axes works too,
            but in TorchScript.
        central_theta, angular_theta: share of the neighbours that is taken off. The official
            layer fixes the first at 1, and the horizontal and vertical branches have none.

    Returns:
        [N, O, H', W'] as torch.conv2d.

    Raises:
        ValueError: a shape, device or theta that does not hold.
        TypeError: a dtype that is not listed, or branches of several dtypes.
    """
    if not torch.jit.is_scripting() and not torch.compiler.is_compiling():
        if runs_directly(x, central, horizontal, vertical, angular, vanilla, vanilla_bias):
            return detail_conv_entry(
                x, central, horizontal, vertical, angular, vanilla, central_bias, horizontal_bias,
                vertical_bias, angular_bias, vanilla_bias, stride, padding, dilation, groups,
                central_theta, angular_theta,
            )  # fmt: skip
    return torch.ops.ibnvision.detail_conv(
        x,
        central,
        horizontal,
        vertical,
        angular,
        vanilla,
        central_bias,
        horizontal_bias,
        vertical_bias,
        angular_bias,
        vanilla_bias,
        stride,
        padding,
        dilation,
        groups,
        central_theta,
        angular_theta,
    )


def fold_detail_conv(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] = (None,) * 5,
    central_theta: float = 1.0,
    angular_theta: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """The kernel and the bias that detail_conv convolves with, differentiable.

    Args:
        weights, biases: of the five branches in the order of NAMES, as in detail_conv.
        central_theta, angular_theta: as in detail_conv.

    Returns:
        weight [O, I, 3, 3] and bias [O], None where all biases are None.

    Raises: as detail_conv.
    """
    args = (*weights, *biases, central_theta, angular_theta)
    direct = not torch.compiler.is_compiling() and runs_directly(*args[:10])  # type: ignore[arg-type]
    fold = detail_conv_fold_entry if direct else torch.ops.ibnvision.detail_conv_fold
    weight, bias = fold(*args)
    return weight, None if all(b is None for b in biases) else bias


_backward_op = backward_function("detail_conv_backward")


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.thetas = inputs[10:]
    ctx.given = [t is not None for t in inputs[4:10]]  # vanilla, the biases
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d_weight: Tensor | None, d_bias: Tensor | None) -> tuple[Any, ...]:
    branches: tuple[Tensor | None, ...] = (None,) * 4
    if d_weight is not None:
        d_weight = dense(d_weight)
        branches = _backward_op(d_weight, *ctx.thetas)
    vanilla, *biases = ctx.given
    rest = (d_weight if vanilla else None, *(d_bias if given else None for given in biases))
    return (*branches, *rest, None, None)


def _setup_double(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.thetas = inputs[1:]


def _double_backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    """The fold without its vanilla branch is the transpose of its own gradient."""
    args = _in_one_format((*gradients, None, *(None,) * 5, *ctx.thetas))
    return torch.ops.ibnvision.detail_conv_forward(*args)[0], None, None


def _fake_forward(central: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    like = dense(central if rest[3] is None else rest[3])
    size = like.shape[0] if any(b is not None for b in rest[4:9]) else 0
    return torch.empty_like(like), like.new_empty(size)


def _fake_backward(d_weight: Tensor, *thetas: float) -> tuple[Tensor, ...]:
    square, line = dense(d_weight), d_weight.new_empty(d_weight.shape[:3])
    return (
        torch.empty_like(square),
        line,
        torch.empty_like(line),
        torch.empty_like(square),
    )


_eager_forward = eager_function("detail_conv_forward", _setup_context, _backward)
register(
    "detail_conv",
    entry=detail_conv_entry,
    backward=_backward,
    setup_context=_setup_context,
    fake_forward=_fake_forward,
    fake_backward=_fake_backward,
    double_backward=_double_backward,
    setup_double=_setup_double,
)
register_entry("detail_conv_fold", detail_conv_fold_entry)


def example_inputs(
    *shape: int,
    out: int = 5,
    groups: int = 1,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    channels_last: bool = False,
    seed: int = 0,
) -> tuple[Any, ...]:
    """The positional arguments of detail_conv up to the biases, for an x of `shape`."""
    generator = torch.Generator().manual_seed(seed)
    wide = shape[1] // groups

    def draw(*size: int) -> Tensor:
        t = torch.randn(*size, generator=generator, dtype=torch.float64).to(device, dtype)
        last = channels_last and len(size) == 4
        return t.movedim(1, -1).contiguous().movedim(-1, 1) if last else t

    square, line = (out, wide, 3, 3), (out, wide, 3)
    weights = [draw(*size) / (9 * wide) ** 0.5 for size in (square, line, line, square, square)]
    return (draw(*shape), *weights, *(draw(out) if bias else None for _ in NAMES))
