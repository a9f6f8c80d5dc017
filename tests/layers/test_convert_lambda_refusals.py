"""What to_lambda and from_lambda refuse, and that a refused model stays as it was."""

import pytest
import timm
import torch

from ibnvision.layers import from_lambda, to_lambda


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "ResNet: it holds none of timm's VisionTransformer"),
        ("swin_tiny_patch4_window7_224", {}, "SwinTransformer: it has windows already"),
        ("samvit_base_patch16", {}, "VisionTransformerSAM: it has windows already"),
        ("vit_relpos_small_patch16_224", {}, "VisionTransformerRelPos: its attention adds a"),
        ("naflexvit_base_patch16_gap", {}, "NaFlexVit: its tokens are padded sequences"),
        ("vit_base_patch16_xp_224", {}, "ParallelScalingBlock computes it inside"),
        ("vit_dlittle_patch16_reg1_gap_256", {}, "DiffAttention is none of timm's"),
        ("vit_small_patch16_224", {"attn_drop_rate": 0.1}, "attn_drop must be 0, got 0.1"),
        ("vit_small_patch16_224", {"patch_drop_rate": 0.1}, "patch_drop_rate must be 0"),
        ("eva02_tiny_patch14_224", {"patch_drop_rate": 0.1}, "patch_drop_rate must be 0"),
        (
            "vit_small_patch16_dinov3",
            {"num_kv_heads": 2, "attn_type": "rope", "qkv_fused": False},
            "AttentionRope has grouped keys: 2 for 6 heads",
        ),
        ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True}, "rel_pos_bias must be None"),
        (
            "vit_small_patch16_dinov3",
            {"rope_shift_coords": 0.1},
            "rope must be 'resample' where Eva moves coordinates",
        ),
    ],
)
def test_refused_with_class_and_reason(name, options, message):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    kinds = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=message):
        to_lambda(model)
    assert [type(m) for m in model.modules()] == kinds


def test_bad_arguments():
    model = timm.create_model("vit_small_patch16_224", device="meta", depth=1)
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got str"):
        to_lambda("vit_small_patch16_224")
    with pytest.raises(ValueError, match="must hold LambdaAttention; VisionTransformer has none"):
        from_lambda(model)
    for options, message in (
        ({"window": 4}, "window must be odd"),
        ({"prefix": -1}, "prefix must be at least 0"),
        ({"rope": "other"}, "rope must be one of"),
        ({"limit": 3}, "limit must be at least 0 and come with position='alibi'"),
    ):
        with pytest.raises(ValueError, match=message):
            to_lambda(model, **options)
    to_lambda(model)
    with pytest.raises(ValueError, match="must not be converted yet"):
        to_lambda(model)
    x = torch.zeros(1, 197, 384, device="meta")
    with pytest.raises(ValueError, match="attn_mask must be None"):
        model.blocks[0].attn(x, attn_mask=x)
    with pytest.raises(ValueError, match="is_causal must be False"):
        model.blocks[0].attn(x, is_causal=True)
