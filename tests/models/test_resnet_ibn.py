import pytest
import timm
import torch
from timm.layers import BlurPool2d, convert_sync_batchnorm
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import nn

import ibnvision
from ibnvision.layers import IBNAct2d, InstanceNormAct2d
from ibnvision.models.resnet_ibn import ResNetIBN, SqueezeExcite
from ibnvision.ops import reference_ops
from ibnvision.testing import assert_close


def placed(model: nn.Module, kind: type) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18_ibn_a", (2, 2, 2)),
        ("resnet34_ibn_a", (3, 4, 6)),
        ("resnext101_ibn_a", (3, 4, 23)),
        ("se_resnet152_ibn_a", (3, 8, 36)),
    ],
)
def test_a_mixes_the_first_norm_of_every_block_of_three_stages(name, blocks):
    model = ibnvision.create_model(name, device="meta")
    expected = [f"layer{s}.{i}.bn1" for s, count in enumerate(blocks, 1) for i in range(count)]
    assert placed(model, IBNAct2d) == expected
    assert placed(model, InstanceNormAct2d) == []
    for norm in expected:
        layer = model.get_submodule(norm)
        assert layer.instance_channels == layer.num_features // 2 and not layer.instance_last


@pytest.mark.parametrize(("name", "ends"), [("resnet18_ibn_b", (1, 1)), ("resnet50_ibn_b", (2, 3))])
def test_b_normalizes_the_stem_and_two_sums(name, ends):
    model = ibnvision.create_model(name, device="meta")
    assert placed(model, IBNAct2d) == []
    expected = ["bn1", f"layer1.{ends[0]}.IN", f"layer2.{ends[1]}.IN"]
    assert placed(model, InstanceNormAct2d) == expected
    assert [k for k in model.state_dict() if k.startswith("bn1.")] == ["bn1.weight", "bn1.bias"]


@torch.no_grad()
def test_b_normalizes_after_the_sum_and_before_the_activation():
    torch.manual_seed(0)
    block = ibnvision.create_model("resnet18_ibn_b").eval().layer1[1]
    x = torch.randn(2, 64, 9, 7)
    branch = block.bn2(block.conv2(block.bn1(block.conv1(x))))
    expected = torch.relu(torch.nn.functional.instance_norm(x + branch))
    assert_close(block(x), expected)


@torch.no_grad()
def test_squeeze_excite_by_hand():
    layer = SqueezeExcite(32)
    assert [k for k, _ in layer.named_parameters()] == ["fc.0.weight", "fc.2.weight"]
    x = torch.randn(2, 32, 5, 3)
    down, up = layer.fc[0].weight, layer.fc[2].weight
    scale = torch.sigmoid(torch.relu(x.mean((2, 3)) @ down.T) @ up.T)
    assert_close(layer(x), x * scale[:, :, None, None])


OPTIONS = {
    "default": {},
    "gelu": {"act_layer": "gelu"},
    "silu": {"act_layer": "silu"},
    "leaky": {"act_layer": "leaky_relu"},
    "avg_down": {"avg_down": True},
    "deep": {"stem_type": "deep", "stem_width": 32},
    "conv_pool": {"replace_stem_pool": True},
    "drop_path": {"drop_path_rate": 0.2},
    "drop_block": {"drop_block_rate": 0.1, "act_layer": "silu"},
    "blur": {"aa_layer": BlurPool2d},
    "groupnorm": {"norm_layer": "groupnorm"},
    "dilated": {"output_stride": 8},
    "zero_init": {"zero_init_last": True},
    "attention": {"block_args": {"attn_layer": "se"}},
}


@pytest.mark.parametrize("size", [18, 50])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_without_ibn_it_is_the_network_of_timm(size, options):
    """Same keys, same numbers in evaluation and training, and the same random draws."""
    options = {"layers": (2, 1, 2, 1), "channels": (32, 32, 64, 64), **options}
    torch.manual_seed(0)
    theirs = timm.create_model(f"resnet{size}", **{"zero_init_last": False, **options}).double()
    torch.manual_seed(0)
    ours = ibnvision.create_model(f"resnet{size}_ibn_a", ibn="none", **options).double()
    for (key, a), (other, b) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert key == other and torch.equal(a, b), key
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for train in (True, False):
        torch.manual_seed(1)
        y = ours.train(train)(x)
        torch.manual_seed(1)
        assert_close(y, theirs.train(train)(x))
    for name, buffer in ours.named_buffers():
        assert_close(buffer.double(), theirs.get_buffer(name))


