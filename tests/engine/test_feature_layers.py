"""The layers of an analysis by default and by pattern, on networks of several families."""

import pytest
import torch
import torchvision
from torch import nn

import ibnvision
from ibnvision.engine.feature_layers import default_layers, matching_layers
from ibnvision.models.segmenter import create_segmenter

STAGES = [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]


def test_a_residual_backbone_gives_its_stem_and_every_block():
    """17 layers of a ResNet-50: the ReLUs behind the stem and behind the 16 blocks."""
    found = default_layers(create_segmenter("resnet18_ibn_b", 3))
    assert found == [f"backbone.{name}" for name in ("act1", *STAGES)]
    assert len(default_layers(create_segmenter("resnet50_ibn_a", 3))) == 17
    assert default_layers(torchvision.models.resnet18()) == STAGES


def test_stages_of_other_families():
    found = default_layers(create_segmenter("convnext_atto", 3))
    assert found[:3] == [f"backbone.stages_{n}" for n in ("0.blocks.0", "0.blocks.1", "1.blocks.0")]
    dense = default_layers(create_segmenter("densenet121", 3))
    assert dense[1:3] == ["backbone.features_denseblock1", "backbone.features_denseblock2"]
    assert default_layers(create_segmenter("regnetx_002", 3))[-1] == "backbone.s4"


def test_blocks_of_a_decoder_count_too():
    model = ibnvision.create_model("dea_net", width=8, depths=[2, 1, 1, 1, 1])
    assert default_layers(model) == [
        "down_level1_block1",
        "down_level1_block2",
        "down_level2_block1",
        "level3_block1",
        "up_level2_block1",
        "up_level1_block1",
    ]


def test_a_stage_of_plain_layers_is_one_layer():
    """Its class, Sequential, makes no other part of the network a block."""
    stem, head = (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
    model = nn.ModuleDict({"stem": stem, "head": head})
    model.feature_info = [{"module": "stem"}]
    assert default_layers(model) == ["stem"]


def test_nothing_to_find_is_said():
    with pytest.raises(ValueError, match="layers must be named"):
        default_layers(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))


def test_patterns_fit_whole_names_or_their_ends():
    model = create_segmenter("resnet18_ibn_b", 3)
    names = [f"backbone.{name}" for name in STAGES]
    assert matching_layers(model, ["layer?.?"]) == names
    assert matching_layers(model, ["backbone.layer1.[0]"]) == names[:1]
    assert matching_layers(model, ["layer1.1", "layer1.0"]) == names[:2]
    assert all(name.endswith(".bn1") for name in matching_layers(model, ["bn1"]))
    with pytest.raises(ValueError, match=r"'Layer1.0' fits none of \d+; the nearest is '.*ayer1.0"):
        matching_layers(model, ["layer1.0", "Layer1.0"])


def test_names_lead_to_modules():
    model = create_segmenter("mobilenetv3_small_050", 3).eval()
    modules = dict(model.named_modules())
    seen = []
    for name in default_layers(model):
        modules[name].register_forward_hook(lambda *_, name=name: seen.append(name))
    model(torch.rand(1, 3, 64, 64))
    assert seen == default_layers(model) and len(seen) > 8
