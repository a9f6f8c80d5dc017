import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from networks import assert_same_state, build, image, step
from torch import nn

from ibnvision.layers import (
    IBN,
    IBNAct2d,
    InstanceNormAct2d,
    convert_to_ibn,
    fuse_norm_act,
)


def names(table: object) -> list[str]:
    return [row.name for row in table.rows]  # type: ignore[attr-defined]


OFFICIAL_RESNET = {"resnet18": [2, 2, 2], "resnet50": [3, 4, 6], "seresnet50": [3, 4, 6]}


@pytest.mark.parametrize(
    "name",
    [
        "timm/resnet18",
        "timm/resnet50",
        "timm/seresnet50",
        "torchvision/resnet18",
        "torchvision/resnet50",
    ],
)
def test_a_follows_the_official_rule_in_resnets(name: str) -> None:
    model = build(name)
    blocks = OFFICIAL_RESNET[name.partition("/")[2]]
    expected = [f"layer{k}.{i}.bn1" for k, count in enumerate(blocks, 1) for i in range(count)]
    table = convert_to_ibn(model)
    assert names(table) == expected
    assert [n for n, m in model.named_modules() if isinstance(m, IBN)] == expected
    assert all(row.instance_channels == row.batch_channels for row in table.rows)
    assert (
        str(table).splitlines()[1].split() == "layer1.0.bn1 BatchNorm2d IBN 32 32 stage 1".split()
    )


@pytest.mark.parametrize("name", ["timm/densenet121", "torchvision/densenet121"])
def test_a_follows_the_official_rule_in_densenets(name: str) -> None:
    table = convert_to_ibn(build(name), ratio=0.4)
    expected = [
        f"features.denseblock{k}.denselayer{i}.norm1"
        for k, count in ((1, 6), (2, 12), (3, 24))
        for i in range(1, count + 1, 3)
    ]
    assert names(table) == expected
    first = table.rows[0]
    assert (first.instance_channels, first.batch_channels) == (26, 38)
    norm = table.model.get_submodule(first.name)
    assert norm.instance_last and isinstance(norm, IBN)


def test_a_in_other_families() -> None:
    regnet = convert_to_ibn(build("timm/regnetx_002"))
    stages = {"s1": 1, "s2": 1, "s3": 4}
    expected = [f"{s}.b{i}.conv1.bn" for s, n in stages.items() for i in range(1, n + 1)]
    assert names(regnet) == expected and {r.now for r in regnet.rows} == {"IBNAct2d(ReLU)"}
    lite = convert_to_ibn(build("timm/efficientnet_lite0"))
    assert {(r.name.split(".")[1], r.note[-1]) for r in lite.rows} == {
        ("1", "1"),
        ("2", "2"),
        ("3", "3"),
        ("4", "3"),  # the same spatial size as 3
    }
    mobile = convert_to_ibn(build("torchvision/mobilenet_v2"))
    assert names(mobile) == [f"features.{i}.conv.0.1" for i in range(1, 7)]
    assert [r.note[-1] for r in mobile.rows] == list("122333")
    tv_regnet = convert_to_ibn(torchvision.models.regnet_x_400mf(), stages=[1])
    assert names(tv_regnet) == ["trunk_output.block1.block1-0.f.a.1"]  # not the shortcut's norm


@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_stages_are_still_stages(stride: int) -> None:
    plain = convert_to_ibn(timm.create_model("resnet50"))
    dilated = convert_to_ibn(timm.create_model("resnet50", output_stride=stride))
    assert names(dilated) == names(plain)


