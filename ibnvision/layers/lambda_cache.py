"""The Lambda shape on a decoder, token by token: LambdaCache, lambda_decode.

A text model that attends to its first few tokens and to the last `window` ones, with distances
that end at a limit, runs at any length without training. The cache holds no more than these keys.

    out = lambda_decode(q, k, v, cache)   # of a prompt, of a chunk, or of one token

in place of a layer's attention equals lambda_attention(..., causal=True) of the whole sequence.

Source: Han et al., NAACL 2024, https://arxiv.org/abs/2308.16137. Differs: what the first tokens'
keys stand at beyond the window is an argument, softmax and rotations are in float32 or wider, and
old keys leave the cache.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ibnvision.ops import lambda_attention


@dataclass
class LambdaCache:
    """Keys and values of one attention layer: the first `prefix` tokens, the last `window - 1`.

    Args:
        window: number of tokens that a token sees, itself included.
        prefix: number of first tokens that all later ones see.
        alibi_slopes: [heads]; the logits get -slope * min(distance, limit).
        rope_theta: base of rotary positions for q and k that come without any; None is no rotary
            positions. Within the window distances are true, prefix keys beyond it stand at limit.
        rope_half: pairs (m, m + D / 2), as in Llama; else (2m, 2m + 1), as in GPT-J.
        limit: greatest distance; None is the window with rotary positions, without end for ALiBi.
        scale: of the products; None is D ** -0.5.

    Raises:
        ValueError: a number out of range, or both kinds of positions.
    """

    window: int
    prefix: int
    alibi_slopes: Tensor | None = None
    rope_theta: float | None = None
    rope_half: bool = True
    limit: float | None = None
    scale: float | None = None
    seen: int = field(default=0, init=False)
    first: list[Tensor] = field(default_factory=list, init=False, repr=False)  # k, v, unrotated
    last: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        if self.prefix < 0:
            raise ValueError(f"prefix must be at least 0, got {self.prefix}")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit must be at least 0, got {self.limit}")
        if self.alibi_slopes is not None and self.rope_theta is not None:
            raise ValueError("alibi_slopes and rope_theta must not come together")

    def append(self, k: Tensor, v: Tensor) -> None:
        """Take in k and v, [B, heads, N, D], of the tokens behind those seen."""
        missing = max(self.prefix - self.seen, 0)
        if not self.last:
            self.first, self.last = ([t[:, :, :0] for t in (k, v)] for _ in range(2))
        for i, new in enumerate((k, v)):
            if missing:
                self.first[i] = torch.cat([self.first[i], new[:, :, :missing]], 2)
            joined = torch.cat([self.last[i], new], 2)
            # a copy, so that the keys of a long prompt are not kept alive
            self.last[i] = joined[:, :, max(joined.shape[2] - self.window + 1, 0) :].clone()
        self.seen += k.shape[2]


def lambda_decode(q: Tensor, k: Tensor, v: Tensor, cache: LambdaCache) -> Tensor:
    """Attention of the next N tokens to themselves and to those before, which the cache knows.

    Time is linear in N, memory in N + prefix + window.

    Args:
        q, k, v: [B, heads, N, D] of these tokens, without rotary positions; repeat grouped keys.
        cache: of this layer and this batch; it takes the tokens in.

    Returns:
        [B, heads, N, D] in the dtype of q.

    Raises:
        ValueError: shapes that differ from each other or from those before.
    """
    if q.dim() != 4 or k.shape != q.shape or v.shape != q.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"q, k, v must be [B, heads, N, D] of one shape, got {shapes}")
    if cache.last and cache.last[0].shape[::3] != k.shape[::3]:
        before = tuple(cache.last[0].shape)
        raise ValueError(f"k must go with the cache's {before} but for N, got {tuple(k.shape)}")
    if cache.seen == 0:
        out = _whole(q, k, v, cache)
        cache.append(k, v)
        return out
    parts = []
    pieces = (t.split(cache.window, 2) for t in (q, k, v))
    for new_q, new_k, new_v in zip(*pieces, strict=True):
        parts.append(_piece(new_q, new_k, new_v, cache))
        cache.append(new_k, new_v)
    return torch.cat(parts, 2)


def rotate(x: Tensor, position: Tensor, theta: float, half: bool = True) -> Tensor:
    """x, [..., N, D], turned by the angles position * theta ** (-2m / D) for m below D / 2.

    position: [N] or [1]. half: as in LambdaCache.
    """
    size = x.shape[-1]
    exponents = torch.arange(0, size, 2, device=x.device, dtype=torch.float64) / size
    angle = position.to(torch.float64)[:, None] * theta**-exponents  # exact at any length
    cos, sin = (
        t.to(torch.promote_types(x.dtype, torch.float32)) for t in (angle.cos(), angle.sin())
    )
    if half:
        a, b = x.chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    else:
        a, b = x[..., ::2], x[..., 1::2]
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    return turned.to(x.dtype)


def _at_limit(q: Tensor, cache: LambdaCache) -> Tensor:
    """q turned for prefix keys beyond the window, which are not turned."""
    assert cache.rope_theta is not None
    limit = cache.window if cache.limit is None else cache.limit
    position = torch.tensor([limit], device=q.device)
    return rotate(q, position, cache.rope_theta, cache.rope_half)


def _whole(q: Tensor, k: Tensor, v: Tensor, cache: LambdaCache) -> Tensor:
    """A prompt, by the operator."""
    prefix = min(cache.prefix, q.shape[2])
    if cache.rope_theta is None:
        return lambda_attention(
            q,
            k,
            v,
            prefix=prefix,
            window=cache.window,
            causal=True,
            scale=cache.scale,
            alibi_slopes=cache.alibi_slopes,
            limit=cache.limit,
        )
    at = torch.arange(q.shape[2], device=q.device)
    return lambda_attention(
        rotate(q, at, cache.rope_theta, cache.rope_half),
        rotate(k, at, cache.rope_theta, cache.rope_half),
        v,
        prefix=prefix,
        window=cache.window,
        causal=True,
        scale=cache.scale,
        q_prefix=_at_limit(q, cache),
        k_prefix=k[:, :, :prefix],
    )


def _piece(q: Tensor, k: Tensor, v: Tensor, cache: LambdaCache) -> Tensor:
    """At most `window` tokens behind those seen: of these none is beyond the window of another."""
    wide = torch.promote_types(q.dtype, torch.float32)
    keys, values = (torch.cat(pair, 2) for pair in zip(cache.last, (k, v), strict=True))
    old = keys.shape[2] - q.shape[2]
    key = torch.arange(keys.shape[2], device=q.device)
    query = key[old:]
    near = query[:, None] - key
    first, first_values = cache.first
    far = (query - old + cache.seen)[:, None] - torch.arange(first.shape[2], device=q.device)
    q_far = q
    if cache.rope_theta is not None:
        q_far = _at_limit(q, cache)
        q = rotate(q, query, cache.rope_theta, cache.rope_half)
        keys = rotate(keys, key, cache.rope_theta, cache.rope_half)
    scale = q.shape[3] ** -0.5 if cache.scale is None else cache.scale
    scores = (
        torch.cat([q_far.to(wide) @ first.to(wide).mT, q.to(wide) @ keys.to(wide).mT], 3) * scale
    )
    if cache.alibi_slopes is not None:
        limit = math.inf if cache.limit is None else cache.limit
        distance = torch.cat([far, near], 1).to(wide).clamp(max=limit)
        scores = scores - cache.alibi_slopes.to(wide)[:, None, None] * distance
    visible = torch.cat([far >= cache.window, (near >= 0) & (near < cache.window)], 1)
    weights = torch.softmax(scores.masked_fill(~visible, -math.inf), 3)
    joined = torch.cat([first_values, values], 2).to(wide)
    return (weights @ joined).to(q.dtype)
