"""Divergence by layer on toys whose difference between domains is known."""

import hashlib

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import Dataset

from ibnvision import data
from ibnvision.config import Config
from ibnvision.engine.analyze import analyze
from ibnvision.methods.divergence import divergence, image_moments, statistics_of

COUNT = 48


class Shades(Dataset):
    """Random pictures; those of toy_bright are the same with half of the contrast, and brighter."""

    def __init__(self, domain: str, count: int = COUNT) -> None:
        level = torch.rand(count, 1, 1, 1, generator=torch.Generator().manual_seed(1))
        noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))
        self.domain, self.image = domain, 0.3 * level + 0.5 * noise
        if domain == "toy_bright":
            self.image = self.image / 2 + 0.5
        if domain == "toy_broken":
            self.image[count // 2] = torch.nan

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, i: int) -> dict:
        if i >= len(self):
            raise IndexError(i)
        return {"image": self.image[i], "target": torch.zeros(8, 8).long(), "domain": self.domain}

    def fingerprint(self) -> str:
        return hashlib.sha256(self.image.numpy().tobytes()).hexdigest()


@pytest.fixture(autouse=True)
def domains(monkeypatch):
    for name in ("toy_day", "toy_bright", "toy_broken", "toy_one", "toy_six"):
        count = {"toy_one": 1, "toy_six": 6}.get(name, COUNT)

        def build(name, split, count=count, **_):
            return Shades(name, count)

        row = data.Domain("shades", build, classes=("one",))
        monkeypatch.setitem(data.DOMAINS, name, row)


@pytest.fixture
def cfg():
    return Config(train_domains=("toy_day",), test_domains=("toy_day", "toy_bright"), batch_size=10)


def network(norm: nn.Module) -> nn.Sequential:
    """Two layers behind a norm of the input."""
    first, second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)
    return nn.Sequential(norm, first, nn.LeakyReLU(), second, nn.LeakyReLU()).eval()


def test_numbers_are_those_of_the_features(cfg):
    """In batches of 10, of all images at once; the layers in the order in which they run."""
    model = network(nn.Identity())
    found = analyze(cfg, model, layers=["3", "1"])
    assert list(found["layers"]) == ["1", "3"]
    with torch.no_grad():
        maps = [model[:4](Shades(name).image) for name in ("toy_day", "toy_bright")]
    values = divergence(*(statistics_of(image_moments(x)) for x in maps))
    row = found["layers"]["3"]
    assert row["channels"] == 5
    assert row["divergence"]["toy_bright"]["mean"] == pytest.approx(values.mean().item())
    assert row["divergence"]["toy_bright"]["median"] == pytest.approx(values.median().item())
    small = analyze(cfg, model, layers=["3"], batch_size=7)["layers"]["3"]
    assert small["divergence"]["toy_bright"]["mean"] == pytest.approx(values.mean().item())
    assert small["null"]["toy_day"] == pytest.approx(row["null"]["toy_day"])


def test_facts_of_the_data(cfg):
    found = analyze(cfg, network(nn.Identity()), layers=["1"], split="val")
    assert (found["source"], found["targets"], found["split"]) == ("toy_day", ["toy_bright"], "val")
    assert found["images"] == {"toy_day": COUNT, "toy_bright": COUNT}
    assert found["fingerprints"]["toy_bright"] == Shades("toy_bright").fingerprint()


