import numpy as np
import pytest
import torch

from ibnvision.data import DOMAINS, PRESETS, build_domain
from ibnvision.data.haze import HAZE
from ibnvision.data.hazy_scenes import CLEAR_SHARE, FAR_M, SPLIT_PHOTOS, HazyScenes
from ibnvision.data.photos import PHOTOS, motorcycle_depth, photo
from ibnvision.data.streets import Streets

MADE = [name for name in HAZE if name != "ridcp"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(domain, split="test"):
    return build_domain(domain, split, preset="tiny")


def test_every_recipe_is_a_domain():
    rows = [n for n, d in DOMAINS.items() if n.startswith(("haze", "motor")) and not d.data_key]
    assert rows == MADE
    assert [n for n in MADE if "train" in DOMAINS[n].splits] == ["haze"]


def test_no_photograph_is_in_two_splits_and_the_motorcycle_in_none():
    names = [name for split in SPLIT_PHOTOS.values() for name in split]
    assert len(names) == len(set(names)) and {*names, "motorcycle"} == set(PHOTOS)
    for split in SPLIT_PHOTOS:
        clear, depth = tiny("haze", split).scene(0)
        street = Streets("streets_day", split, preset="tiny")
        np.testing.assert_array_equal(clear, street.picture(0)[0])
        np.testing.assert_allclose(depth, np.minimum(street.scene(0).depth / FAR_M, 1))


@pytest.mark.parametrize("name", MADE)
def test_items(name):
    data = tiny(name)
    item, again = data[0], tiny(name)[0]
    assert item["domain"] == name and item["image"].dtype == torch.float32
    assert item["image"].shape == item["target"].shape
    assert torch.equal(item["image"], again["image"])
    hazy, clear = data.picture(0)
    assert hazy.dtype == np.uint8 and clear.shape == hazy.shape
    np.testing.assert_array_equal((item["image"] * 255).round().byte().permute(1, 2, 0), hazy)
    if name == "haze_none":
        assert torch.equal(item["image"], item["target"])
    else:
        assert (item["image"] - item["target"]).abs().mean() > 0.02
    assert len(data) == (1 if name.startswith("motor") else PRESETS["tiny"].test)


def test_test_domains_show_the_same_scenes_under_other_haze():
    for index in (0, 1):
        shown = [tiny(name).picture(index) for name in MADE if name.startswith("haze")]
        assert all(np.array_equal(clear, shown[0][1]) for _, clear in shown)
        assert len({hazy.tobytes() for hazy, _ in shown}) == len(shown)
    error = {n: np.mean([_error(tiny(n), i) for i in range(16)]) for n in ("haze", "haze_dense")}
    assert error["haze_dense"] > 1.3 * error["haze"]


def _error(data, index):
    hazy, clear = data.picture(index)
    return np.abs(hazy.astype(float) - clear).mean()


def test_motorcycle_is_hazed_by_its_metres():
    whole = build_domain("motorcycle_medium", "test", preset="quick")
    hazy, clear = whole.picture(0)
    np.testing.assert_array_equal(clear, photo("motorcycle"))
    t = np.exp(-0.26 * motorcycle_depth().astype(np.float64))[..., None]
    np.testing.assert_allclose(hazy, clear * t + 0.9 * 255 * (1 - t), atol=0.51)
    for name, mean in (("thin", 0.69), ("medium", 0.45), ("dense", 0.26)):
        beta = HAZE[f"motorcycle_{name}"]["beta"]
        assert beta[0] == beta[1]
        assert np.exp(-beta[0] * motorcycle_depth()).mean() == pytest.approx(mean, abs=0.01)
    assert tiny("motorcycle_thin").picture(0)[0].shape == (62, 92, 3)


@pytest.mark.parametrize("index", [0, 1])
def test_draw_is_decided_by_its_generator(index):
    data = tiny("haze", "train")
    first, again, other = (data.draw(index, seeded(i), (24, 24)) for i in (1, 1, 2))
    assert first["image"].shape == first["target"].shape == (3, 24, 24)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["target"], again["target"])
    assert not torch.equal(first["target"], other["target"])
    assert first["image"].is_contiguous() and first["target"].is_contiguous()


def test_drawn_haze_never_lowers_the_darkest_pixel_and_is_absent_at_times():
    data, clear = tiny("haze", "train"), 0
    for seed in range(200):
        item = data.draw(seed % 8, seeded(seed), (24, 32))
        image, target = item["image"], item["target"]
        assert image.shape == (3, 24, 32) and 0 <= image.min() and image.max() <= 1
        assert image.min() >= target.min() - 1e-6
        clear += torch.equal(image, target)
    assert abs(clear / 200 - CLEAR_SHARE) < 0.06


def test_a_drawn_street_is_a_part_of_the_street():
    data = tiny("haze", "train")
    clear, _ = data.scene(0)
    colours = {tuple(pixel) for pixel in clear.reshape(-1, 3).tolist()}
    target = (data.draw(0, seeded(3), (24, 24))["target"] * 255).round().int()
    assert {tuple(pixel) for pixel in target.flatten(1).T.tolist()} <= colours


def test_fingerprints():
    prints = [tiny(name).fingerprint() for name in MADE]
    prints += [tiny("haze", split).fingerprint() for split in ("train", "val")]
    prints.append(build_domain("haze", "test", preset="tiny", limit=3).fingerprint())
    prints.append(build_domain("haze", "test", preset="quick").fingerprint())
    assert len(set(prints)) == len(prints)
    assert tiny("haze").fingerprint() == prints[0]
    cropped = build_domain("haze", "test", preset="tiny", size=(16, 16))
    assert cropped.fingerprint() == prints[0] and cropped[0]["image"].shape == (3, 32, 48)


def test_bad_arguments():
    with pytest.raises(KeyError, match="unknown domain 'haze_dens'; did you mean 'haze_dense'"):
        HazyScenes("haze_dens", "test")
    with pytest.raises(KeyError, match="unknown domain 'ridcp'"):
        HazyScenes("ridcp", "test")
    with pytest.raises(ValueError, match="split of haze_dense must be one of test, got 'train'"):
        HazyScenes("haze_dense", "train")
    with pytest.raises(ValueError, match="preset must be one of tiny, quick, full, got 'big'"):
        HazyScenes("haze", "test", preset="big")
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        HazyScenes("haze", "test", limit=0)
    with pytest.raises(IndexError, match=r"\[0, 16\), got 16"):
        tiny("haze")[16]
    with pytest.raises(ValueError, match="haze, preset tiny: a crop of 64x64.*got one of 32x48"):
        tiny("haze", "train").draw(0, seeded(), (64, 64))
