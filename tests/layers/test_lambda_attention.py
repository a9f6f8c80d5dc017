import pytest
import timm.layers.attention as plain
import torch
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from torch import nn

from ibnvision.layers import (
    LambdaAttention,
    LambdaAttentionRope,
    LambdaBeitAttention,
    LambdaEvaAttention,
    LambdaForm,
)
from ibnvision.ops import lambda_attention
from ibnvision.testing import assert_close

GRID, PREFIX = (4, 5), 2
TOKENS = PREFIX + GRID[0] * GRID[1]
norm = {"norm_layer": nn.LayerNorm}
CASES = {
    "bias": (plain.Attention, LambdaAttention, {"qkv_bias": True}),
    "norms_gate": (
        plain.Attention,
        LambdaAttention,
        {"qk_norm": True, "scale_norm": True, "gated": True, "proj_bias": False} | norm,
    ),
    "head_dim": (plain.Attention, LambdaAttention, {"attn_head_dim": 12, "dim_out": 20}),
    "rope": (plain.AttentionRope, LambdaAttentionRope, {}),
    "rope_apart": (
        plain.AttentionRope,
        LambdaAttentionRope,
        {"qkv_fused": False, "rotate_half": True, "qk_norm": True, "gated": True} | norm,
    ),
    "eva": (EvaAttention, LambdaEvaAttention, {} | norm),
    "eva_separate": (EvaAttention, LambdaEvaAttention, {"qkv_bias_separate": True} | norm),
    "eva_apart": (EvaAttention, LambdaEvaAttention, {"qkv_fused": False, "scale_norm": False}),
    "eva_no_bias": (EvaAttention, LambdaEvaAttention, {"qkv_bias": False, "qk_norm": True} | norm),
}


def pair(case: str, window: int = 9, **options) -> tuple[nn.Module, nn.Module]:
    was, now, arguments = CASES[case]
    if was is not plain.Attention:
        arguments = arguments | {"num_prefix_tokens": PREFIX}
    form = LambdaForm(window, PREFIX, GRID, **options)
    dense, ours = was(32, num_heads=2, **arguments), now(32, num_heads=2, form=form, **arguments)
    for parameter in dense.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(dense.state_dict())
    return dense.double(), ours.double()


@pytest.mark.parametrize("case", CASES)
def test_equals_timm_under_a_window_over_the_grid(case):
    dense, ours = pair(case)
    x = torch.randn(2, TOKENS, 32, dtype=torch.float64)
    turned = () if case in ("bias", "norms_gate", "head_dim") else (_embedding(dense.head_dim),)
    assert_close(ours(x, *turned), dense(x, *turned))
    dense.fused_attn = False
    assert_close(ours(x, *turned), dense(x, *turned))
    assert isinstance(ours, type(dense)) and "window=(9, 9), prefix=2" in repr(ours)


def _embedding(size: int) -> torch.Tensor:
    angle = torch.randn(GRID[0] * GRID[1], 2 * size, dtype=torch.float64)
    return torch.cat([angle.sin(), angle.cos()], -1)[:, : 2 * size]


def test_small_window_is_the_operator():
    _, ours = pair("bias", window=3)
    x = torch.randn(2, TOKENS, 32, dtype=torch.float64)
    q, k, v = ours.qkv(x).view(2, TOKENS, 3, 2, 16).permute(2, 0, 3, 1, 4)
    out = lambda_attention(q, k, v, prefix=PREFIX, grid=GRID, window=3)
    assert_close(ours(x), ours.proj(out.transpose(1, 2).flatten(2)))


def test_beit_keeps_all_its_biases():
    for window in (9, 15):  # the second looks behind the table, but not the patches
        dense = BeitAttention(32, num_heads=2, qkv_bias=True, window_size=GRID).double()
        for parameter in dense.parameters():
            nn.init.normal_(parameter)
        form = LambdaForm(window, 1, GRID)
        ours = LambdaBeitAttention(32, 2, qkv_bias=True, window_size=GRID, form=form).double()
        ours.load_state_dict(dense.state_dict())
        x = torch.randn(2, 21, 32, dtype=torch.float64)
        gradients = []
        for module in (dense, ours):
            y = module(x)
            y.square().sum().backward()
            gradients.append([y, *(p.grad for p in module.parameters())])
        for a, b in zip(*gradients, strict=True):
            assert_close(b, a)


def test_learned_bias_and_distances():
    x = torch.randn(1, TOKENS, 32)
    _, ours = pair("bias", window=3)
    q, k, v = ours.qkv(x.double()).view(1, TOKENS, 3, 2, 16).permute(2, 0, 3, 1, 4)

    def expected(**options):
        out = lambda_attention(q, k, v, prefix=PREFIX, grid=GRID, window=3, **options)
        return ours.proj(out.transpose(1, 2).flatten(2))

    form = LambdaForm(3, PREFIX, GRID, position="bias")
    biased = LambdaAttention(32, 2, qkv_bias=True, form=form).double()
    assert biased.bias_table.shape == (2, 3, 3) and not biased.bias_table.any()
    biased.load_state_dict({**ours.state_dict(), "bias_table": torch.randn(2, 3, 3)})
    y = biased(x.double())
    assert_close(y, expected(bias_table=biased.bias_table))
    y.sum().backward()
    assert biased.bias_table.grad.abs().min() > 0

    slopes = torch.tensor([2.0**-4, 2.0**-8])
    _, far = pair("bias", window=3, position="alibi", limit=1)
    _, free = pair("bias", window=3, position="alibi")
    for module, limit in ((far, 1), (free, None)):
        module.load_state_dict(ours.state_dict())
        assert_close(module(x.double()), expected(alibi_slopes=slopes, limit=limit))


