import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import VGG19_Weights, vgg19

from ibnvision.methods import contrastive
from ibnvision.methods.contrastive import ContrastiveRegularization

GOLDEN = json.loads((Path(__file__).parent / "golden" / "contrast.json").read_text())


def shapes(prefix=""):
    with torch.device("meta"):
        network = vgg19()
    return {k: tuple(p.shape) for k, p in network.named_parameters() if k.startswith(prefix)}


def placeholder(shape):
    return torch.zeros(1).expand(shape)  # takes no room in a file


def filled():
    """VGG19's features as the golden file describes them; layers that are not used stay zero."""
    state = {}
    for name, shape in shapes("features.").items():
        if int(name.split(".")[1]) > 29:
            state[name] = placeholder(shape)
            continue
        chance = np.random.RandomState(zlib.crc32(name.encode())).randn(*shape)
        scale = math.sqrt(1 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        tensor = torch.from_numpy((chance * scale).astype(np.float32))
        state[name] = tensor * math.sqrt(2) if len(shape) > 1 else tensor
    return state


def rand(seed, *shape):
    return torch.from_numpy(np.random.RandomState(seed).rand(*shape).astype(np.float32))


@pytest.fixture(scope="module")
def regularization(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(filled(), path)
    loss = ContrastiveRegularization(path)
    path.unlink()  # 50 MB
    return loss


def test_golden_value_distances_and_gradient(regularization):
    restored = rand(41, 1, 3, 64, 64).requires_grad_()
    clear, hazy = rand(42, 1, 3, 64, 64), rand(43, 1, 3, 64, 64)
    with torch.no_grad():
        maps = zip(*map(regularization.features, (restored, clear, hazy)), strict=True)
        for (a, p, n), layer in zip(maps, GOLDEN["layers"], strict=True):
            assert list(a.shape) == layer["shape"]
            assert (a - p).abs().mean().item() == pytest.approx(layer["d_ap"], rel=1e-5)
            assert (a - n).abs().mean().item() == pytest.approx(layer["d_an"], rel=1e-5)
    loss = regularization(restored, clear, hazy)
    loss.backward()
    assert loss.item() == pytest.approx(GOLDEN["value"], rel=1e-5)
    gradient, golden = restored.grad.flatten(), GOLDEN["grad_anchor"]
    tolerance = 5e-3 * golden["max"]
    assert gradient[:16].tolist() == pytest.approx(golden["first"], abs=tolerance)
    assert gradient[-8:].tolist() == pytest.approx(golden["last"], abs=tolerance)
    assert gradient.norm().item() == pytest.approx(golden["l2"], rel=5e-3)


def test_the_gradient_goes_to_the_restored_image_alone(regularization):
    images = [rand(seed, 1, 3, 16, 16).requires_grad_() for seed in (1, 2, 3)]
    regularization(*images).backward()
    assert images[0].grad.abs().sum() > 0
    assert images[1].grad is None and images[2].grad is None
    assert not any(p.requires_grad for p in regularization.parameters())


def test_half_precision_features_give_a_loss_in_float32(regularization):
    images = [rand(seed, 1, 3, 16, 16) for seed in (1, 2, 3)]
    with torch.autocast("cpu", torch.bfloat16):
        half = regularization(*images)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(regularization(*images).item(), rel=0.02)


def test_hand_computed_case(monkeypatch):
    """A first layer that passes red through and a second that stops it: one distance is left."""
    state = {name: torch.zeros(shape) for name, shape in shapes("features.").items()}
    state["features.0.weight"][0, 0, 1, 1] = 1
    monkeypatch.setattr(contrastive, "_downloaded", lambda: state)
    loss = ContrastiveRegularization("imagenet")
    red = torch.tensor([[0.5, 0.6], [0.7, 0.2], [0.9, 0.9]])  # restored, clear, hazy; two images
    images = [torch.zeros(2, 3, 16, 16) for _ in range(3)]
    for image, values in zip(images, red, strict=True):
        image[:, 0] = values.view(2, 1, 1)
    near, far = (0.2 + 0.4) / 2 / 64, (0.4 + 0.3) / 2 / 64  # means over the batch and 64 channels
    assert loss(*images).item() == pytest.approx(near / (far + 1e-7) / 32, rel=1e-6)
    assert loss(images[1], images[1], images[2]).item() == 0
    far_away = loss(images[0], images[1], images[0]).item()  # nothing to be away from: only 1e-7
    assert far_away == pytest.approx(near / 1e-7 / 32, rel=1e-6)


def test_without_a_choice_both_choices_are_named():
    with pytest.raises(ValueError, match=r"FILE .* or 'imagenet' .* loss_args.contrast=0"):
        ContrastiveRegularization("")
    with pytest.raises(FileNotFoundError, match="must be 'imagenet' or a file, found no gone.pth"):
        ContrastiveRegularization("gone.pth")


def test_imagenet_is_torchvisions_download_and_nothing_else(monkeypatch):
    def missing(weights, **options):
        assert weights is VGG19_Weights.IMAGENET1K_V1 and options["check_hash"]
        raise OSError("no network")

    monkeypatch.setattr(VGG19_Weights, "get_state_dict", missing)
    with pytest.raises(RuntimeError, match=r"\(no network\).*FILE.*loss_args.contrast=0"):
        ContrastiveRegularization("imagenet")
    state = {name: placeholder(shape) for name, shape in shapes().items()}
    monkeypatch.setattr(VGG19_Weights, "get_state_dict", lambda *_, **__: state)
    before = torch.get_rng_state()
    assert len(ContrastiveRegularization("imagenet").parts) == 5
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.30.bias"), "features.30.bias missing"),
        (lambda s: s.pop("features.0.weight"), "features.0.weight missing"),
        (lambda s: s.update({"module.x": torch.zeros(1)}), "module.x unknown"),
        (
            lambda s: s.update({"features.0.bias": torch.zeros(1)}),
            "features.0.bias of another shape",
        ),
        (lambda s: s.pop("classifier.0.bias"), "classifier.0.bias missing"),
    ],
)
def test_a_file_must_be_vgg19_to_the_key(tmp_path, change, message):
    state = {name: placeholder(shape) for name, shape in shapes().items()}
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"other.pth must be the state dict .*{message}"):
        ContrastiveRegularization(tmp_path / "other.pth")


def test_a_file_that_is_no_state_dict_is_named(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="text.pth is not a readable state dict"):
        ContrastiveRegularization(tmp_path / "text.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth must hold a state dict, got list"):
        ContrastiveRegularization(tmp_path / "list.pth")