def test_initial_weights_follow_the_published_recipe():
    torch.manual_seed(0)
    model = ibnvision.create_model("resnext50_ibn_a")
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 20_000:
            expected = (2 / (conv.kernel_size[0] ** 2 * conv.out_channels)) ** 0.5
            assert conv.weight.std().item() == pytest.approx(expected, rel=0.03), name
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d)]
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)


@pytest.mark.parametrize("convert", [freeze_batch_norm_2d, convert_sync_batchnorm])
@torch.no_grad()
def test_norms_swapped_by_timm_keep_the_numbers(convert):
    torch.manual_seed(0)
    model = ibnvision.create_model("resnet50_ibn_b", layers=(2, 1, 2, 1)).double().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.1)
    x = torch.randn(2, 3, 33, 33, dtype=torch.float64)
    y = model(x)
    assert_close(convert(model).eval()(x), y)


def test_stages_chosen_one_by_one():
    mixed = ["a", None, "b", None]
    model = ibnvision.create_model("resnet18_ibn_a", ibn=mixed, ratio=0.25, device="meta")
    assert placed(model, IBNAct2d) == ["layer1.0.bn1", "layer1.1.bn1"]
    assert placed(model, InstanceNormAct2d) == ["layer3.1.IN"]
    assert model.layer1[0].bn1.instance_channels == 16


@pytest.mark.parametrize(
    ("output_stride", "reductions"),
    [(32, [2, 2, 4, 8, 16]), (16, [2, 2, 4, 8, 16]), (8, [2, 2, 4, 8, 8]), (4, [2, 2, 4, 4, 4])],
)
@torch.no_grad()
def test_small_stem(output_stride, reductions):
    model = ibnvision.create_model(
        "resnet18_ibn_b",
        small_stem=True,
        channels=(16, 32, 64, 64),
        output_stride=output_stride,
        features_only=True,
    )
    assert model.conv1.weight.shape == (16, 3, 3, 3)
    assert model.feature_info.reduction() == reductions
    maps = model(torch.randn(1, 3, 32, 48))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 32 // r, 48 // r) for c, r in zip((16, 16, 32, 64, 64), reductions, strict=True)
    ]


@torch.no_grad()
def test_sizes_the_published_code_refuses():
    model = ibnvision.create_model("resnet18_ibn_a", num_classes=3).eval()
    for height, width in ((33, 47), (1, 1), (160, 32)):
        y = model(torch.randn(1, 3, height, width))
        assert y.shape == (1, 3) and y.isfinite().all()


def test_small_network_trains_the_same_with_and_without_kernels():
    torch.manual_seed(0)
    model = ibnvision.create_model(
        "resnet50_ibn_b", small_stem=True, channels=(8, 16, 16, 16), num_classes=4
    ).double()
    x = torch.randn(3, 3, 17, 21, dtype=torch.float64)
    gradients = []
    for context in (torch.enable_grad(), reference_ops()):
        with context:
            loss = model.train()(x).square().mean()
            gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for ours, reference in zip(*gradients, strict=True):
        assert_close(ours, reference)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ibn": "A"}, KeyError, "ibn must be one of none, a, b; got 'A', nearest 'a'"),
        ({"ibn": ("a", "b")}, ValueError, "for each of 4 stages, got"),
        ({"ibn": ("a", "c", None, None)}, ValueError, "'a', 'b' or None"),
        ({"ratio": 1.5}, ValueError, r"ratio must lie in \[0, 1\], got 1.5"),
        ({"output_stride": 4}, ValueError, r"one of \(8, 16, 32\), got 4"),
        ({"small_stem": True, "output_stride": 2}, ValueError, r"one of \(4, 8, 16, 32\), got 2"),
        ({"small_stem": True, "stem_type": "deep"}, ValueError, "small_stem must be off"),
        ({"small_stem": True, "channels": (15, 32, 64, 64)}, ValueError, "must be even"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ibnvision.create_model("resnet18_ibn_a", device="meta", **arguments)


def test_class_is_a_resnet_of_timm():
    model = ibnvision.create_model("resnet18_ibn_a", device="meta")
    assert isinstance(model, ResNetIBN) and isinstance(model, timm.models.ResNet)
