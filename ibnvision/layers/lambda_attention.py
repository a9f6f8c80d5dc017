"""LambdaAttention: timm's attention modules, same parameters, with a Lambda-shaped view.

Prefix tokens (class token, registers) see all and are seen by all; a patch sees a window around
itself. Cost is linear in the patches, and no patch meets an offset that training has not seen.

Each class is one of timm's with another forward: names and order of the state stay, so that
weights load both ways, and `enter` and `leave` turn a module of timm's into ours and back.

Source: Han et al., NAACL 2024, https://arxiv.org/abs/2308.16137, for the shape; the modules are
timm's (Attention, AttentionRope, EvaAttention, BEiT's Attention).
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from timm.layers.attention import Attention, AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from ibnvision.ops import lambda_attention

from ._lambda_form import LambdaForm


class LambdaView:
    """What the four classes share: projections, positions, and the operator in place of SDPA.

    Args of their constructors: those of timm's class, and by keyword

        form: the LambdaForm, one object for all modules of a model.

    Raises:
        ValueError: attn_drop above 0, grouped keys, or a position that the class has itself.
    """

    lambda_form: LambdaForm
    was: Any  # timm's class

    def __init__(self, *args: Any, form: LambdaForm, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        enter(self, form)

    def extra_repr(self: Any) -> str:
        form = self.lambda_form
        return f"window={form.window}, prefix={form.prefix}, position={form.position!r}"

    def _project(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v, each [B, heads, N, D], views of one packed tensor where timm packs them."""
        if self.qkv is None:
            parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
            q, k, v = (p.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for p in parts)
        else:
            if getattr(self, "q_bias", None) is None:
                packed = self.qkv(x)
            elif self.qkv_bias_separate:
                packed = self.qkv(x) + torch.cat((self.q_bias, self.k_bias, self.v_bias))
            else:
                bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
                packed = F.linear(x, self.qkv.weight, bias)
            packed = packed.unflatten(2, (3, self.num_heads, -1))
            q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        return q, k, v

    def _turn(self: Any, x: Tensor, embedding: Tensor) -> Tensor:
        """x, [B, heads, N, D], with the patches turned."""
        prefix, half = self.lambda_form.prefix, getattr(self, "rotate_half", False)
        patches = apply_rot_embed_cat(x[:, :, prefix:], embedding, half=half)
        return torch.cat([x[:, :, :prefix], patches], 2).to(x.dtype)

    def _positioned(
        self: Any, q: Tensor, k: Tensor, rope: Tensor | None, grid: Any
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """q and k, turned, and the q_prefix of `prefix_rope` by its name, if it is another."""
        form = self.lambda_form
        embedding, squeezed = rope, rope
        if form.position == "rope":
            embedding, squeezed = (form.own_embedding(q, grid, s) for s in (form.rope, "resample"))
        elif rope is not None:
            embedding = form.embedding(rope, grid)
        if embedding is None or squeezed is None:
            return q, k, {}
        turned = self._turn(q, embedding), self._turn(k, embedding)
        if form.prefix_rope == "same" or form.prefix == 0:
            return *turned, {}
        far = self._turn(q, squeezed) if form.prefix_rope == "resample" else q
        return *turned, {"q_prefix": far}

    def _see(self: Any, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """The attention between the projections, [B, N, heads * D], for x [B, N, C]."""
        if self.training and self.attn_drop.p > 0:
            raise ValueError(f"attn_drop must be 0, got {self.attn_drop.p}")
        form = self.lambda_form
        q, k, v = self._project(x)
        grid = form.grid_of(q.shape[2])
        q, k, far = self._positioned(q, k, rope, grid)
        factor = form.prefix_factor(q.shape[2])
        if factor != 1.0:
            q = _scale_prefix(q, form.prefix, factor)
            far = {name: _scale_prefix(t, form.prefix, factor) for name, t in far.items()}
        table, more = self._bias(q, k)
        far |= more
        out = lambda_attention(
            *_padded(q, k, v),
            prefix=form.prefix,
            grid=grid,
            window=form.window,
            scale=q.shape[3] ** -0.5,
            bias_table=table,
            alibi_slopes=form.slopes(self.num_heads, q.device),
            limit=form.limit,
            **{name: _padded(t)[0] for name, t in far.items()},  # type: ignore[arg-type]
        )
        return out[..., : q.shape[3]].transpose(1, 2).flatten(2)

    def _bias(self: Any, q: Tensor, k: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The table of the window's offsets, and q_prefix, k_prefix where the prefix has a bias."""
        return getattr(self, "bias_table", None), {}

    def _finish(self: Any, x: Tensor, out: Tensor) -> Tensor:
        """Norm, gate and projection behind the attention, as timm has them."""
        out = self.norm(out)
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(out))


def _scale_prefix(x: Tensor, prefix: int, factor: float) -> Tensor:
    return torch.cat([x[:, :, :prefix] * factor, x[:, :, prefix:]], 2)


def _padded(*tensors: Tensor) -> tuple[Tensor, ...]:
    """With zeros behind a head size that is no multiple of 8, which the operator needs."""
    missing = -tensors[0].shape[3] % 8
    return tuple(F.pad(t, (0, missing)) for t in tensors) if missing else tensors


def _refuse_masks(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None:
        raise ValueError("attn_mask must be None: the Lambda shape is the mask")
    if is_causal:
        raise ValueError("is_causal must be False: patches look to all sides")


class LambdaAttention(LambdaView, Attention):
    """timm's Attention with a Lambda-shaped view; see LambdaView."""

    was = Attention

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """x: [B, N, C], prefix tokens first; [B, N, dim_out]. ValueError for a mask."""
        _refuse_masks(attn_mask, is_causal)
        return self._finish(x, self._see(x))


class _RopeView(LambdaView):
    """The forward of the two modules that are given rotary positions."""

    def forward(
        self: Any,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """x: [B, N, C]; rope: [H * W, 2 * D] or [heads, H * W, 2 * D]; ValueError for a mask."""
        _refuse_masks(attn_mask, is_causal)
        return self._finish(x, self._see(x, rope))


class LambdaAttentionRope(_RopeView, AttentionRope):
    """timm's AttentionRope with a Lambda-shaped view; see LambdaView."""

    was = AttentionRope


class LambdaEvaAttention(_RopeView, EvaAttention):
    """timm's EvaAttention with a Lambda-shaped view; see LambdaView."""

    was = EvaAttention


class LambdaBeitAttention(LambdaView, BeitAttention):
    """timm's BEiT attention with a Lambda-shaped view; see LambdaView.

    Offsets behind the learned table take its border. The three biases of the class token are kept:
    one of them shifts no softmax, the others go into the products with its key.
    """

    was = BeitAttention

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """x: [B, N, C]; the same shape. ValueError for a bias of the whole grid."""
        if shared_rel_pos_bias is not None:
            raise ValueError("shared_rel_pos_bias must be None: it is a matrix of all pairs")
        return self.proj_drop(self.proj(self._see(x)))

    def _bias(self: Any, q: Tensor, k: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        table = self.relative_position_bias_table
        if table is None:
            return super()._bias(q, k)
        window, sides = self.lambda_form.window, self.window_size
        index = [  # BEiT counts from key to query
            (s - 1 + w // 2 - torch.arange(w, device=q.device)).clamp(0, 2 * s - 2)
            for w, s in zip(window, sides, strict=True)
        ]
        rows = index[0][:, None] * (2 * sides[1] - 1) + index[1]
        wide = torch.promote_types(q.dtype, torch.float32)
        of_row, to_token, of_token = table[-3:].to(wide)  # [heads]: token's row, its column, both
        scale = q.shape[3] ** -0.5
        product = (q.to(wide) * k[:, :, :1].to(wide)).sum(-1, keepdim=True)  # [B, heads, N, 1]
        shift = to_token.view(-1, 1).repeat(1, q.shape[2])
        shift[:, 0] = of_token - of_row
        product = product + shift[..., None] / scale
        # as a sum of two numbers of q's type, so that none of its digits is lost
        high = product.to(q.dtype)
        parts = torch.cat([high, (product - high).to(q.dtype)], -1)
        ones = torch.ones_like(parts[:, :, :1])
        pad = (0, q.shape[3] - 2)
        far = {"q_prefix": F.pad(parts, pad), "k_prefix": F.pad(ones, pad)}
        return table[rows.flatten()].T.unflatten(1, window), far


FORMS: dict[type[nn.Module], type[nn.Module]] = {
    form.was: form
    for form in (LambdaAttention, LambdaAttentionRope, LambdaEvaAttention, LambdaBeitAttention)
}


def why_not(attention: Any, form: LambdaForm) -> str:
    """Why a module of timm's (or ours) cannot look through `form`; "" if it can."""
    kind = type(attention).__name__
    if type(attention) not in FORMS and not isinstance(attention, LambdaView):
        known = ", ".join(sorted({t.__name__ for t in FORMS}))
        return f"{kind} is none of timm's {known}"
    if attention.attn_drop.p > 0:
        return f"attn_drop must be 0, got {attention.attn_drop.p} in {kind}"
    if getattr(attention, "num_kv_groups", 1) != 1:
        return f"{kind} has grouped keys: {attention.num_kv_heads} for {attention.num_heads} heads"
    prefix = getattr(attention, "num_prefix_tokens", form.prefix)
    if prefix != form.prefix:
        return f"prefix must be {prefix}, the tokens that {kind} does not turn, got {form.prefix}"
    own = getattr(attention, "relative_position_bias_table", None) is not None
    if own and form.prefix != 1:
        return f"prefix must be 1, as in the bias table of {kind}, got {form.prefix}"
    if own and form.position == "bias":
        return f"position must not be 'bias' where {kind} has a table"
    if form.position == "rope" and not isinstance(attention, Attention):
        return f"position must not be 'rope' where {kind} may have its own"
    return ""


def enter(attention: Any, form: LambdaForm, bias_table: nn.Parameter | None = None) -> None:
    """Make a module of timm's class, or one under construction, look through `form`.

    bias_table, [heads, *window], is that of position "bias"; None makes one of zeros.
    """
    reason = why_not(attention, form)
    if reason:
        raise ValueError(reason)
    attention.__class__ = FORMS.get(type(attention), type(attention))
    attention.lambda_form = form
    if form.position == "bias":
        like = attention.proj.weight
        shape = (attention.num_heads, *form.window)
        zeros = torch.zeros(shape, device=like.device, dtype=like.dtype)
        attention.bias_table = nn.Parameter(zeros) if bias_table is None else bias_table


def leave(attention: Any) -> nn.Parameter | None:
    """Give a module its class of timm's back; the bias table that `enter` added, if it did."""
    table = getattr(attention, "bias_table", None)
    if table is not None:
        del attention.bias_table
    del attention.lambda_form
    attention.__class__ = attention.was
    return table
