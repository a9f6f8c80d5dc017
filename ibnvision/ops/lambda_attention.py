"""Lambda-shaped attention: a few global tokens and a local window, without a mask in memory.

    out[i] = sum_j p[i, j] v[j],   p[i] = softmax over the visible j of scale * <q[i], k[j]> + bias

On a grid the first `prefix` tokens see all and are seen by all; a patch sees the patches at most
window // 2 rows and columns away, clipped at the border. bias[i, j] of two patches is
bias_table[h, dy + window[0] // 2, dx + window[1] // 2] for the offset (dy, dx) from query to key,
less slope[h] * min(Euclidean distance, limit); pairs with the prefix have none.

A causal sequence (grid None): j <= i is visible if i - j < window or j < prefix; the bias is
-slope[h] * min(i - j, limit).

Where j < prefix is not within the window, on a grid always, <q_prefix[i], k_prefix[j]> takes the
place of <q[i], k[j]>: with rotary positions the query is turned there to a distance that training
saw. Time and memory are O(N * (prefix + window)).

Source: Han et al., NAACL 2024, https://arxiv.org/abs/2308.16137. The grid form is ours.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
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
from ._lambda_halo import causal_attention, grid_attention

WIDEST_ON_CUDA = 128  # head size that the kernels are instantiated for

_OPTIONAL = "Tensor? {}table, Tensor? {}slopes, Tensor? q_prefix, Tensor? k_prefix"
_GEOMETRY = (
    "int prefix, SymInt width, int reach_y, int reach_x, bool causal, float scale, float limit"
)
_KERNEL_INPUTS = f"Tensor q, Tensor k, Tensor v, {_OPTIONAL.format('', '')}"
lib.define(
    "lambda_attention(Tensor q, Tensor k, Tensor v, *, int prefix=0, SymInt[2]? grid=None, "
    "int[2] window, bool causal=False, float? scale=None, Tensor? bias_table=None, "
    "Tensor? alibi_slopes=None, float? limit=None, Tensor? q_prefix=None, Tensor? k_prefix=None) "
    "-> Tensor"
)
lib.define(  # lse is the natural logarithm of each row's sum, [B, heads, N]
    f"lambda_attention_forward({_KERNEL_INPUTS}, {_GEOMETRY}) -> (Tensor out, Tensor lse)"
)
lib.define(
    f"lambda_attention_backward(Tensor d_out, {_KERNEL_INPUTS}, Tensor out, Tensor lse, "
    f"{_GEOMETRY}) -> (Tensor dq, Tensor dk, Tensor dv, Tensor d_table, Tensor d_q_prefix, "
    "Tensor d_k_prefix)"
)


def lambda_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    slopes: Tensor | None,
    q_prefix: Tensor | None,
    k_prefix: Tensor | None,
    prefix: int,
    width: int,
    reach_y: int,
    reach_x: int,
    causal: bool,
    scale: float,
    limit: float,
) -> Tensor:
    """The definition of lambda_attention_forward's `out`, at linear cost."""
    q_prefix = q if q_prefix is None else q_prefix
    k_prefix = k[:, :, :prefix] if k_prefix is None else k_prefix
    if causal:
        out = causal_attention(
            q, k, v, q_prefix, k_prefix, slopes, prefix, reach_x + 1, scale, limit
        )
    else:
        grid = ((q.shape[2] - prefix) // width if width else 0, width)
        reach = (reach_y, reach_x)
        out = grid_attention(q, k, v, q_prefix, k_prefix, table, prefix, grid, reach, scale)
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def alibi_table(slopes: Tensor, window: tuple[int, int], limit: float = math.inf) -> Tensor:
    """[heads, *window]: -slope * min(d, limit) of every offset, d its Euclidean length."""
    y, x = (torch.arange(w, device=slopes.device, dtype=slopes.dtype) - w // 2 for w in window)
    distance = torch.sqrt(y[:, None] ** 2 + x**2).clamp(max=limit)
    return -slopes[:, None, None] * distance


def _check_tokens(
    q: Tensor, k: Tensor, v: Tensor, q_prefix: Tensor | None, k_prefix: Tensor | None, prefix: int
) -> None:
    if q.dim() != 4:
        raise ValueError(f"q must be [B, heads, N, D], got shape {tuple(q.shape)}")
    if q.dtype not in KERNEL_DTYPES:
        raise TypeError(f"q must be float32, float16, bfloat16 or float64, got {q.dtype}")
    if q.shape[3] % 8 or q.shape[3] == 0:
        raise ValueError(f"the head size of q must be a multiple of 8, got {q.shape[3]}")
    if not 0 <= prefix <= q.shape[2]:
        raise ValueError(f"prefix must lie in [0, N={q.shape[2]}], got {prefix}")
    for name, value in (("k", k), ("v", v), ("q_prefix", q_prefix), ("k_prefix", k_prefix)):
        if value is None:
            continue
        if name == "k_prefix":
            check_parameter(name, value, (*q.shape[:2], prefix, q.shape[3]), q, like="q")
        else:
            check_like(name, value, q, like="q")
        if value.dtype != q.dtype:
            raise TypeError(f"{name} must have the dtype of q, {q.dtype}, got {value.dtype}")


def _check_geometry(
    tokens: int, prefix: int, grid: Sequence[int] | None, window: Sequence[int], causal: bool
) -> None:
    if any(w < 1 for w in window):
        raise ValueError(f"window must be at least 1, got {tuple(window)}")
    if grid is None:
        if window[0] != window[1]:
            raise ValueError(f"window of a sequence must be one number, got {tuple(window)}")
        return
    if causal:
        raise ValueError(f"causal belongs to a sequence: grid must be None, got {tuple(grid)}")
    if min(grid) < 0 or grid[0] * grid[1] != tokens - prefix:
        raise ValueError(
            f"grid must be (H, W) with prefix + H * W = N, got {tuple(grid)} with prefix {prefix} "
            f"and N {tokens}"
        )
    if any(w % 2 == 0 for w in window):
        raise ValueError(f"window on a grid must be odd, got {tuple(window)}")


def _bias(
    q: Tensor,
    window: Sequence[int],
    causal: bool,
    bias_table: Tensor | None,
    alibi_slopes: Tensor | None,
    limit: float,
) -> tuple[Tensor | None, Tensor | None]:
    """Checks, and brings the biases into the form of the kernels: (table, slopes)."""
    heads = q.shape[1]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    check_vector("alibi_slopes", alibi_slopes, heads, q, like="q")
    if alibi_slopes is not None:
        if alibi_slopes.requires_grad:
            raise ValueError(
                "alibi_slopes must not require a gradient; a learned bias belongs in bias_table"
            )
        alibi_slopes = alibi_slopes.to(dtype)
    if not limit >= 0:
        raise ValueError(f"limit must be at least 0, got {limit}")
    if bias_table is not None:
        shape = (heads, window[0], window[1])
        if causal:
            raise ValueError("bias_table belongs to a grid: use alibi_slopes with a sequence")
        check_parameter("bias_table", bias_table, shape, q, like="q")
        bias_table = bias_table.to(dtype)
    if causal or alibi_slopes is None:
        return bias_table, alibi_slopes
    table = alibi_table(alibi_slopes, (window[0], window[1]), limit)
    return (table if bias_table is None else bias_table + table), None


def _in_autocast(tensors: Sequence[Tensor | None], device: str) -> list[Tensor | None]:
    """As scaled_dot_product_attention has it: autocast's dtype, but float64 stays."""
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def lambda_attention_entry(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prefix: int = 0,
    grid: Sequence[int] | None = None,
    window: int | Sequence[int],
    causal: bool = False,
    scale: float | None = None,
    bias_table: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    limit: float | None = None,
    q_prefix: Tensor | None = None,
    k_prefix: Tensor | None = None,
) -> Tensor:
    """Body of the operator: checks, brings arguments into the kernels' form, chooses."""
    if q.device.type in ("cpu", "cuda"):
        q, k, v, q_prefix, k_prefix = _in_autocast(  # type: ignore[assignment]
            (q, k, v, q_prefix, k_prefix), q.device.type
        )
    if k_prefix is not None and k_prefix.shape == k.shape:
        k_prefix = k_prefix[:, :, :prefix]
    _check_tokens(q, k, v, q_prefix, k_prefix, prefix)
    window = (window, window) if isinstance(window, int) else tuple(window)
    if len(window) == 1:
        window = window * 2
    _check_geometry(q.shape[2], prefix, grid, window, causal)
    if grid is None and not causal:  # a sequence that looks both ways is a grid of one row
        grid, window = (1, q.shape[2] - prefix), (1, 2 * window[0] - 1)
    limit = math.inf if limit is None else float(limit)
    table, slopes = _bias(q, window, causal, bias_table, alibi_slopes, limit)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if causal:
        geometry = (prefix, 0, 0, window[0] - 1, True, scale, limit)
    else:
        assert grid is not None
        geometry = (prefix, grid[1], window[0] // 2, window[1] // 2, False, scale, limit)
    reason = why_no_kernel("lambda_attention_forward", q)
    if not reason and q.device.type == "cuda" and q.shape[3] > WIDEST_ON_CUDA:
        reason = f"no CUDA kernel for head sizes above {WIDEST_ON_CUDA}"
    inputs = (q, k, v, table, slopes, q_prefix, k_prefix)
    if reason:
        fall_back("lambda_attention", reason)
        return lambda_attention_reference(*inputs, *geometry)
    rows = [None if t is None else _rows(t) for t in inputs]
    if not is_eager():
        return torch.ops.ibnvision.lambda_attention_forward(*rows, *geometry)[0]
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in rows)
    return _eager_forward(needs_grad, *rows, *geometry)[0]


def _rows(x: Tensor) -> Tensor:
    """x with neighbouring numbers along its last axis, as kernels read it; parameters dense."""
    return x if x.dim() == 4 and x.stride(-1) == 1 else x.contiguous()


def lambda_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prefix: int = 0,
    grid: Sequence[int] | None = None,
    window: int | Sequence[int],
    causal: bool = False,
    scale: float | None = None,
    bias_table: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    limit: float | None = None,
    q_prefix: Tensor | None = None,
    k_prefix: Tensor | None = None,
) -> Tensor:
    """Attention of a global prefix and a local window, on a grid of patches or a causal sequence.

    Args:
        q, k, v: [B, heads, N, D], D a multiple of 8, one dtype of float32, float16, bfloat16
            (float64, and on CUDA a D above 128, run as plain PyTorch); any strides. Under autocast
            in its dtype.
        prefix: number of global tokens, the first of the N.
        grid: (H, W) of the patches behind the prefix, by rows: N = prefix + H * W; None is a
            sequence.
        window: on a grid the odd number of rows and columns seen, or one for both; of a sequence
            the number of tokens seen, the token itself included (to either side unless causal).
        causal: a sequence looks back only. Its prefix tokens have their place in it; without
            `causal` they stand outside, as on a grid.
        scale: of the products; None is D ** -0.5.
        bias_table: [heads, *window], learned, for a grid; see the formula above.
        alibi_slopes: [heads], without a gradient. Distances on a grid are Euclidean.
        limit: the greatest distance of alibi_slopes, at least 0; None has no end.
        q_prefix: of q's shape, the query for prefix keys beyond the window; None is q.
        k_prefix: [B, heads, prefix, D], those keys, or of k's shape with these first; None is k.

    Returns:
        out, [B, heads, N, D] in q's dtype, laid out as [B, N, heads, D], so that the heads join
        without a copy. Softmax and sums are in float32, for float64 in float64. Kept for the
        backward: the inputs, out and one float32 a row.

    Raises:
        ValueError: a shape, device, size or combination that does not hold.
        TypeError: a dtype that is not listed, or a mix.
    """
    options: dict[str, Any] = dict(prefix=prefix, grid=grid, window=window, causal=causal)
    options |= dict(scale=scale, bias_table=bias_table, alibi_slopes=alibi_slopes, limit=limit)
    options |= dict(q_prefix=q_prefix, k_prefix=k_prefix)
    if not torch.compiler.is_compiling():
        if runs_directly(q, k, v, bias_table, alibi_slopes, q_prefix, k_prefix):
            return lambda_attention_entry(q, k, v, **options)
    return torch.ops.ibnvision.lambda_attention(q, k, v, **options)


_backward_op = backward_function("lambda_attention_backward")


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    tensors, ctx.geometry = inputs[:7], inputs[7:]
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d_out: Tensor | None, _: Any = None) -> tuple[Tensor | None, ...]:
    if d_out is None:
        return (None,) * 14
    *inputs, out, lse = ctx.saved_tensors
    dq, dk, dv, d_table, d_q_prefix, d_k_prefix = _backward_op(
        _rows(d_out), *inputs, out, lse, *ctx.geometry
    )
    given = [t is not None for t in inputs[3:]]
    optional = [d_table if given[0] else None, None, d_q_prefix if given[2] else None]
    optional.append(d_k_prefix if given[3] else None)
    return (dq, dk, dv, *optional, *(None,) * 7)


