import pytest
import timm
import torch

from ibnvision.layers import IBN, BatchNormAct2d, InstanceNormAct2d, SwitchWhiten2d
from ibnvision.models.backbone import create_features, freeze_norms, freeze_stages
from ibnvision.models.placement import place_norm
from ibnvision.testing import assert_close

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 2}


def trained(features) -> set[str]:
    """First parts of the names of what trains, with two parts for lists of blocks."""
    names = [n.removeprefix("model.") for n, p in features.named_parameters() if p.requires_grad]
    return {".".join(n.split(".")[: 1 + n.startswith("blocks")]) for n in names}


def features(name, **arguments):
    return timm.create_model(name, features_only=True, **arguments)


STAGES = {
    "resnet18": ["layer4", "layer3", "layer2", "layer1", "conv1 bn1"],
    "densenet121": [
        "features_norm5 features_denseblock4 features_transition3",
        "features_denseblock3 features_transition2",
        "features_denseblock2 features_transition1",
        "features_denseblock1",
        "features_conv0 features_norm0",
    ],
    "convnext_atto": ["stages_3", "stages_2", "stages_1", "stages_0", "stem_0 stem_1"],
    "mobilenetv2_035": [
        "blocks.5 blocks.6",
        "blocks.3 blocks.4",
        "blocks.2",
        "blocks.1",
        "conv_stem bn1 blocks.0",
    ],
}


@pytest.mark.parametrize("name", STAGES)
def test_the_last_stages_train(name):
    everything = trained(features(name))
    for count in range(6):
        model = features(name)
        freeze_stages(model, count)
        wanted = {part for stage in STAGES[name][:count] for part in stage.split()}
        assert trained(model) == (wanted if count < 5 else everything)
    assert {part for stage in STAGES[name] for part in stage.split()} <= everything


def test_the_stages_of_a_vit_are_quarters_of_its_blocks():
    model = features("vit_tiny_patch16_224", depth=8, out_indices=[7], **VIT)
    freeze_stages(model, 3)
    assert trained(model) == {f"blocks.{i}" for i in range(2, 8)}
    with pytest.raises(ValueError, match="trainable_stages needs a backbone of four stages"):
        freeze_stages(features("vit_tiny_patch16_224", depth=2, out_indices=[1], **VIT), 1)
    with pytest.raises(ValueError, match=r"got reductions \[8, 16, 32\]; give 5"):
        freeze_stages(features("resnet18", out_indices=(2, 3, 4)), 3)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("norm", [None, "ibn_a", "ibn_b", "sw"])
def test_frozen_norms_are_those_with_batch_statistics(norm, fused):
    model, placed = create_features("resnet18", norm, None, {"channels": (8, 8, 16, 16)})
    place_norm(model, norm, placed, fused)
    frozen = freeze_norms(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d | IBN | SwitchWhiten2d):
            assert name in frozen and not any(p.requires_grad for p in module.parameters())
        elif isinstance(module, InstanceNormAct2d):
            assert module.weight.requires_grad and name not in frozen
        elif isinstance(module, torch.nn.Conv2d):
            assert module.weight.requires_grad
    kinds = {type(model.get_submodule(name)) for name in frozen}
    assert (BatchNormAct2d in kinds) == fused and (SwitchWhiten2d in kinds) == (norm == "sw")


@torch.no_grad()
def test_the_instance_half_of_a_frozen_ibn_goes_on():
    model, _ = create_features("resnet18_ibn_a", None, None, {})
    layer = model.train().get_submodule("layer1.0.bn1")
    layer.BN.running_mean.fill_(0.25)
    freeze_norms(model)
    layer.eval()
    x = torch.randn(2, 64, 5, 6)
    y = layer(x)
    mean, var = x[:, :32].mean((2, 3), True), x[:, :32].var((2, 3), correction=0, keepdim=True)
    assert_close(y[:, :32], torch.relu((x[:, :32] - mean) / (var + 1e-5).sqrt()))
    assert_close(y[:, 32:], torch.relu((x[:, 32:] - 0.25) / (1 + 1e-5) ** 0.5))
    assert layer.BN.num_batches_tracked == 0
