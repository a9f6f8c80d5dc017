"""What timm and its users expect of the Lambda-shaped transformers; small depths, all names."""

import copy
import json

import pytest
import timm
import torch
from timm.models import group_parameters, save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import ibnvision
from ibnvision.layers import from_lambda
from ibnvision.models import CLASSIFIERS, NAMES, TRANSFORMERS, create_segmenter
from ibnvision.ops import reference_ops
from ibnvision.testing import assert_close

PARAMETERS = {  # timm's plain ViT of the size without absolute positions, with registers and tables
    "vit_small_lambda_patch16": 22_050_664 - 197 * 384 + 4 * 384 + 12 * 6 * 225,
    "vit_base_lambda_patch16": 86_567_656 - 197 * 768 + 4 * 768 + 12 * 12 * 225,
    "vit_large_lambda_patch16": 304_326_632 - 197 * 1024 + 4 * 1024 + 24 * 16 * 225,
}
POSITIONS = ("absolute", "alibi", "bias", "rope")
every_name = pytest.mark.parametrize("name", TRANSFORMERS)


def build(name: str = "vit_small_lambda_patch16", **kwargs) -> nn.Module:
    torch.manual_seed(0)
    shape = {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 64, "num_classes": 7}
    model = ibnvision.create_model(name, **shape | kwargs).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias_table") or "token" in key:
            nn.init.normal_(parameter)
        elif key.endswith("qkv.weight"):
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


def images(height: int = 64, width: int = 64, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, height, width, generator=generator)


def test_names_and_counts():
    assert set(TRANSFORMERS) == set(PARAMETERS) and set(TRANSFORMERS) < set(NAMES)
    assert not set(TRANSFORMERS) & set(CLASSIFIERS)
    assert not [n for n in TRANSFORMERS if hasattr(timm.models, n)]
    assert set(timm.list_models(module="vit_lambda")) == set(TRANSFORMERS)
    for name in TRANSFORMERS:
        model = ibnvision.create_model(name, device="meta")
        assert model.pretrained_cfg["architecture"] == name and model.num_prefix_tokens == 5
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
        assert model.blocks[-1].attn.lambda_form.window == (15, 15)
        assert not timm.get_pretrained_cfg(name).has_weights
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        ibnvision.create_model(name, pretrained=True, depth=1)


@every_name
@pytest.mark.parametrize("position", POSITIONS)
def test_every_parameter_gets_a_gradient_at_any_size(name, position):
    model = build(name, position=position, window=3).train()
    for size in ((64, 64), (48, 112)):
        model.zero_grad()
        x = images(*size)  # the class token alone would not ask the last block's patches
        (model(x).square().mean() + model.forward_features(x).square()[..., 1].mean()).backward()
        for parameter, value in model.named_parameters():
            assert value.grad is not None and value.grad.isfinite().all(), parameter
            assert value.grad.any(), parameter


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_sizes_kernels_and_reference(position):
    model = build(position=position)
    x = images(96, 32)
    y = model(x)
    with reference_ops():
        assert_close(model(x), y)
    tokens = model.forward_features(images(16, 16))
    assert tokens.shape == (2, 6, 96) and tokens.isfinite().all()  # a grid of one patch
    assert torch.equal(model(x), y)  # nothing stays of the other call


@torch.no_grad()
def test_absolute_positions_are_timms_network():
    shape = {"img_size": 64, "patch_size": 16, "embed_dim": 96, "depth": 2, "num_heads": 3}
    prefix = {"reg_tokens": 4, "no_embed_class": True, "dynamic_img_size": True}
    plain = VisionTransformer(num_classes=7, **shape, **prefix).eval()
    model = build(position="absolute", window=7)
    model.load_state_dict(plain.state_dict())
    assert_close(model(images()), plain(images()))
    from_lambda(model)
    assert torch.equal(model(images(32, 80)), plain(images(32, 80)))


