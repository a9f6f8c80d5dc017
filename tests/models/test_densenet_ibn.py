import pytest
import timm
import torch
from torch import nn

import ibnvision
from ibnvision.layers import IBNAct2d
from ibnvision.testing import assert_close


@pytest.mark.parametrize(
    ("name", "depths"),
    [("densenet121_ibn_a", (6, 12, 24)), ("densenet161_ibn_a", (6, 12, 36))],
)
def test_every_third_layer_of_three_blocks_is_mixed(name, depths):
    model = ibnvision.create_model(name, device="meta")
    found = [n for n, module in model.named_modules() if isinstance(module, IBNAct2d)]
    assert found == [
        f"features.denseblock{block}.denselayer{layer}.norm1"
        for block, depth in enumerate(depths, 1)
        for layer in range(1, depth + 1, 3)
    ]
    for norm in map(model.get_submodule, found):
        assert norm.instance_last and norm.BN.num_features == int(norm.num_features * 0.6)


def test_first_mixed_norm_splits_64_into_38_and_26():
    norm = ibnvision.create_model("densenet121_ibn_a", device="meta")
    norm = norm.features.denseblock1.denselayer1.norm1
    assert (norm.BN.num_features, norm.IN.num_features) == (38, 26)


@pytest.mark.parametrize("train", [True, False])
def test_without_ibn_it_is_the_network_of_timm(train):
    torch.manual_seed(0)
    theirs = timm.create_model("densenet121").double().train(train)
    ours = ibnvision.create_model("densenet121_ibn_a", ibn="none").double().train(train)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert_close(ours(x), theirs(x))
    for name, buffer in ours.named_buffers():
        assert_close(buffer.double(), theirs.get_buffer(name))


def test_initial_weights_are_the_defaults_of_the_framework():
    torch.manual_seed(0)
    model = ibnvision.create_model("densenet121_ibn_a")
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 20_000:
            bound = conv.weight[0].numel() ** -0.5  # kaiming_uniform with a = sqrt(5)
            assert conv.weight.abs().max().item() == pytest.approx(bound, rel=1e-2), name
            assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=2e-2), name
    assert model.classifier.bias.abs().max() > 0


def test_bad_arguments():
    with pytest.raises(KeyError, match="ibn must be 'a' or 'none'"):
        ibnvision.create_model("densenet121_ibn_a", ibn="b")
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 1\], got -1"):
        ibnvision.create_model("densenet121_ibn_a", ratio=-1)
