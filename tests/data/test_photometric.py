import inspect
from collections import Counter

import pytest
import torch

from ibnvision.data import photometric as photometric_module
from ibnvision.data.photometric import STRONG, photometric

OFF = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "p": 1, "blur": None}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(n=3, height=12, width=16, dtype=torch.float32):
    return torch.rand(n, 3, height, width, generator=seeded(9), dtype=torch.float64).to(dtype)


def test_each_operation_by_hand():
    """One pixel red, one grey; factors are read off the result and must lie in their range."""
    x = (
        torch.tensor([[0.5, 0.25], [0.1, 0.25], [0.1, 0.25]])
        .view(1, 3, 1, 2)
        .expand(64, -1, -1, -1)
    )
    grey = torch.tensor([0.2989 * 0.5 + 0.587 * 0.1 + 0.114 * 0.1, 0.25])

    brighter = photometric(x, seeded(), **{**OFF, "brightness": 0.4})
    factor = brighter[:, 0, 0, 0] / 0.5
    assert 0.6 <= factor.min() < 0.65 and 1.35 < factor.max() <= 1.4
    torch.testing.assert_close(brighter, x * factor.view(-1, 1, 1, 1))

    contrast = photometric(x, seeded(), **{**OFF, "contrast": 0.4})
    factor = (contrast[:, 0, 0, 0] - grey.mean()) / (0.5 - grey.mean())
    assert 0.6 <= factor.min() < 0.65 and 1.35 < factor.max() <= 1.401
    blend = factor.view(-1, 1, 1, 1)
    torch.testing.assert_close(contrast, (x * blend + grey.mean() * (1 - blend)).clamp(0, 1))

    saturated = photometric(x, seeded(), **{**OFF, "saturation": 0.4})
    factor = (saturated[:, 0, 0, 0] - grey[0]) / (0.5 - grey[0])
    assert 0.6 <= factor.min() < 0.65 and 1.35 < factor.max() <= 1.401
    blend = factor.view(-1, 1, 1, 1)
    torch.testing.assert_close(saturated, (x * blend + grey * (1 - blend)).clamp(0, 1))

    turned = photometric(x, seeded(), **{**OFF, "hue": 0.1})
    torch.testing.assert_close(turned[..., 1], x[..., 1])  # grey has no hue
    pixel = turned[:, :, 0, 0]
    torch.testing.assert_close(pixel.amax(1), torch.full((64,), 0.5))
    torch.testing.assert_close(pixel.amin(1), torch.full((64,), 0.1))
    shift = (pixel[:, 1] - pixel[:, 2]) / 0.4 / 6  # within a sixth of a turn from red
    assert -0.1 <= shift.min() < -0.08 and 0.08 < shift.max() <= 0.1001


def test_a_change_above_one_does_not_turn_factors_negative():
    x = photometric(torch.full((64, 3, 1, 1), 0.25), seeded(), **{**OFF, "brightness": 3})
    assert 0 <= x.min() < 0.05 and 0.8 < x.max() <= 1
    assert (x == 0).sum() == 0  # drawn from [0, 4], not cut at 0


def test_blur_is_a_gaussian_of_a_drawn_sigma():
    x = torch.zeros(200, 3, 21, 21)
    x[:, :, 10, 10] = 1
    y = photometric(x, seeded(), **{**OFF, "blur": (0.15, 1.3)})
    torch.testing.assert_close(y.sum((2, 3)), torch.ones(200, 3))
    row = y[:, 0, 10, 10:12]
    wide = row[:, 1] / row[:, 0] > 0.05
    sigma = (-0.5 / torch.log(row[wide, 1] / row[wide, 0])).sqrt()
    assert 1.25 < sigma.max() <= 1.3001
    assert row[:, 0].max() > 0.999  # sigma 0.15 to 0.25 leaves nearly everything
    assert 0.6 < wide.float().mean() < 0.85  # sigma above 0.41 of 0.15 to 1.3: 77 %
    white = photometric(torch.ones(50, 3, 9, 9), seeded(), **{**OFF, "blur": (0.15, 1.3)})
    assert white.max() == 1 and white.min() > 0.999999  # rounding does not leave [0, 1]
    tail = y[:, 0, 10, 10 + 6 :].max()
    assert tail == 0 and y[:, 0, 10, 15].max() > 0  # cut at four sigma


