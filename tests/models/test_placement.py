import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from ibnvision.layers import IBN, InstanceNormAct2d, InstanceWhiteningAct2d, SwitchWhiten2d
from ibnvision.models import create_segmenter
from ibnvision.testing import assert_close

SMALL = {"small_stem": True, "channels": (16, 32, 64, 64)}
THIN = {"channels": (16, 32, 64, 64)}


def build(backbone: str = "resnet18_ibn_b", **kwargs):
    torch.manual_seed(0)
    arguments = {"backbone_args": SMALL if "ibn" in backbone else THIN, **kwargs}
    return create_segmenter(backbone, 3, **arguments)


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def kinds(model) -> dict[str, type]:
    norms = (IBN, InstanceNormAct2d, SwitchWhiten2d)
    return {n: type(m) for n, m in model.backbone.named_modules() if isinstance(m, norms)}


@pytest.mark.parametrize("name", ["resnet18_ibn_a", "resnet18_ibn_b"])
def test_ours_are_built_with_the_norm_whatever_their_name_says(name):
    for norm, variant in (("ibn_a", "a"), ("ibn_b", "b")):
        built = build(name, norm=norm).backbone.state_dict()
        named = build(f"resnet18_ibn_{variant}").backbone.state_dict()
        assert list(built) == list(named)
    assert list(build("densenet121_ibn_a", norm="ibn_a", backbone_args={}).state_dict())


@pytest.mark.parametrize("name", ["resnet18_ibn_b", "resnet18"])
def test_places(name):
    stem, sums = "bn1", ["layer1.1.IN", "layer2.1.IN"]
    assert kinds(build(name, norm="ibn_b")) == dict.fromkeys([stem, *sums], InstanceNormAct2d)
    places = dict.fromkeys([stem, *sums], InstanceWhiteningAct2d)
    assert kinds(build(name, norm="whiten")) == places
    places = dict.fromkeys([f"{place}.norm" for place in (stem, *sums)], SwitchWhiten2d)
    assert kinds(build(name, norm="sw")) == places
    mixed = kinds(build(name, norm="ibn_a"))
    assert len(mixed) == 6 and all(issubclass(kind, IBN) for kind in mixed.values())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["resnet18_ibn_b", "resnet18"])
@torch.no_grad()
def test_whitened_maps_are_the_standardized_ones_before_the_activation(name, fused, images):
    model = build(name, norm="whiten", fused=fused)
    for layer in model.modules():
        if isinstance(layer, InstanceWhiteningAct2d):
            layer.eps = 1e-12  # else the variances are as far below 1
    outputs = model.train()(images)
    maps = outputs["whiten"]
    assert list(outputs) == ["out", "whiten"]
    stem = 16 if "ibn" in name else 64  # that of timm's ResNet has a fixed width
    assert model.whitened_channels == [y.shape[1] for y in maps] == [stem, 16, 32]
    for y in maps:
        assert y.mean((2, 3)).abs().max() < 1e-5
        assert_close(y.var((2, 3), correction=0), torch.ones(y.shape[:2]))
    torch.manual_seed(0)
    features = model.train().backbone(images)
    for y, feature in zip(maps, features, strict=False):
        assert_close(F.relu(y), feature)


@torch.no_grad()
def test_maps_without_the_head_in_any_mode(images):
    model = build(norm="whiten", head="fpn", head_channels=64).eval()
    before = copy.deepcopy(model.state_dict())
    maps = model.standardized_maps(images[..., :31, :45])
    assert [tuple(y.shape[1:]) for y in maps] == [(16, 16, 24), (16, 16, 24), (32, 8, 12)]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert isinstance(model(images), torch.Tensor)
    with pytest.raises(
        RuntimeError, match="take needs a forward before it with this layer in training mode"
    ):
        next(m for m in model.modules() if isinstance(m, InstanceWhiteningAct2d)).take()
    assert build().whitened_channels == [] and build().standardized_maps(images) == []


