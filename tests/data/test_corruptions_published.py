"""Our corruptions beside those of imagecorruptions, as recorded in golden/ (see its README)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibnvision.data import corruptions_blur as blur
from ibnvision.data import corruptions_digital as digital
from ibnvision.data import corruptions_noise as noise
from ibnvision.data import corruptions_weather as weather
from ibnvision.data.corruptions import SEVERITIES, corrupt

GOLDEN = Path(__file__).with_name("golden")
RECORDED = json.loads((GOLDEN / "corruptions.json").read_text())
SEEDS = 16
LEVEL = 1 / 255
# what is between our result and theirs in levels of 255: truncation, the rounding of two passes
ROUNDING = {"pixelate": (-1.01, 1.01), "jpeg_compression": (-0.01, 0.01)}
TRUNCATED = (-0.01, 1.01)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "corruptions.npz") as file:
        return dict(file)


def image_of(picture):
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(
    "name",
    ["defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"],
)
def test_families_without_chance_give_the_published_result(name, golden):
    low, high = ROUNDING.get(name, TRUNCATED)
    for severity in SEVERITIES:
        expected = image_of(golden[f"{name}_{severity}"])
        off = (corrupt(image_of(golden["picture"]), name, severity) - expected) / LEVEL
        assert low <= off.min() and off.max() <= high, (severity, off.min(), off.max())


def statistics(image, clean):
    """Those of golden/README.md."""
    change = (image - clean).double()
    coarse = F.avg_pool2d(change, 4)
    image = image.double()
    found = [
        image.mean(),
        image.std(correction=0),
        *(c.square().mean().sqrt() for c in (change, coarse)),
    ]
    return torch.stack(found)


@pytest.mark.parametrize("name", RECORDED["statistics"])
def test_families_with_chance_have_the_published_statistics(name, golden):
    """Within four standard errors of the two means and 0.8 levels, for their rounding to bytes."""
    clean = image_of(golden["picture"])
    for severity in SEVERITIES:
        theirs = RECORDED["statistics"][name][severity - 1]
        ours = torch.stack(
            [statistics(corrupt(clean, name, severity, k), clean) for k in range(SEEDS)]
        )
        mean, std = (torch.tensor(theirs[key]).double() for key in ("mean", "std"))
        error = (ours.var(0) / SEEDS + std.square() / RECORDED["seeds"]).sqrt()
        off = (ours.mean(0) - mean).abs()
        assert (off <= 4 * error + 0.8 * LEVEL).all(), (severity, ours.mean(0), mean, error)


def test_constants_are_the_published_ones():
    assert noise.SIGMA == (0.08, 0.12, 0.18, 0.26, 0.38)
    assert noise.PHOTONS == (60, 25, 12, 5, 3) and noise.SHARE == (0.03, 0.06, 0.09, 0.17, 0.27)
    assert blur.GLASS == ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    assert blur.MOTION == ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
    stops = (1.11, 1.16, 1.21, 1.26, 1.31)
    for (count, step), stop in zip(blur.ZOOM, stops, strict=True):
        np.testing.assert_allclose(1 + step * np.arange(count), np.arange(1, stop, step))
    assert weather.FROST == ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    assert weather.FOG == ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
    assert [a / 250 for a in digital.ELASTIC] == [0.05, 0.065, 0.085, 0.1, 0.12]
    assert digital.QUALITY == (25, 18, 15, 10, 7)


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_pointer_jumping_is_the_published_loop(reach):
    """The loop over pixels, with views of one array as there, on the same draws."""
    height, width = 37, 41
    found = blur.shuffle(height, width, reach, torch.Generator().manual_seed(3))
    shape = (2, height - 2 * reach, width - 2 * reach)
    step = torch.randint(-reach, reach, shape, generator=torch.Generator().manual_seed(3)).numpy()
    x = np.repeat(np.arange(height * width).reshape(height, width, 1), 3, axis=2)
    for h in range(height - reach, reach, -1):
        for w in range(width - reach, reach, -1):
            down, right = step[:, h - reach - 1, w - reach - 1]
            there = (h + down, w + right)
            x[h, w], x[there] = x[there], x[h, w]
    assert np.array_equal(found.numpy(), x[..., 0])


def test_motion_of_a_point_is_half_a_gaussian_on_a_ray():
    x = torch.zeros(1, 61, 61)
    x[0, 30, 30] = 1
    y = blur.motion(x, 10, 3, angle=0)[0]
    weights = torch.exp(-torch.arange(21.0).square() / 18)
    torch.testing.assert_close(y[30, 10:31].flip(0), weights / weights.sum(), atol=2e-7, rtol=0)
    assert y.sum().item() == pytest.approx(1, abs=1e-5)
    turned = blur.motion(x, 10, 3, angle=-90)[0]
    torch.testing.assert_close(turned[30:51, 30], y[30, 10:31].flip(0))
    border = blur.motion(torch.ones(1, 34, 34), 20, 15, angle=30)
    torch.testing.assert_close(border, torch.ones(1, 34, 34))


def test_gaussian_filter_of_a_point():
    x = torch.zeros(1, 31, 31)
    x[0, 15, 15] = 1
    y = blur.gaussian_filter(x, (1.0, 2.0), truncate=4)[0]
    assert (y[15, 17] / y[15, 15]).item() == pytest.approx(np.exp(-0.5), rel=1e-5)
    assert (y[16, 15] / y[15, 15]).item() == pytest.approx(np.exp(-0.5), rel=1e-5)
    assert y[20:, 15].abs().max() == 0 and y[19, 15] > 0 and y[15, 24:].max() == 0


def test_fog_is_a_plasma_by_the_published_formula(golden):
    """Its statistics vary much with the seed; on the same plasma it is exact."""
    image = image_of(golden["picture"]) * 0.8
    for severity, (strength, decay) in enumerate(weather.FOG, 1):
        clouds = weather.plasma(128, decay, torch.Generator().manual_seed(1))[:48, :72]
        expected = (image + strength * clouds) * image.max() / (image.max() + strength)
        torch.testing.assert_close(corrupt(image, "fog", severity, 1), expected)


def test_plasma_is_a_torus_in_the_unit_range():
    field = weather.plasma(64, 2.0, torch.Generator().manual_seed(0))
    assert field.min() == 0 and field.max() == 1 and field.shape == (64, 64)
    inside = (field[:, 1:] - field[:, :-1]).abs().mean()
    assert (field[:, 0] - field[:, -1]).abs().mean() < 3 * inside
    rough = weather.plasma(64, 1.4, torch.Generator().manual_seed(0))
    assert (rough[:, 1:] - rough[:, :-1]).abs().mean() > 2 * inside


def test_frost_is_blue_to_white_and_its_pictures_differ():
    means = torch.stack(
        [
            weather.frost_texture(64, 80, torch.Generator().manual_seed(k)).mean((1, 2))
            for k in range(20)
        ]
    )
    assert (means[:, 2] > means[:, 0]).all() and means.std(0).min() > 0.03
    assert means.min() > 0.3 and means.max() < 0.9


def test_night_and_rain_by_severity():
    grey = torch.full((3, 60, 60), 0.5)
    nights = torch.stack([corrupt(grey, "night", s, 0).mean((1, 2)) for s in SEVERITIES])
    assert (nights.diff(dim=0) < 0).all() and (nights[:, 2] > nights[:, 0]).all()
    low = corrupt(grey, "night", 5, 0)[0]
    assert low[50, 25:35].mean() > 2 * low[5].mean()  # the headlight
    rains = torch.stack([corrupt(grey, "rain", s, 0) for s in SEVERITIES])
    assert (rains.median(-1).values.median(-1).values.diff(dim=0) < 0).all()
    streaks = rains[:, 2] - rains[:, 2].flatten(1).median(1).values[:, None, None]
    assert ((streaks > 0.01).float().mean((1, 2)).diff() > 0).all()


def test_fog_by_depth_is_the_law():
    image = torch.full((3, 32, 32), 0.2)
    far = torch.full((32, 32), 100.0)
    clear = torch.zeros(32, 32)
    assert torch.equal(corrupt(image, "fog_depth", 5, 0, depth=clear), image)
    hazy = [corrupt(image, "fog_depth", s, 0, depth=far)[0, 0, 0].item() for s in SEVERITIES]
    light = corrupt(image, "fog_depth", 5, 0, depth=torch.full((32, 32), 1e6))[0, 0, 0].item()
    assert 0.75 <= light <= 0.92
    beta = np.array([0.005, 0.01, 0.02, 0.035, 0.05])
    expected = light + (0.2 - light) * np.exp(-100 * beta)
    np.testing.assert_allclose(hazy, expected, atol=1e-5)