@torch.no_grad()
def test_a_patch_deep_inside_sees_the_same_in_a_larger_image():
    """Relative positions and a fixed window: without a prefix the size of the image is unseen."""
    free = {"class_token": False, "reg_tokens": 0, "global_pool": "avg", "window": 3}
    for position in ("bias", "alibi", "rope"):
        model = build(position=position, **free)
        small, large = images(112, 112), torch.randn(2, 3, 160, 208)
        large[:, :, 32:144, 48:160] = small
        a = model.forward_intermediates(small, intermediates_only=True)[-1]
        b = model.forward_intermediates(large, intermediates_only=True)[-1]
        assert_close(b[:, :, 4:7, 5:8], a[:, :, 2:5, 2:5])


@torch.no_grad()
def test_features_of_a_large_image():
    cut = build(features_only=True, out_indices=(0, -1), window=15)
    assert cut.feature_info.reduction() == [16, 16] and cut.feature_info.channels() == [96, 96]
    x = images(1024, 1088, 1)
    maps = cut(x)
    assert [m.shape for m in maps] == [(1, 96, 64, 68)] * 2
    last, taps = cut.model.forward_intermediates(x, indices=2)
    assert all(torch.equal(a, b) for a, b in zip(maps, taps, strict=True))
    assert torch.equal(last[:, 5:].mT.reshape(maps[1].shape), maps[1])  # its norm was pruned


def test_segmenter_on_it_learns():
    arguments = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64, "out_indices": 2}
    model = create_segmenter("vit_small_lambda_patch16", 5, backbone_args=arguments)
    x = images(64, 96)
    logits = model(x)
    assert logits.shape == (2, 5, 64, 96)
    logits.square().mean().backward()
    tables = [p for n, p in model.named_parameters() if n.endswith("bias_table")]
    assert len(tables) == 2 and all(p.grad.any() for p in tables)


@every_name
@torch.no_grad()
def test_folder_round_trip_copy_and_head(name, tmp_path):
    arguments = {"depth": 1, "embed_dim": 48, "num_heads": 3, "num_classes": 7, "window": 5}
    model = build(name, **arguments, position="bias")
    save_for_hf(model, tmp_path, model_args=arguments)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == name
    other = ibnvision.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = images(80, 48)
    assert torch.equal(other(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0, "avg")
    assert model(x).shape == (2, 48)
    names = [n for n, _ in model.named_parameters()]
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert sorted(groups) == sorted(names)
    assert "blocks.0.attn.bias_table" in model.no_weight_decay()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the tracer, which makes sizes constants
@torch.no_grad()
def test_compiled_exported_traced():
    model = build(window=3, depth=1)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    for size in ((64, 64), (32, 96)):
        assert_close(compiled(images(*size)), model(images(*size)))
    x = images(96, 64)
    assert_close(torch.export.export(model, (x,)).module()(x), model(x))
    assert_close(torch.jit.trace(model, x, check_trace=False)(x), model(x))


@torch.no_grad()
def test_options():
    x = images(96, 96)
    default = build(window=3)(x)

    def features(**options) -> Tensor:
        return build(**{"window": 3} | options).forward_features(x)

    for options in ({"window": (3, 5)}, {"dense_every": 2}, {"prefix_logit_scale": True}):
        assert (features(**options) - features()).abs().max() > 1e-3
    limited, free = (features(position="alibi", window=7, limit=limit) for limit in (1, None))
    assert (limited - free).abs().max() > 1e-3
    model = build(dtype=torch.float64, device="meta")
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
    with pytest.raises(ValueError, match="position must be one of"):
        build(position="learned")
    with pytest.raises(ValueError, match="window must be odd"):
        build(window=4)
    with pytest.raises(ValueError, match="limit must be at least 0 and come with position='alibi'"):
        build(limit=3)
    with pytest.raises(TypeError, match="not_an_argument"):
        build(not_an_argument=1)
    with torch.autocast("cpu", torch.bfloat16):
        half = build(window=3)(x)
    assert (half - default).norm() < 0.1 * default.norm()