def test_both_halves_start_from_the_batch_norm() -> None:
    model = build("timm/resnet18")
    bn = copy.deepcopy(model.layer1[0].bn1)
    convert_to_ibn(model, ratio=0.3)
    ibn = model.layer1[0].bn1
    assert ibn.instance_channels == 19
    for key in ("weight", "bias"):
        assert torch.equal(getattr(ibn.IN, key), getattr(bn, key)[:19])
    for key in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(ibn.BN, key), getattr(bn, key)[19:])
    x = torch.randn(2, 64, 5, 5, dtype=torch.float64)
    expected = F.instance_norm(x[:, :19], weight=bn.weight[:19], bias=bn.bias[:19])
    torch.testing.assert_close(ibn(x), torch.cat([expected, bn(x)[:, 19:]], 1))


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_b_normalizes_the_sum_before_the_activation(name: str) -> None:
    model = build(name)
    block = copy.deepcopy(model.layer1[1])
    stem = copy.deepcopy(model.bn1)
    table = convert_to_ibn(model, "b")
    assert names(table) == ["bn1", "layer1.1.IN", "layer2.1.IN"]
    assert sorted(k for k in model.state_dict() if k.startswith("bn1.")) == [
        "bn1.bias",
        "bn1.weight",
    ]
    norm = model.layer1[1].IN
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 64, 6, 6, dtype=torch.float64)
    inner = F.relu(block.bn1(block.conv1(x)))
    total = block.bn2(block.conv2(inner)) + x
    expected = F.relu(F.instance_norm(total, weight=norm.weight, bias=norm.bias))
    torch.testing.assert_close(model.layer1[1](x), expected)
    expected = F.instance_norm(x, weight=stem.weight, bias=stem.bias)
    torch.testing.assert_close(model.bn1(x), expected)


def test_b_in_other_families_and_where_it_cannot_be() -> None:
    assert names(convert_to_ibn(build("timm/regnetx_002"), "b")) == [
        "stem.bn",
        "s1.b1.IN",
        "s2.b1.IN",
    ]
    model = build("torchvision/mobilenet_v2")
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="last block of stage 1, features.1, of class Inverted"):
        convert_to_ibn(model, "b")
    assert_same_state(model, state)
    assert names(convert_to_ibn(model, "b", stages=(2, 3)))[1:] == [
        "features.3.IN",
        "features.6.IN",
    ]
    with pytest.raises(ValueError, match="end in a residual sum"):
        convert_to_ibn(build("timm/densenet121"), "b")


def chain() -> nn.Module:
    """A network without residuals, as VGG."""
    widths = (3, 8, 16, 16)
    pairs = zip(widths, widths[1:], strict=False)
    layers = [(nn.Conv2d(a, b, 3), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairs]
    return nn.Sequential(*(m for triple in layers for m in triple))


def test_a_callable_chooses_by_itself() -> None:
    def choose(name: str, norm: nn.Module) -> bool | float:
        return {"1": True, "4": 0.25, "7": 0.0}[name]

    table = convert_to_ibn(chain(), choose, ratio=0.5)
    found = [(r.name, r.instance_channels, r.batch_channels) for r in table.rows]
    assert found == [("1", 4, 4), ("4", 4, 12)]


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("timm/resnet18", "a"),
        ("timm/resnet18", "b"),
        ("timm/regnetx_002", "a"),
        ("timm/regnetx_002", "b"),
        ("timm/densenet121", "a"),
    ],
)
def test_undo_is_exact(name: str, variant: str) -> None:
    model = build(name)
    modules, state = dict(model.named_modules()), copy.deepcopy(model.state_dict())
    table = convert_to_ibn(model, variant)
    assert list(model.state_dict()) != list(state)
    table.undo()
    assert dict(model.named_modules()) == modules
    assert_same_state(model, state)


def test_undo_keeps_what_was_learned() -> None:
    model = build("timm/resnet18").train()
    before = copy.deepcopy(model.layer1[0].bn1)
    table = convert_to_ibn(model, ratio=0.25)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    step(model, train=True)
    optimizer.step()
    ibn = model.layer1[0].bn1
    assert not torch.equal(ibn.IN.weight, before.weight[:16])
    assert not torch.equal(ibn.BN.weight, before.weight[16:])
    assert not torch.equal(ibn.BN.running_var, before.running_var[16:])
    table.undo()
    bn = model.layer1[0].bn1
    assert type(bn) is nn.BatchNorm2d and bn.num_batches_tracked == 1
    assert torch.equal(bn.weight, torch.cat([ibn.IN.weight, ibn.BN.weight]))
    assert torch.equal(bn.running_var[:16], before.running_var[:16])
    assert torch.equal(bn.running_var[16:], ibn.BN.running_var)