def test_own_rotary_positions():
    """Attention depends on offsets alone; the prefix sees where a patch is."""
    _, ours = pair("bias", window=3, position="rope", prefix_rope="none")
    form = ours.lambda_form
    like = torch.zeros(1, 1, 1, 16)
    for spacing, grid in (("native", (8, 10)), ("resample", (8, 10))):
        small, large = (form.own_embedding(like, g, spacing) for g in (GRID, grid))
        sin, cos = small.unflatten(0, GRID)[:, :2].chunk(2, -1)
        of_pair = cos[:, 0] * cos[:, 1] + sin[:, 0] * sin[:, 1]
        sin, cos = large.unflatten(0, grid)[:, :4].chunk(2, -1)
        step = 1 if spacing == "native" else 2
        assert_close((cos[:, 0] * cos[:, step] + sin[:, 0] * sin[:, step])[:4], of_pair)
    x = torch.randn(1, TOKENS, 32, dtype=torch.float64)
    y = ours(x)
    form.prefix_rope = "same"
    assert (ours(x) - y)[:, PREFIX:].abs().max() > 1e-4
    assert_close(ours(x)[:, :PREFIX], y[:, :PREFIX])  # only patches' queries turn towards it


def test_prefix_logits_are_scaled_by_the_logarithm_of_the_tokens():
    _, ours = pair("bias", window=3, prefix_logit_scale=True)
    _, base = pair("bias", window=3)
    base.load_state_dict(ours.state_dict())
    x = torch.randn(1, TOKENS, 32, dtype=torch.float64)
    assert_close(ours(x), base(x))
    grid = (8, 7)
    ours.lambda_form.grid = base.lambda_form.grid = grid
    x = torch.randn(1, PREFIX + 56, 32, dtype=torch.float64)
    y, plain_y = ours(x), base(x)
    assert_close(y[:, PREFIX:], plain_y[:, PREFIX:])
    q, k, v = ours.qkv(x).view(1, -1, 3, 2, 16).permute(2, 0, 3, 1, 4)
    factor = torch.tensor(58.0).double().log() / torch.tensor(22.0).double().log()
    rows = torch.softmax(factor / 4 * q[:, :, :PREFIX] @ k.mT, -1) @ v
    assert_close(y[:, :PREFIX], ours.proj(rows.transpose(1, 2).flatten(2)))


def test_bf16_autocast_and_own_dtype():
    for case in ("norms_gate", "rope_apart"):
        dense, ours = (m.float() for m in pair(case))
        turned = (_embedding(16).float(),) if case == "rope_apart" else ()
        x = torch.randn(2, TOKENS, 32)
        truth = dense(x, *turned)
        with torch.autocast("cpu", torch.bfloat16):
            a, b = dense(x, *turned), ours(x, *turned)
        assert a.dtype == b.dtype
        assert (b - truth).norm() <= 2 * (a - truth).norm() + 1e-6
        half = ours.bfloat16()(x.bfloat16(), *turned)
        assert half.dtype == torch.bfloat16 and (half - truth).norm() < 0.05 * truth.norm()


def test_refusals():
    form = LambdaForm(3, PREFIX)
    with pytest.raises(ValueError, match="attn_drop must be 0, got 0.1 in LambdaAttention"):
        LambdaAttention(32, 2, attn_drop=0.1, form=form)
    with pytest.raises(ValueError, match="grouped keys: 1 for 2 heads"):
        LambdaAttentionRope(
            32, 2, num_kv_heads=1, qkv_fused=False, num_prefix_tokens=PREFIX, form=form
        )
    with pytest.raises(ValueError, match="prefix must be 1, the tokens that"):
        LambdaEvaAttention(32, 2, scale_norm=False, form=form)
    with pytest.raises(ValueError, match="position must not be 'rope'"):
        form = LambdaForm(3, PREFIX, position="rope")
        LambdaEvaAttention(32, 2, scale_norm=False, num_prefix_tokens=PREFIX, form=form)
    ours = LambdaAttention(32, 2, form=LambdaForm(3, PREFIX))
    with pytest.raises(ValueError, match="grid must be given"):
        ours(torch.zeros(1, TOKENS, 32))
    ours.lambda_form.grid = (3, 3)
    with pytest.raises(ValueError, match=r"grid must be \(H, W\) with prefix"):
        ours(torch.zeros(1, TOKENS, 32))
    ours.lambda_form.grid = GRID
    ours.attn_drop.p = 0.5
    ours.eval()(torch.zeros(1, TOKENS, 32))
    with pytest.raises(ValueError, match="attn_drop must be 0, got 0.5"):
        ours.train()(torch.zeros(1, TOKENS, 32))