def _joined(x: Tensor) -> Tensor:
    """Empty, of x's shape, laid out as [B, N, heads, D]."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)


def _fake_forward(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _joined(q), q.new_empty(q.shape[:3], dtype=torch.float32)


def _fake_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    slopes: Tensor | None,
    q_prefix: Tensor | None,
    k_prefix: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    d_table = q.new_empty(0 if table is None else table.shape, dtype=torch.float32)
    far = [q.new_empty(0) if t is None else _joined(t) for t in (q_prefix, k_prefix)]
    return (_joined(q), _joined(k), _joined(v), d_table, *far)


_eager_forward = eager_function("lambda_attention_forward", _setup_context, _backward)
register(
    "lambda_attention",
    kernel_dtypes=(torch.float32, torch.float16, torch.bfloat16),
    entry=lambda_attention_entry,
    backward=_backward,
    setup_context=_setup_context,
    fake_forward=_fake_forward,
    fake_backward=_fake_backward,
)


def example_inputs(
    batch: int,
    heads: int,
    *space: int,
    size: int = 32,
    prefix: int = 3,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of [batch, heads, prefix + H * W, size] for space (H, W), or of N = space tokens.

    They are views of one packed tensor [batch, N, 3, heads, size], as a model's projection gives.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = prefix + space[0] * space[1] if len(space) == 2 else space[0]
    shape = (batch, tokens, 3, heads, size)
    packed = torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    return q, k, v
