import copy

import pytest
import timm
import torch
from networks import assert_same_state, build, image
from torch import nn

from ibnvision.layers import DEConv, convert_to_deconv, fuse_norm_act, reparameterize

NETWORKS = {  # name: 3x3 convolutions of stride 1
    "timm/resnet18": 13,
    "timm/mobilenetv2_050": 13,
    "timm/densenet121": 58,
    "timm/repvgg_a0": 17,
    "torchvision/squeezenet1_1": 8,
    "torchvision/regnet_y_400mf": 12,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_output_is_unchanged_and_undo_brings_everything_back(name: str) -> None:
    model = build(name)
    modules, state = dict(model.named_modules()), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        want = model(image(1))
        table = convert_to_deconv(model)
        assert torch.equal(model(image(1)), want)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, DEConv)}
    assert [row.name for row in table.rows] == list(layers) and len(layers) == NETWORKS[name]
    convs = [m for m in modules.values() if isinstance(m, nn.Conv2d)]
    chosen = [m for m in convs if m.kernel_size == (3, 3) and m.stride == (1, 1)]
    assert len(chosen) == len(layers)
    for layer, conv in zip(layers.values(), chosen, strict=True):
        assert torch.equal(layer.conv1_5.weight, conv.weight)
        assert not any(b.conv.weight.any() for b in (layer.conv1_1, layer.conv1_2, layer.conv1_4))
        assert (layer.groups, layer.training) == (conv.groups, conv.training)
    table.undo()
    assert dict(model.named_modules()) == modules
    assert_same_state(model, state)


def test_every_branch_trains_from_the_start() -> None:
    model = timm.create_model("resnet18", num_classes=3, zero_init_last=False)
    convert_to_deconv(model)
    layer = model.layer1[0].conv1
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    for branch in (layer.conv1_1.conv, layer.conv1_2.conv, layer.conv1_3.conv, layer.conv1_4.conv):
        assert branch.weight.abs().max() > 0


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/squeezenet1_1"])
def test_folding_after_training_keeps_the_function(name: str) -> None:
    model = build(name)
    table = convert_to_deconv(model)
    for p in model.parameters():
        nn.init.normal_(p, std=0.05) if p.dim() > 2 else None
    with torch.no_grad():
        want = model(image(1))
    deconvs = {n: m for n, m in model.named_modules() if isinstance(m, DEConv)}
    state = copy.deepcopy(model.state_dict())
    folded = reparameterize(model)
    names = [r.name for r in folded.rows]
    assert names == list(deconvs)
    assert not any(isinstance(m, DEConv) for m in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(model(image(1)), want, rtol=1e-9, atol=1e-9)
    folded.undo()
    assert_same_state(model, state)
    table.undo()  # the original convolutions get the folded weights
    assert type(model.get_submodule(names[0])) is nn.Conv2d
    with torch.no_grad():
        torch.testing.assert_close(model(image(1)), want, rtol=1e-9, atol=1e-9)


def test_undoing_a_fold_keeps_what_was_learned_since() -> None:
    model = nn.Sequential(DEConv(3, 4, padding=1), nn.ReLU(), DEConv(4, 2, bias=False)).double()
    table = reparameterize(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
        want = model(image(1))
    table.undo()
    assert isinstance(model[0], DEConv) and model[2].conv1_5.bias is None
    torch.testing.assert_close(model(image(1)), want, rtol=1e-9, atol=1e-9)


def test_a_shared_layer_is_folded_once_and_stays_shared() -> None:
    layer = DEConv(3, 3, padding=1)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)})
    table = reparameterize(model)
    assert model["a"] is model["b"][0] and type(model["a"]) is nn.Conv2d and len(table.rows) == 1
    table.undo()
    assert model["a"] is model["b"][0] is layer


def test_choice_formats_and_flags() -> None:
    model = timm.create_model("resnet18").half().to(memory_format=torch.channels_last).eval()
    model.layer1.requires_grad_(False)
    table = convert_to_deconv(model, lambda name, conv: name.startswith("layer1"), theta=0.5)
    assert [r.name for r in table.rows] == [f"layer1.{i}.conv{k}" for i in (0, 1) for k in (1, 2)]
    layer = model.layer1[0].conv1
    assert not layer.training and layer.angular_theta == 0.5
    for p in layer.parameters():
        assert p.dtype == torch.float16 and not p.requires_grad
        assert p.dim() < 4 or p.is_contiguous(memory_format=torch.channels_last)
    assert str(table).splitlines()[1].split() == "layer1.0.conv1 Conv2d DEConv 64 64 1".split()
    fused = reparameterize(model)
    assert not model.layer1[0].conv1.weight.requires_grad
    assert fused.rows[0].was == "DEConv"


def test_goes_together_with_fused_norms() -> None:
    model = build("timm/resnet18")
    with torch.no_grad():
        want = model(image(1))
        convert_to_deconv(model)
        fuse_norm_act(model)
        torch.testing.assert_close(model(image(1)), want, rtol=1e-8, atol=1e-8)
        reparameterize(model)
        torch.testing.assert_close(model(image(1)), want, rtol=1e-8, atol=1e-8)


def test_what_is_left_alone() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(2 * x)

    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3))
    model = nn.Sequential(Own(3, 3, 3), normed, nn.Conv2d(3, 3, 3, stride=2), DEConv(3, 3))
    with pytest.raises(ValueError, match="has none to convert"):
        convert_to_deconv(model)
    assert str(reparameterize(nn.Sequential(nn.Conv2d(3, 3, 3)))) == "nothing was changed"


@pytest.mark.parametrize("convert", [convert_to_deconv, reparameterize])
def test_bad_models(convert) -> None:
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got str"):
        convert("resnet18")
    with pytest.raises(ValueError, match="got (a )?DEConv itself"):
        convert(DEConv(3, 3))