def test_a_backbone_read_by_hooks_stays_as_it_is(images):
    hooks = {"backbone_args": {"feature_cls": "hook", **THIN}}
    model, plain = build("resnet10t", **hooks).eval(), build("resnet10t", fused=False).eval()
    with torch.no_grad():
        assert_close(model(images), plain(images))
    with pytest.raises(
        ValueError, match="norm 'ibn_b' needs a backbone whose maps are not read by"
    ):
        build("resnet10t", norm="ibn_b", **hooks)


def test_a_backbone_that_ran_alone_can_be_copied(images):
    model = build(norm="whiten").train()
    model.backbone(images)  # leaves its maps, which belong to a graph
    other = copy.deepcopy(model)
    assert [layer.standardized for layer in other._whitening()] == [None] * 3
    assert [y.requires_grad for y in model(images)["whiten"]] == [True] * 3


def test_a_loss_on_the_maps_reaches_the_first_convolution(images):
    model = build(norm="whiten").train()
    maps = model(images)["whiten"]
    last = maps[-1].flatten(2)
    (last @ last.mT).square().mean().backward()
    assert model.backbone.conv1.weight.grad.abs().max() > 0


FAMILIES = [("resnet10t", n) for n in (None, "ibn_a", "ibn_b", "whiten", "sw")]
FAMILIES += [("mobilenetv2_050", None), ("mobilenetv2_050", "whiten")]


@pytest.mark.parametrize(("name", "norm"), FAMILIES)
def test_a_fused_timm_backbone_equals_the_plain_one(name, norm, images):
    args = THIN if name == "resnet10t" else {}
    fused, plain = (build(name, norm=norm, fused=f, backbone_args=args).double() for f in (1, 0))
    assert list(fused.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(fused.state_dict())
    results = []
    for model in (fused, plain):
        torch.manual_seed(0)
        outputs = model.train()(images.double())
        outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
        maps = outputs.pop("whiten", [])
        sum(y.pow(4).mean() for y in (outputs["out"], *maps)).backward()
        found = {f"{n}.grad": p.grad for n, p in model.named_parameters()} | model.state_dict()
        found |= outputs | {f"map{i}": y for i, y in enumerate(maps)}
        with torch.no_grad():
            results.append(found | {"eval": model.eval()(images.double())})
    for name, value in results[0].items():
        assert_close(value.double(), results[1][name].double())


def test_converted_backbones_keep_their_pretrained_numbers(images):
    """Weights are loaded before norms are placed: the state of what stays is the network's own."""
    torch.manual_seed(0)
    plain = timm.create_model("resnet18", features_only=True, **THIN).state_dict()
    torch.manual_seed(0)
    converted = create_segmenter("resnet18", 3, norm="ibn_b", backbone_args=THIN)
    for name, value in converted.backbone.state_dict().items():
        if ".IN." not in name:
            assert torch.equal(value, plain[name])


COPIED = [("resnet18_ibn_b", n) for n in ("ibn_b", "whiten", "sw")] + [("resnet10t", "whiten")]


@pytest.mark.parametrize(("name", "norm"), COPIED)
def test_copies_are_whole_and_apart(name, norm, images):
    model = build(name, norm=norm, mixstyle=(1, 2), mixstyle_args={"p": 1.0}).train()
    model(images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        results = []
        for each in (model, other):
            each.zero_grad()
            torch.manual_seed(3)
            outputs = each(images)
            outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
            results.append([outputs["out"], *outputs.get("whiten", [])])
            sum(y.pow(4).mean() for y in results[-1]).backward()
        for mine, its in zip(*results, strict=True):
            assert_close(mine, its)
        ids = [{p.data_ptr() for p in each.parameters()} for each in (model, other)]
        assert not ids[0] & ids[1]
        other.eval()  # the copy alone stops mixing
        assert torch.equal(other(images), other(images))
        assert not torch.equal(model.backbone(images)[1], model.backbone(images)[1])


@pytest.mark.parametrize("name", ["resnet18_ibn_b", "convnext_atto", "densenet121_ibn_a", "swin"])
def test_mixstyle_changes_its_stages_in_training_only(name, images):
    args = {"resnet18_ibn_b": SMALL, "convnext_atto": {"dims": (8, 16, 24, 32)}}.get(name, {})
    if name == "swin":
        name = "swin_tiny_patch4_window7_224"
        args = {"img_size": (32, 48), "embed_dim": 12, "depths": (1, 1, 1, 1)}
        args |= {"num_heads": (1, 1, 2, 2)}
    model = build(name, mixstyle=(2,), mixstyle_args={"p": 1.0}, backbone_args=args).double()
    plain = build(name, backbone_args=args).double()
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    x = images.double()
    with torch.no_grad():
        assert_close(model.eval()(x), plain.eval()(x))
        for norm in [m for each in (model, plain) for m in each.modules()]:
            norm.training = False
        for module in model.modules():  # the hook follows the flag of its stage alone
            module.training = bool(module._forward_hooks)
        mixed, features = model.backbone(x), plain.backbone(x)
        count = len(features)
        for stage, (a, b) in enumerate(zip(mixed, features, strict=True), 5 - count):
            assert torch.allclose(a, b) == (stage < 2), stage
        a, b = (f[count - 3] for f in (mixed, features))
        if model.channels_last_maps:
            a, b = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
        assert_close(standardized(a), standardized(b))  # only mean and deviation moved


def standardized(x):
    var, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-30).sqrt()


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("ibn_a", "ibn_b", "sw")]


