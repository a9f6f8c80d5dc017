import argparse
import copy
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import ibnvision
from ibnvision.models import checkpoint_filter_fn, load_weights

SMALL = {
    "resnet18_ibn_a": {"channels": (8, 8, 16, 16)},
    "densenet121_ibn_a": {"growth_rate": 8, "block_config": (4, 2, 2, 1)},
}


def seeded(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = ibnvision.create_model(name, **SMALL[name]).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    return model


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return seeded("resnet18_ibn_a", 1)


@pytest.fixture(scope="module")
def densenet() -> nn.Module:
    return seeded("densenet121_ibn_a", 2)


def early(state: dict) -> dict:
    """The keys of DenseNets saved by the first releases."""
    return {re.sub(r"(denselayer\d+\.(norm|conv))([12])", r"\1.\3", k): v for k, v in state.items()}


FORMS = {
    "plain": lambda state: state,
    "data_parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
    "wrapped": lambda state: {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "state_dict": {f"module.{k}": v for k, v in state.items()},
    },
    "wrapped_model": lambda state: {"model": state},
    "wrapped_twice": lambda state: {"net": {"model": state}},
    "before_0.4": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "early_densenet": early,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["resnet", "densenet"])
def test_every_form_fills_every_tensor(form, family, request, tmp_path):
    source = request.getfixturevalue(family)
    state = FORMS[form](source.state_dict())
    if form == "early_densenet" and family == "densenet":
        assert "features.denseblock1.denselayer1.norm.1.BN.weight" in state
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    name = source.pretrained_cfg["architecture"]
    model = ibnvision.create_model(name, **SMALL[name])
    load_weights(model, file)
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("form", ["wrapped", "early_densenet"])
def test_timm_loads_a_file_by_the_same_rules(form, densenet, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(FORMS[form](densenet.state_dict()), file)
    model = timm.create_model(
        "densenet121_ibn_a",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file)},
        **SMALL["densenet121_ibn_a"],
    )
    for key, value in densenet.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_timm_adapts_input_channels_and_classes(resnet, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"model": resnet.state_dict()}, file)
    model = timm.create_model(
        "resnet18_ibn_a",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file)},
        in_chans=1,
        num_classes=5,
        **SMALL["resnet18_ibn_a"],
    )
    assert torch.allclose(model.conv1.weight, resnet.conv1.weight.sum(1, keepdim=True), atol=1e-6)
    assert torch.equal(model.layer4[1].bn2.running_mean, resnet.layer4[1].bn2.running_mean)
    assert model.fc.weight.shape == (5, 16)


def test_a_file_that_does_not_fit_is_refused_even_for_other_classes(tmp_path):
    file = tmp_path / "plain.pth"
    torch.save(timm.create_model("resnet18", channels=(8, 8, 16, 16)).state_dict(), file)
    with pytest.raises(ValueError, match="network without IBN.*convert_to_ibn"):
        timm.create_model(
            "resnet18_ibn_a",
            pretrained=True,
            num_classes=5,
            **SMALL["resnet18_ibn_a"],
            pretrained_cfg_overlay={"file": str(file)},
        )


def test_missing_and_unexpected_keys_are_named(resnet):
    state = dict(resnet.state_dict())
    del state["layer1.0.bn1.IN.weight"]
    state["layer9.weight"] = torch.zeros(1)
    message = "missing layer1.0.bn1.IN.weight, unexpected layer9.weight"
    with pytest.raises(ValueError, match=re.escape(message)):
        checkpoint_filter_fn(state, resnet)


def test_an_empty_file_lists_only_the_first_keys(resnet):
    with pytest.raises(ValueError, match=r"missing conv1.weight, .* and \d+ more, unexpected none"):
        checkpoint_filter_fn({}, resnet)


def test_wrong_shape_is_named(resnet, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({**resnet.state_dict(), "fc.weight": torch.zeros(7, 16)}, file)
    with pytest.raises(ValueError, match=r"does not fit: [\s\S]*fc.weight"):
        load_weights(copy.deepcopy(resnet), file)


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_cannot_run_code(resnet, tmp_path):
    file, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"state_dict": resnet.state_dict(), "extra": Payload(trace)}, file)
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(resnet, file)
    assert not trace.exists()


def test_damaged_and_absent_files(resnet, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(resnet, file)
    torch.save(torch.zeros(3), file)
    with pytest.raises(ValueError, match="cannot be read|must hold a dict"):
        load_weights(resnet, file)
    with pytest.raises(FileNotFoundError, match="found none at"):
        load_weights(resnet, tmp_path / "absent.pth")
