"""Cases of lambda_attention and its definition as a dense mask, for tests of the kernels too."""

import math
from typing import Any

import torch
from torch import Tensor

from ibnvision.ops.lambda_attention import example_inputs


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prefix: int = 0,
    grid: tuple[int, int] | None = None,
    window: Any,
    causal: bool = False,
    scale: float | None = None,
    bias_table: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    limit: float | None = None,
    q_prefix: Tensor | None = None,
    k_prefix: Tensor | None = None,
) -> Tensor:
    """The oracle: all pairs of tokens, a predicate on (query, key), one softmax, in q's dtype."""
    n = q.shape[2]
    scale = q.shape[3] ** -0.5 if scale is None else scale
    limit = math.inf if limit is None else limit
    token = torch.arange(n)
    i, j = token[:, None], token[None, :]
    bias = q.new_zeros(q.shape[1], n, n)
    if causal:
        near = (i - j >= 0) & (i - j < window)
        visible = near | ((j <= i) & (j < prefix))
        if alibi_slopes is not None:
            distance = (i - j).to(q.dtype).clamp(max=limit)
            bias = bias - alibi_slopes.to(q.dtype)[:, None, None] * distance
    else:
        if grid is None:
            grid, window = (1, n - prefix), (1, 2 * window - 1)
        window = (window, window) if isinstance(window, int) else window
        row, column = (token - prefix) // max(grid[1], 1), (token - prefix) % max(grid[1], 1)
        dy, dx = row[None, :] - row[:, None], column[None, :] - column[:, None]
        patches = (i >= prefix) & (j >= prefix)
        near = patches & (dy.abs() <= window[0] // 2) & (dx.abs() <= window[1] // 2)
        visible = near | ~patches
        at_y = (dy + window[0] // 2).clamp(0, window[0] - 1)
        at_x = (dx + window[1] // 2).clamp(0, window[1] - 1)
        if bias_table is not None:
            bias = bias + torch.where(near, bias_table.to(q.dtype)[:, at_y, at_x], 0.0)
        if alibi_slopes is not None:
            distance = torch.sqrt((dy**2 + dx**2).to(q.dtype)).clamp(max=limit)
            slopes = alibi_slopes.to(q.dtype)[:, None, None]
            bias = bias - torch.where(near, slopes * distance, 0.0)
    scores = q @ k.mT
    if q_prefix is not None or k_prefix is not None:
        far_k = k[:, :, :prefix] if k_prefix is None else k_prefix
        far = (q if q_prefix is None else q_prefix) @ far_k.mT
        far = torch.cat([far, scores[..., prefix:]], -1)
        scores = torch.where((j < prefix) & ~near, far, scores)
    scores = (scores * scale + bias).masked_fill(~visible, -math.inf)
    return torch.softmax(scores, -1) @ v


# name: (batch, heads, space, head size, options); window in options
CASES: dict[str, tuple[int, int, tuple[int, ...], int, dict[str, Any]]] = {
    "grid": (2, 3, (9, 7), 16, {"prefix": 3, "window": 5}),
    "grid_wide_window": (1, 2, (5, 8), 8, {"prefix": 1, "window": (3, 7)}),
    "grid_whole": (1, 2, (6, 5), 32, {"prefix": 2, "window": 13}),
    "grid_no_prefix": (2, 1, (17, 19), 8, {"prefix": 0, "window": (3, 5)}),
    "grid_one_row": (1, 2, (1, 40), 16, {"prefix": 5, "window": (1, 9)}),
    "grid_one_column": (1, 2, (40, 1), 16, {"prefix": 1, "window": (9, 1)}),
    "grid_self_only": (1, 1, (10, 10), 8, {"prefix": 0, "window": 1}),
    "grid_many_prefix": (1, 2, (12, 9), 24, {"prefix": 37, "window": 5}),
    "grid_bias": (2, 2, (9, 11), 16, {"prefix": 2, "window": (5, 3), "bias": True}),
    "grid_alibi": (1, 2, (10, 12), 16, {"prefix": 2, "window": 7, "alibi": True, "limit": 2.5}),
    "grid_bias_alibi": (1, 2, (9, 9), 8, {"window": 5, "bias": True, "alibi": True, "prefix": 1}),
    "grid_far": (2, 2, (9, 11), 16, {"prefix": 4, "window": 5, "far": True}),
    "grid_scaled": (1, 2, (18, 21), 64, {"prefix": 5, "window": (7, 5), "scale": 0.3}),
    "prefix_only": (2, 2, (0, 0), 16, {"prefix": 6, "window": 3}),
    "line": (1, 2, (50,), 16, {"prefix": 3, "window": 6}),
    "causal": (2, 2, (70,), 16, {"prefix": 4, "window": 9, "causal": True}),
    "causal_no_prefix": (1, 2, (67,), 40, {"prefix": 0, "window": 16, "causal": True}),
    "causal_short": (1, 2, (5,), 8, {"prefix": 2, "window": 16, "causal": True}),
    "causal_alibi": (1, 3, (70,), 16, {"prefix": 4, "window": 9, "alibi": True, "causal": True}),
    "causal_limit": (
        1,
        3,
        (70,),
        16,
        {"prefix": 4, "window": 9, "alibi": True, "limit": 12, "causal": True},
    ),
    "causal_far": (2, 2, (75,), 16, {"prefix": 6, "window": 9, "far": True, "causal": True}),
    "causal_far_alibi": (
        1,
        2,
        (75,),
        16,
        {"prefix": 40, "window": 9, "far": True, "alibi": True, "limit": 9, "causal": True},
    ),
    "causal_all_prefix": (1, 1, (20,), 8, {"prefix": 20, "window": 3, "causal": True}),
}


def make_case(
    name: str, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """(q, k, v) and the options of case `name`."""
    batch, heads, space, size, facts = CASES[name]
    options = {k: v for k, v in facts.items() if k not in ("bias", "alibi", "far")}
    prefix = options["prefix"]
    q, k, v = example_inputs(
        batch, heads, *space, size=size, prefix=prefix, dtype=dtype, device=device
    )
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if len(space) == 2:
        options["grid"] = space
    if facts.get("bias"):
        options["bias_table"] = (
            draw(heads, *options["window"], dtype=wide)
            if isinstance(options["window"], tuple)
            else draw(heads, options["window"], options["window"], dtype=wide)
        )
    if facts.get("alibi"):
        options["alibi_slopes"] = 2.0 ** -torch.arange(1, heads + 1, device=device).to(wide)
    if facts.get("far"):
        options["q_prefix"] = draw(*q.shape, dtype=dtype)
        options["k_prefix"] = draw(batch, heads, prefix, size, dtype=dtype)
    return (q, k, v), options


LEARNED = ("bias_table", "q_prefix", "k_prefix")


def result_and_gradients(
    function: Any, tensors: tuple[Tensor, ...], options: dict[str, Any], d_out: Tensor
) -> dict[str, Tensor]:
    """out and the gradients of <out, d_out>, by name."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    named = {k: t.detach().requires_grad_() if k in LEARNED else t for k, t in options.items()}
    out = function(*leaves, **named)
    wanted = {f"d{n}": t for n, t in zip("qkv", leaves, strict=True)}
    wanted |= {f"d_{k}": t for k, t in named.items() if k in LEARNED}
    grads = torch.autograd.grad(
        out, list(wanted.values()), d_out.to(out.dtype), allow_unused=True, materialize_grads=True
    )
    return {"out": out.detach(), **dict(zip(wanted, grads, strict=True))}