@pytest.mark.parametrize("norm", ["whiten", *SLOW])  # the others are exported without a head too
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_export(norm, images):
    model = build(norm=norm, auxiliary=True).eval()
    expected = model(images)
    assert_close(torch.export.export(model, (images,)).module()(images), expected)
    torch._dynamo.reset()
    assert_close(torch.compile(model, backend="eager", fullgraph=True)(images), expected)
    if norm == "sw":  # dictionaries of tensors in its code
        assert_close(torch.jit.trace(model, images)(images), expected)
    else:
        assert_close(torch.jit.script(model)(images), expected)


def test_training_compiles_with_whitened_maps(images):
    model = build(norm="whiten", auxiliary=True).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    expected = model(images)
    outputs = torch.compile(copy.deepcopy(model), backend="eager")(images)
    assert_close(outputs["out"], expected["out"])
    for mine, its in zip(outputs["whiten"], expected["whiten"], strict=True):
        assert_close(mine, its)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"backbone": "resnet18_ibn_a", "norm": "whiten", "pretrained": True},
            ValueError,
            "its weights are of its own norm; take 'resnet18'",
        ),
        ({"norm": "ibn_c"}, KeyError, "norm 'ibn_c' is unknown, nearest 'ibn_"),
        ({"norm": "ibn_a", "backbone_args": {"ibn": "b"}}, ValueError, "exclude each other"),
        ({"backbone": "convnext_atto", "norm": "ibn_b"}, ValueError, "norm 'ibn_b' finds no place"),
        (
            {"backbone": "densenet121_ibn_a", "norm": "sw"},
            ValueError,
            "'ibn_a' or None for a Dense",
        ),
        ({"mixstyle": (0,)}, ValueError, r"numbers in \[1, 4\], got \(0,\)"),
        ({"mixstyle": (1, 1)}, ValueError, r"must be different numbers in \[1, 4\]"),
        ({"mixstyle": (1,), "mixstyle_args": {"p": 2.0}}, ValueError, "p must lie in"),
        ({"backbone": "vit_tiny_patch16_224", "mixstyle": (1,)}, ValueError, "four stages"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        create_segmenter(**{"backbone": "resnet18_ibn_a", "num_classes": 2, **arguments})
