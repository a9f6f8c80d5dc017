import copy
import pickle

import pytest
import timm
import torch
from lambda_models import GRID, MODELS, WHOLE, build, images
from torch import nn

from ibnvision.layers import from_lambda, to_lambda
from ibnvision.layers._lambda_form import native_embedding
from ibnvision.layers.lambda_attention import LambdaView
from ibnvision.testing import assert_close

every_model = pytest.mark.parametrize("name", MODELS)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@every_model
@torch.no_grad()
def test_window_over_the_grid_is_the_dense_model_and_a_small_one_is_not(name):
    model, x = build(name), images(name)
    modules = dict(model.named_modules())
    state, kinds = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    parameters = [id(p) for p in model.parameters()]
    y = model.forward_features(x)
    table = to_lambda(model, WHOLE)
    assert [id(p) for p in model.parameters()] == parameters
    assert list(model.state_dict()) == list(state)
    assert (model.forward_features(x) - y).abs().max() < 1e-5 * y.abs().max()
    assert [row.name for row in table.rows] == ["blocks.0.attn", "blocks.1.attn"]
    table.undo()
    to_lambda(model, 3)
    assert difference(model.forward_features(x), y) > 0.02
    model.load_state_dict(state)
    from_lambda(model)
    assert [type(m) for m in model.modules()] == kinds and dict(model.named_modules()) == modules
    assert not model.patch_embed._forward_pre_hooks
    assert "lambda_form" not in vars(model.blocks[0].attn)
    assert torch.equal(model.forward_features(x), y)


@every_model
@torch.no_grad()
def test_other_grids_by_call(name):
    """On a grid that the window covers, a size as good as any: the dense model knows it too."""
    model = build(name)
    grid = (3, 5)
    if name.startswith("beit"):  # timm's BEiT has one size; its table is resampled for another
        to_lambda(model, 3)
        assert model(images(name, (9, 2))).shape == (2, 5)
        from_lambda(model)
        with pytest.raises(AssertionError, match="doesn't match"):
            model(images(name, (9, 2)))
        return
    y = model.forward_features(images(name, grid))
    to_lambda(model, WHOLE, rope="resample")
    first = model.forward_features(images(name))
    assert difference(model.forward_features(images(name, grid)), y) < 1e-5
    assert torch.equal(model.forward_features(images(name)), first)
    transposed = model.forward_features(images(name, (GRID[1], GRID[0])))
    assert transposed.shape == first.shape and difference(transposed, first) > 1e-3


@torch.no_grad()
def test_patches_look_no_further_than_the_window():
    """Without a prefix and absolute positions, a change reaches depth * (window // 2) patches."""
    name = "vit_base_patch16_siglip_224"
    model = build(name, pos_embed="none")
    to_lambda(model, (3, 5))
    x = images(name, (9, 12), 1)
    y = model.forward_intermediates(x, intermediates_only=True)[-1]
    x[..., 4 * 16 : 5 * 16, 5 * 16 : 6 * 16] += 1
    moved = (model.forward_intermediates(x, intermediates_only=True)[-1] - y).abs().amax((0, 1))
    inside = torch.zeros(9, 12, dtype=torch.bool)
    inside[2:7, 1:10] = True
    assert moved[~inside].max() < 1e-6 and moved[inside].min() > 1e-5


def test_gradients_equal_the_dense_ones_and_flow_with_a_small_window():
    for name in ("vit_small_patch16_224", "vit_small_patch16_dinov3", "beit_base_patch16_224"):
        model, x = build(name).double(), images(name).double()

        def gradients(model=model, x=x):
            model.zero_grad()
            features = model.forward_features(x)
            (features * torch.linspace(-1, 1, features.shape[-1]).double()).sum().backward()
            return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

        dense = gradients()
        to_lambda(model, WHOLE)
        same = gradients()
        assert list(same) == list(dense)
        for key, value in dense.items():
            limit = 1e-8 * value.abs().max().item() + 1e-10
            torch.testing.assert_close(same[key], value, rtol=1e-6, atol=limit, msg=key)
        from_lambda(model)
        to_lambda(model, 3)
        assert all(g.isfinite().all() and g.any() for g in gradients().values())


@torch.no_grad()
def test_copies_and_pickles_stand_alone():
    name = "vit_small_patch16_dinov3"
    model, x = build(name), images(name, (5, 8))
    dense = model(x)
    to_lambda(model, 3)
    y = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other(images(name, (2, 2)))  # its own grid
        assert model.blocks[0].attn.lambda_form.grid == (5, 8)
        assert torch.equal(other(x), y)
        from_lambda(other)
        assert torch.equal(other(x), dense)
    assert torch.equal(model(x), y)


@torch.no_grad()
def test_layers():
    name = "vit_small_patch16_224"

    def converted(**options) -> list[int]:
        model = build(name, depth=6, embed_dim=64, num_heads=2)
        to_lambda(model, 3, **options)
        return [i for i, b in enumerate(model.blocks) if isinstance(b.attn, LambdaView)]

    assert converted() == list(range(6))
    assert converted(dense_every=3) == [0, 1, 3, 4]
    assert converted(layers=[0, -1]) == [0, 5]
    for bad in ({"layers": [6]}, {"layers": []}, {"layers": "some"}, {"dense_every": 1}):
        with pytest.raises(ValueError, match="layers|dense_every"):
            converted(**bad)
    with pytest.raises(ValueError, match="without dense_every"):
        converted(layers=[1], dense_every=2)