def test_undo_refuses_after_another_change() -> None:
    model = build("timm/resnet18")
    first = convert_to_ibn(model)
    second = fuse_norm_act(model)
    with pytest.raises(RuntimeError, match="replaced since"):
        first.undo()
    second.undo()
    first.undo()
    assert not any(isinstance(m, IBN) for m in model.modules())


@pytest.mark.parametrize("variant", ["a", "b"])
def test_converted_models_export_and_fuse(variant: str) -> None:
    model = build("torchvision/resnet18")
    convert_to_ibn(model, variant)
    y, keys = model(image()), list(model.state_dict())
    exported = torch.export.export(model, (image(),)).module()
    torch.testing.assert_close(exported(image()), y)
    table = fuse_norm_act(model)
    torch.testing.assert_close(model(image()), y)
    assert list(model.state_dict()) == keys
    made = {row.name: type(model.get_submodule(row.name)) for row in table.rows}
    if variant == "a":
        assert made["layer1.0.bn1"] is IBNAct2d and model.layer1[0].bn1.act_name == "relu"
    else:
        assert made["bn1"] is InstanceNormAct2d or model.bn1.act_name == "none"
        assert made["layer1.1.IN"] is InstanceNormAct2d and model.layer1[1].IN.act_name == "relu"
    exported = torch.export.export(model, (image(),)).module()
    torch.testing.assert_close(exported(image()), y)


def test_flags_device_and_other_dtypes_are_kept() -> None:
    model = build("timm/resnet18").float().train()
    model.layer1[0].bn1.eval()
    model.layer1[0].bn1.weight.requires_grad_(False)
    rng = torch.get_rng_state()
    convert_to_ibn(model)
    assert torch.equal(torch.get_rng_state(), rng)
    ibn = model.layer1[0].bn1
    assert ibn.BN.weight.dtype == torch.float32
    assert not ibn.BN.training and not ibn.training and model.layer1[0].training
    assert not ibn.IN.weight.requires_grad and ibn.IN.bias.requires_grad


def small() -> nn.Module:
    return timm.create_model("resnet10t")


Bad = tuple[Callable[[], object], type[Exception], str]
BAD: dict[str, Bad] = {
    "no norm": (lambda: convert_to_ibn(nn.Conv2d(3, 4, 1)), ValueError, "Conv2d holds none"),
    "a norm": (lambda: convert_to_ibn(nn.BatchNorm2d(4)), ValueError, "inside"),
    "no model": (lambda: convert_to_ibn("resnet50"), TypeError, "Module, got str"),  # type: ignore[arg-type]
    "variant": (lambda: convert_to_ibn(small(), "B"), KeyError, "nearest 'b'"),
    "ratio": (lambda: convert_to_ibn(small(), ratio=1.5), ValueError, r"\[0, 1\], got 1.5"),
    "stages": (
        lambda: convert_to_ibn(small(), stages=(1, 5)),
        ValueError,
        r"\[1, 4\], the stages of this model, got \(1, 5\)",
    ),
    "stages of a callable": (
        lambda: convert_to_ibn(small(), lambda *_: True, stages=(1,)),
        ValueError,
        "a callable chooses by itself",
    ),
    "answer": (
        lambda: convert_to_ibn(small(), lambda *_: "yes"),  # type: ignore[arg-type,return-value]
        TypeError,
        "must return bool or float, got 'yes'",
    ),
    "range of an answer": (
        lambda: convert_to_ibn(small(), lambda *_: 2.0),
        ValueError,
        r"\[0, 1\], got 2.0",
    ),
    "nothing chosen": (
        lambda: convert_to_ibn(small(), lambda *_: False),
        ValueError,
        "chose no batch norm",
    ),
    "no blocks": (
        lambda: convert_to_ibn(chain()),
        ValueError,
        "residual blocks or dense layers",
    ),
    "example": (
        lambda: convert_to_ibn(small(), example=torch.zeros(1, 4, 64, 64)),
        ValueError,
        r"at \(1, 4, 64, 64\) it failed with RuntimeError",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_what_must_hold(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