def test_some_images_are_spread_over_the_set(cfg):
    model = network(nn.Identity())
    some = analyze(cfg, model, layers=["1"], images=9)
    assert some["images"] == {"toy_day": 9, "toy_bright": 9}
    spread = [i * COUNT // 9 for i in range(9)]
    with torch.no_grad():
        maps = [model[:2](Shades(name).image[spread]) for name in ("toy_day", "toy_bright")]
    values = divergence(*(statistics_of(image_moments(x)) for x in maps))
    found = some["layers"]["1"]["divergence"]["toy_bright"]["mean"]
    assert found == pytest.approx(values.mean().item())


def test_instance_norm_takes_the_shift_away(cfg):
    """What the paper says of shallow layers, where the shift is all that differs."""
    torch.manual_seed(0)
    plain, invariant = network(nn.Identity()), network(nn.InstanceNorm2d(3, eps=1e-12))
    for index, model in enumerate((plain, invariant)):
        rows = analyze(cfg, model, layers=["2", "4"])["layers"].values()
        for row in rows:
            moved, null = row["divergence"]["toy_bright"]["mean"], row["null"]["toy_day"]["mean"]
            assert null > 0.02
            assert moved < 1e-6 if index else moved > 10 * null


def test_an_input_norm_has_constant_channels_only(cfg):
    found = analyze(cfg, network(nn.InstanceNorm2d(3)), layers=["0"])["layers"]["0"]
    facts = found["divergence"]["toy_bright"]
    assert (facts["constant_in_both"], facts["mean"]) == (3, None)
    assert found["null"]["toy_day"]["mean"] is None


def test_the_network_is_left_as_it_was(cfg):
    """No hook stays, after an error either, and it trains on if it did; its statistics stand."""
    model = network(nn.BatchNorm2d(3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    analyze(cfg, model, layers=["*"])
    with pytest.raises(ValueError, match=r"layer 0: features must be finite"):
        analyze(cfg, model, layers=["0"], domains=["toy_day", "toy_broken"])
    assert model.training and all(m.training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_evaluation_mode_and_the_same_result_twice(cfg):
    model = network(nn.Dropout(0.9)).train()
    first = analyze(cfg, model, layers=["1"])
    assert analyze(cfg, model, layers=["1"]) == first
    assert first["layers"]["1"]["null"]["toy_day"] is not None


class Odd(nn.Module):
    """Layers of which nothing can be measured, one that runs twice, one with channels last."""

    output_fmt = "NHWC"

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice, self.unused = nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)
        self.flat, self.last, self.pair = nn.Flatten(0, 1), nn.LayerNorm(6), Pair()

    def forward(self, x):
        x = self.twice(self.conv(x))
        self.flat(x)
        self.pair(x)
        return self.twice(self.last(x.permute(0, 2, 3, 1)))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_layers_without_features_are_left_out_with_the_reason(cfg):
    found = analyze(cfg, Odd(), layers=["*"])
    assert {name: row["channels"] for name, row in found["layers"].items()} == {
        "conv": 6,
        "last": 6,
        "twice": 6,
    }
    assert list(found["layers"]) == ["conv", "last", "twice"]
    assert found["left_out"] == {
        "flat": "it gives 60 features for 10 images",
        "pair": "it gives a tuple, not a tensor",
        "unused": "it did not run",
    }
    with pytest.raises(ValueError, match="layers must name modules .* unused: it did not run"):
        analyze(cfg, Odd(), layers=["unused", "pair"])


def test_few_images_have_no_null(cfg):
    found = analyze(cfg, network(nn.Identity()), layers=["1"], domains=["toy_day", "toy_six"])
    row = found["layers"]["1"]
    assert row["null"]["toy_six"] is None and row["null"]["toy_day"]["mean"] > 0
    assert row["divergence"]["toy_six"]["mean"] > 0


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"domains": ["toy_day"]}, ValueError, "a source and at least one target"),
        ({"domains": []}, ValueError, "a source and at least one target"),
        ({"domains": ["toy_day", "toy_brigt"]}, KeyError, "did you mean 'toy_bright'"),
        ({"domains": ["toy_day", "toy_bright", "toy_day"]}, ValueError, "domains must differ"),
        ({"domains": ["toy_day", "toy_one"]}, ValueError, "'toy_one' has in its test split 1"),
        ({"images": 1}, ValueError, "images must be at least 2, got 1"),
        ({"layers": ["1", "conf"]}, ValueError, "'conf' fits none of 5"),
        ({"layers": []}, ValueError, "layers must hold at least one pattern"),
        ({"batch_size": -1}, ValueError, "batch_size"),
    ],
)
def test_wrong_arguments_are_named(cfg, options, kind, text):
    with pytest.raises(kind, match=text):
        analyze(cfg, network(nn.Identity()), **{"layers": ["1"], **options})


def test_a_run_without_a_target_says_so():
    with pytest.raises(ValueError, match="no other test domain: pass --domains"):
        analyze(Config(train_domains=("toy_day",)), network(nn.Identity()))