@torch.no_grad()
def test_ways_back_do_not_cross():
    model = build("vit_small_patch16_224")
    first = to_lambda(model, 3)
    from_lambda(model)
    first.undo()  # nothing is left to undo
    second = to_lambda(model, 5, position="bias")
    first.undo()
    assert model.blocks[0].attn.lambda_form.window == (5, 5)
    nn.init.normal_(model.blocks[0].attn.bias_table)
    y, state = model(images("vit_small_patch16_224")), list(model.state_dict())
    back = from_lambda(model)
    assert "blocks.0.attn.bias_table" not in model.state_dict()
    back.undo()
    assert list(model.state_dict()) == state
    assert torch.equal(model(images("vit_small_patch16_224")), y)
    second.undo()
    assert "blocks.0.attn.bias_table" not in model.state_dict()
    assert not model.patch_embed._forward_pre_hooks


def test_table_and_default_window():
    model = timm.create_model("vit_small_patch16_224", device="meta")
    table = to_lambda(model)
    head, row, *_ = str(table).splitlines()
    assert head.split() == "name was is window prefix note".split()
    assert row.split() == "blocks.0.attn Attention LambdaAttention 15x15 1".split()
    back = from_lambda(model)
    assert (
        str(back).splitlines()[1].split() == "blocks.0.attn LambdaAttention Attention all 1".split()
    )
    back.undo()
    assert isinstance(model.blocks[3].attn, LambdaView)
    assert len(model.patch_embed._forward_pre_hooks) == 1
    no_prefix = to_lambda(timm.create_model("vit_base_patch16_siglip_224", device="meta"))
    assert "nothing is global" in no_prefix.rows[0].note


@torch.no_grad()
def test_native_positions():
    """At the trained grid as timm's; elsewhere neighbours stay as far apart."""
    for name in ("vit_small_patch16_dinov3", "eva02_tiny_patch14_224"):
        model = build(name)
        rope = model.rope
        given = rope.get_embed(GRID)
        torch.testing.assert_close(native_embedding(rope, GRID, GRID), given, atol=1e-6, rtol=0)
        wide = native_embedding(rope, (8, 9), GRID)
        squeezed = rope.get_embed((8, 9))

        def relative(e, width, a=0, b=1):
            """Cosines of the angle between two patches of a row."""
            sin, cos = e.unflatten(0, (-1, width))[0].chunk(2, -1)
            return cos[a] * cos[b] + sin[a] * sin[b]

        torch.testing.assert_close(relative(wide, 9), relative(given, GRID[1]))
        torch.testing.assert_close(relative(wide, 9, 3, 4), relative(given, GRID[1]))
        assert (relative(squeezed, 9) - relative(given, GRID[1])).abs().max() > 1e-3
        middle = wide.chunk(2, -1)[0].unflatten(0, (8, 9)).mean((0, 1))
        if "dinov3" in name:  # centred
            assert middle.abs().max() < 1e-5


@torch.no_grad()
def test_prefix_options():
    name = "vit_small_patch16_dinov3"
    x, results = images(name, (8, 9)), {}
    for options in (
        {},
        {"rope": "resample"},
        {"prefix_rope": "none"},
        {"prefix_rope": "resample"},
        {"prefix_logit_scale": True},
    ):
        model = build(name)
        to_lambda(model, 5, **options)
        results[str(options)] = model.forward_features(x)
    values = list(results.values())
    for i, a in enumerate(values):
        assert all(difference(a, b) > 1e-4 for b in values[:i])
    model = build(name)
    y = model.forward_features(images(name))
    to_lambda(model, WHOLE, prefix_logit_scale=True, prefix_rope="resample")
    assert difference(model.forward_features(images(name)), y) < 1e-5  # nothing at trained size


@torch.no_grad()
def test_inside_a_larger_network_and_under_features_only():
    patch = 16
    cut = timm.create_model(
        "vit_small_patch16_224",
        features_only=True,
        out_indices=(0, 1),
        depth=3,
        dynamic_img_size=True,
        img_size=64,
    ).eval()
    model = nn.Sequential(cut)
    x = torch.randn(1, 3, 3 * patch, 6 * patch)
    maps = model(x)
    table = to_lambda(model, (5, 11))
    assert [r.name for r in table.rows] == ["0.model.blocks.0.attn", "0.model.blocks.1.attn"]
    for a, b in zip(model(x), maps, strict=True):
        assert a.shape == (1, 384, 3, 6)
        assert_close(a, b)
    _, taps = cut.model.forward_intermediates(x, indices=[1])
    assert_close(taps[0], maps[1])


def test_checkpointing_computes_each_grid_again():
    name = "vit_small_patch16_224"
    model = build(name).double().train()
    to_lambda(model, 3)
    wide, tall = images(name, (4, 6)).double(), images(name, (6, 4)).double()

    def gradient(*inputs):
        model.zero_grad()
        for one in inputs:
            model(one).square().sum().backward()
        return model.blocks[0].attn.qkv.weight.grad.clone()

    plain = gradient(wide, tall)
    model.set_grad_checkpointing()
    assert_close(gradient(wide, tall), plain)
    first = model(wide)
    with torch.no_grad():
        model(tall)  # another grid of as many patches, without a backward
    model.zero_grad()
    first.square().sum().backward()
    alone = model.blocks[0].attn.qkv.weight.grad.clone()
    assert_close(gradient(wide), alone)
    both = model(wide).square().sum() + model(tall).square().sum()
    with pytest.raises(RuntimeError, match="two grids of 24 patches came before one backward"):
        both.backward()
    assert_close(gradient(wide, tall), plain)
