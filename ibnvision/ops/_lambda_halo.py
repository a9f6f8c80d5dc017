"""Lambda-shaped attention in plain PyTorch at linear cost: the definition of lambda_attention.

A grid is cut into tiles of TILE x TILE patches; each tile meets the prefix and the rectangle of
patches within reach of it, a view made by unfold. A causal sequence is cut into blocks of the
window, which meet themselves, the block before and the prefix. Differentiable to any order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._layout import statistics_dtype

TILE = 8


def _attend(scores: list[Tensor], values: list[Tensor]) -> Tensor:
    """softmax over all scores [..., T, keys] at once, times the values [..., keys, D]."""
    weights = torch.softmax(torch.cat(scores, -1), -1).to(values[0].dtype)
    parts = weights.split([s.shape[-1] for s in scores], -1)
    return torch.stack([p @ v for p, v in zip(parts, values, strict=True)]).sum(0)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """<q, k> of [..., T, D] and [..., keys, D], in float32 or float64."""
    products = q @ k.mT
    return products.to(statistics_dtype(products))


def _mask(scores: Tensor, visible: Tensor) -> Tensor:
    """Not -inf: a row behind the border may see nothing, and must not become NaN."""
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min)


def _tiles(x: Tensor, size: tuple[int, int], step: tuple[int, int]) -> Tensor:
    """[B, H, Y, X, D] -> [B, H, tiles, size[0] * size[1], D], tiles by rows."""
    x = x.unfold(2, size[0], step[0]).unfold(3, size[1], step[1])  # [B, H, ty, tx, D, size]
    return x.flatten(5).transpose(4, 5).flatten(2, 3)


def _grid_patches(
    patches: list[Tensor],
    v_prefix: Tensor,
    table: Tensor | None,
    reach: tuple[int, int],
) -> Tensor:
    """Of patches: q, k, v, [B, heads, H, W, D], and their scores on the prefix, [..., H, W, P]."""
    q, k, v, far = patches
    space = q.shape[2:4]
    near = [min(r, s - 1) for r, s in zip(reach, space, strict=True)]
    tile = [min(TILE, s) for s in space]
    halo = [t + 2 * n for t, n in zip(tile, near, strict=True)]
    whole = halo[0] * halo[1] >= space[0] * space[1]  # then the tile is the grid, without a border
    if whole:
        tile, halo, before = list(space), list(space), [0, 0]
    else:
        before = near
    behind = [-s % t for s, t in zip(space, tile, strict=True)]

    def queries(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, behind[1], 0, behind[0]))
        return _tiles(x, (tile[0], tile[1]), (tile[0], tile[1]))

    def keys(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, before[1], behind[1] + before[1], before[0], behind[0] + before[0]))
        return _tiles(x, (halo[0], halo[1]), (tile[0], tile[1]))

    inside = torch.ones(1, 1, space[0], space[1], 1, dtype=q.dtype, device=q.device)
    visible = keys(inside).squeeze(-1)[0, 0] > 0  # [tiles, keys]
    apart = []  # of key and query by axis, counted from -reach, [queries of an axis, keys of it]
    for t, h, b, n in zip(tile, halo, before, near, strict=True):
        at = torch.arange(h, device=q.device) - b - torch.arange(t, device=q.device)[:, None]
        apart.append(at + n)
    dy = apart[0][:, None, :, None].expand(-1, tile[1], -1, halo[1]).reshape(tile[0] * tile[1], -1)
    dx = apart[1][None, :, None, :].expand(tile[0], -1, halo[0], -1).reshape(tile[0] * tile[1], -1)
    close = (dy >= 0) & (dy <= 2 * near[0]) & (dx >= 0) & (dx <= 2 * near[1])
    scores = _scores(queries(q), keys(k))
    if table is not None:
        at_y = dy.clamp(0, 2 * near[0]) + (reach[0] - near[0])
        at_x = dx.clamp(0, 2 * near[1]) + (reach[1] - near[1])
        scores = scores + table.to(scores.dtype)[:, at_y, at_x][None, :, None]
    scores = _mask(scores, close & visible[:, None])
    out = _attend([queries(far), scores], [v_prefix[:, :, None], keys(v)])
    rows, columns = ((s + b) // t for s, b, t in zip(space, behind, tile, strict=True))
    out = out.unflatten(3, tile).unflatten(2, (rows, columns)).transpose(3, 4)
    return out.flatten(4, 5).flatten(2, 3)[:, :, : space[0], : space[1]]


def grid_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_prefix: Tensor,
    k_prefix: Tensor,
    table: Tensor | None,
    prefix: int,
    grid: tuple[int, int],
    reach: tuple[int, int],
    scale: float,
) -> Tensor:
    """Prefix tokens see all and are seen by all; patches see those within `reach` by axis.

    q, k, v, q_prefix are [B, heads, prefix + H * W, D], k_prefix [B, heads, prefix, D], table
    [heads, 2 * reach[0] + 1, 2 * reach[1] + 1] or None.
    """
    q, q_prefix = q * scale, q_prefix * scale
    far = _scores(q_prefix, k_prefix)
    v_prefix = v[:, :, :prefix]
    to_patches = _scores(q[:, :, :prefix], k[:, :, prefix:])
    out = _attend([far[:, :, :prefix], to_patches], [v_prefix, v[:, :, prefix:]])
    if grid[0] * grid[1] > 0:
        patches = [t[:, :, prefix:].unflatten(2, grid) for t in (q, k, v, far)]
        y = _grid_patches(patches, v_prefix, table, reach)
        out = torch.cat([out, y.flatten(2, 3)], 2)
    return out


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_prefix: Tensor,
    k_prefix: Tensor,
    slopes: Tensor | None,
    prefix: int,
    window: int,
    scale: float,
    limit: float,
) -> Tensor:
    """Each token sees itself and window - 1 tokens before, and of the prefix those before these.

    Shapes as in grid_attention; slopes are [heads], and distances end at `limit`.
    """
    tokens = q.shape[2]
    if tokens == 0:
        return torch.zeros_like(q) + 0 * (k + v)
    q, q_prefix = q * scale, q_prefix * scale
    window = min(window, tokens)
    behind = -tokens % window

    def queries(x: Tensor) -> Tensor:  # [B, heads, blocks, window, D]
        return F.pad(x, (0, 0, 0, behind)).unflatten(2, (-1, window))

    def keys(x: Tensor) -> Tensor:  # [B, heads, blocks, 2 * window, D]
        return F.pad(x, (0, 0, window, behind)).unfold(2, 2 * window, window).transpose(3, 4)

    def bias(distance: Tensor) -> Tensor | float:
        """[heads, ...] of integer distances."""
        if slopes is None:
            return 0.0
        reached = distance.to(slopes.dtype).clamp(max=limit)
        return -slopes.detach().view(-1, *[1] * distance.dim()) * reached

    blocks = (tokens + behind) // window
    at = torch.arange(window, device=q.device)
    block = torch.arange(blocks, device=q.device)[:, None, None]
    key = torch.arange(2 * window, device=q.device) - window  # from the block's first query
    near = at[:, None] - key  # [window, 2 * window]
    visible = (near >= 0) & (near < window) & (key + block * window >= 0)
    scores = _scores(queries(q), keys(k))
    near_bias = bias(near)
    if isinstance(near_bias, Tensor):
        scores = scores + near_bias[:, None]
    scores = _mask(scores, visible)

    distance = (block * window + at[:, None]) - torch.arange(prefix, device=q.device)
    far = _scores(queries(q_prefix), k_prefix[:, :, None]) + bias(distance)
    far = _mask(far, distance >= window)
    out = _attend([far, scores], [v[:, :, None, :prefix], keys(v)])
    return out.flatten(2, 3)[:, :, :tokens]