def test_the_jitter_comes_to_a_share_of_the_images_in_every_order(monkeypatch):
    calls, factors = [], {}
    for name in ("brightness", "contrast", "saturation", "hue"):

        def noted(image, factor, name=name):
            calls.append(name)
            factors.setdefault(name, []).append(factor)
            return image

        monkeypatch.setattr(photometric_module.TF, f"adjust_{name}", noted)
    photometric(torch.zeros(960, 3, 1, 1), seeded(), blur=None)
    orders = Counter(tuple(calls[i : i + 4]) for i in range(0, len(calls), 4))
    assert 430 < orders.total() < 530  # 480 expected, deviation 15
    assert len(orders) == 24 and max(orders.values()) < 45  # 20 expected, deviation 4
    between = torch.corrcoef(torch.tensor(list(factors.values()))) - torch.eye(4)
    assert between.abs().max() < 0.2  # draws of their own; deviation 0.05
    calls.clear()
    photometric(torch.zeros(20, 3, 1, 1), seeded(), blur=None, p=0)
    photometric(torch.zeros(20, 3, 1, 1), seeded(), **OFF)
    assert not calls


def test_images_draw_one_after_the_other():
    x, generator = photos(4), seeded(5)
    one_by_one = [photometric(image[None], generator, **STRONG) for image in x]
    assert torch.equal(photometric(x, seeded(5), **STRONG), torch.cat(one_by_one))
    assert not torch.equal(photometric(x, seeded(6), **STRONG), torch.cat(one_by_one))


def test_the_generator_is_the_only_source_of_chance_and_moves_alike_for_any_arguments():
    x, before, after = photos(), torch.get_rng_state(), []
    for kwargs in ({}, STRONG, OFF, {"p": 0}):
        generator = seeded(1)
        photometric(x, generator, **kwargs)
        after.append(generator.get_state())
    assert all(torch.equal(state, after[0]) for state in after)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_channels_last(dtype):
    x = photos(dtype=dtype)
    y = photometric(x, seeded(2), **STRONG)
    assert y.dtype == dtype and 0 <= y.min() and y.max() <= 1
    working = torch.promote_types(dtype, torch.float32)
    assert torch.equal(y, photometric(x.to(working), seeded(2), **STRONG).to(dtype))
    z = photometric(x.to(memory_format=torch.channels_last), seeded(2), **STRONG)
    torch.testing.assert_close(z, y, rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 1, 1), (2, 3, 1, 7), (2, 3, 3, 2)])
def test_small_and_empty_batches(shape):
    x = torch.rand(shape)
    y = photometric(x, seeded(), **STRONG)
    assert y.shape == x.shape and torch.isfinite(y).all()


def test_the_input_stays_and_nothing_on_means_nothing_changed():
    x = photos()
    before = x.clone()
    photometric(x, seeded(), **STRONG)
    assert torch.equal(x, before)
    assert torch.equal(photometric(x, seeded(), **OFF), before)


def test_constants_are_those_of_the_paper():
    defaults = {
        name: p.default
        for name, p in inspect.signature(photometric).parameters.items()
        if p.default is not inspect.Parameter.empty
    }
    published = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    assert defaults == {**published, "p": 0.5, "blur": (0.15, 1.30)}
    assert STRONG.keys() == defaults.keys()
    assert [STRONG[name] for name in published] == [0.8, 0.8, 0.8, 0.3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"brightness": -0.1}, "brightness must be at least 0, got -0.1"),
        ({"contrast": float("nan")}, "contrast must be at least 0, got nan"),
        ({"hue": 0.6}, r"hue must lie in \[0, 0.5\], got 0.6"),
        ({"p": 2}, r"p must lie in \[0, 1\], got 2"),
        ({"blur": (0.0, 1.0)}, r"blur must be .* above 0, got \(0.0, 1.0\)"),
        ({"blur": (2.0, 1.0)}, r"blur must be .* got \(2.0, 1.0\)"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        photometric(photos(), seeded(), **kwargs)


def test_bad_images_are_named():
    with pytest.raises(TypeError, match="images must be floating point .* torch.uint8"):
        photometric(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), seeded())
    for shape in ([3, 4, 4], [1, 1, 4, 4]):
        with pytest.raises(ValueError, match=r"images must have shape \[N, 3, H, W\], got \["):
            photometric(torch.zeros(shape), seeded())
