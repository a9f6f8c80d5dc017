import math

import numpy as np
import pytest
import torch

from ibnvision.data import shifts
from ibnvision.data.haze import (
    HAZE,
    HAZE_HASH,
    degrade,
    haze_hash,
    jpeg,
    scatter,
    smooth_noise,
    to_bytes,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photo(*batch, height=24, width=32, dtype=torch.float32):
    clear = torch.rand(*batch, 3, height, width, generator=seeded(1), dtype=dtype)
    return clear, torch.rand(*batch, height, width, generator=seeded(2), dtype=dtype)


def only(**changed):
    """The source's recipe with a fixed neutral haze, and what is changed."""
    fixed = {"beta": (0.0, 0.0), "airlight": (0.9, 0.9), "airlight_offset": 0.0}
    return {**HAZE["haze"], **fixed, **changed}


def test_recipes_are_the_ones_fixed_before_training():
    assert haze_hash(HAZE) == HAZE_HASH
    assert haze_hash({**HAZE, "haze": {**HAZE["haze"], "beta": (0.3, 2.1)}}) != HAZE_HASH


def test_scattering_by_hand():
    clear = torch.tensor([0.2, 0.5, 1.0])[:, None, None]
    hazy = scatter(clear, torch.tensor([[math.log(2)]]), 1.0, 0.8)  # t = 1 / 2
    torch.testing.assert_close(hazy.flatten(), torch.tensor([0.5, 0.65, 0.9]))
    hazy = scatter(clear, torch.tensor([[2.0]]), math.log(2), torch.tensor([0.4, 0.8, 0.0]))
    torch.testing.assert_close(hazy.flatten(), torch.tensor([0.35, 0.725, 0.25]))  # t = 1 / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_batches_are_scattered_image_by_image(dtype):
    clear, depth = photo(2, dtype=torch.float64)
    clear = clear.to(dtype)
    beta, light = torch.tensor([0.5, 2.0]), torch.rand(2, 3, generator=seeded())
    hazy = scatter(clear, depth, beta, light)
    assert hazy.dtype == dtype
    for i in range(2):
        torch.testing.assert_close(hazy[i], scatter(clear[i], depth[i], float(beta[i]), light[i]))


def test_the_tensor_form_is_the_law_of_shifts():
    clear, depth = photo()
    light = np.array([0.7, 0.8, 0.9], np.float32)
    theirs = shifts.haze(clear.permute(1, 2, 0).numpy(), depth.numpy(), 1.3, light)
    ours = scatter(clear, depth, 1.3, torch.from_numpy(light))
    np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), theirs, atol=2e-7)


@pytest.mark.parametrize("name", HAZE)
def test_a_seed_decides_the_haze(name):
    clear, depth = photo()
    first, again = (degrade(clear, depth, HAZE[name], seeded(5)) for _ in range(2))
    assert torch.equal(first, again) and 0 <= first.min() and first.max() <= 1
    other = degrade(clear, depth, HAZE[name], seeded(6))
    assert torch.equal(first, other) == (name == "haze_none" or name.startswith("motorcycle"))


def test_images_of_a_batch_draw_one_after_the_other():
    clear, depth = photo(3)
    generator = seeded(5)
    one_by_one = [
        degrade(c, d, HAZE["ridcp"], generator) for c, d in zip(clear, depth, strict=True)
    ]
    assert torch.equal(degrade(clear, depth, HAZE["ridcp"], seeded(5)), torch.stack(one_by_one))


def test_density_and_air_light_stay_in_the_range_of_the_recipe():
    black, far, half = torch.zeros(3, 4, 4), torch.full((4, 4), 1e6), torch.full((4, 4), 0.5)
    betas, lights = [], []
    for seed in range(200):
        light = degrade(black, far, HAZE["haze"], seeded(seed))[:, 0, 0]
        hazy = degrade(black, half, HAZE["haze"], seeded(seed))[:, 0, 0]
        betas.append(float(-torch.log(1 - hazy / light)[0] / 0.5))
        lights.append(light)
    lights = torch.stack(lights)
    assert 0.299 < min(betas) < 0.4 and 1.9 < max(betas) < 2.001
    assert 0.675 <= lights.min() < 0.72 and lights.max() <= 1
    spread = lights.amax(1) - lights.amin(1)
    assert 0.02 < spread.max() <= 0.05001


def test_shifts_lie_outside_of_the_source():
    source = HAZE["haze"]
    assert HAZE["haze_dense"]["beta"][0] > source["beta"][1]
    for tint in HAZE["haze_tinted"]["tints"]:
        assert (max(tint) - min(tint)) * 0.8 > 4 * 2 * source["airlight_offset"]
    assert source["patchiness"] == (0, 0) and HAZE["haze_patchy"]["patchiness"][0] > 0.5
    assert source["noise_share"] == source["jpeg_share"] == source["gamma_share"] == 0
    changed = {"dense": {"beta"}, "tinted": {"airlight", "tints"}, "patchy": {"patchiness"}}
    changed["camera"] = {"noise", "noise_share", "jpeg", "jpeg_share"}
    for name, keys in changed.items():
        recipe = HAZE[f"haze_{name}"]
        assert {key for key in recipe if recipe[key] != source[key]} == keys


def test_noise_is_coloured_or_grey_and_of_the_drawn_strength():
    grey, flat = torch.full((3, 200, 200), 0.5), torch.zeros(200, 200)
    for share, equal in ((0.0, False), (1.0, True)):
        recipe = only(noise=(0.03, 0.03), noise_share=1.0, grey_share=share)
        noise = degrade(grey, flat, recipe, seeded()) - 0.5
        assert float(noise.std()) == pytest.approx(0.03, rel=0.05)
        assert torch.equal(noise[0], noise[1]) == equal


def test_gamma_darkens_before_the_haze():
    clear, _ = photo()
    depth = torch.full((24, 32), math.log(2))
    recipe = only(beta=(1.0, 1.0), gamma=(2.0, 2.0), gamma_share=1.0)
    torch.testing.assert_close(degrade(clear, depth, recipe, seeded()), clear**2 / 2 + 0.45)


def test_patches_thin_and_thicken_the_haze():
    black, depth = torch.zeros(3, 64, 96), torch.ones(64, 96)
    recipe = only(beta=(1.0, 1.0), patchiness=(0.5, 0.5))
    optical = -torch.log(1 - degrade(black, depth, recipe, seeded())[0] / 0.9)
    assert 0.5 <= optical.min() + 1e-4 and optical.max() <= 1.5 + 1e-4
    assert max(1 - optical.min(), optical.max() - 1) == pytest.approx(0.5, abs=1e-4)
    assert optical.diff(dim=0).abs().max() < 0.25  # smooth


def test_smooth_noise():
    field = smooth_noise(40, 60, seeded(), cells=3)
    assert field.shape == (40, 60) and float(field.abs().max()) == pytest.approx(1)
    assert torch.equal(field, smooth_noise(40, 60, seeded(), cells=3))
    assert field.diff(dim=1).abs().mean() < 0.2 * field.std()


def test_jpeg_changes_little_at_high_quality_and_much_at_low():
    ramp = torch.linspace(0.1, 0.9, 48)
    grey = (ramp[:, None] * ramp + 0.03 * torch.randn(48, 48, generator=seeded())).clamp(0, 1)
    clear = grey.expand(3, 48, 48)  # no colour for the file to thin out
    errors = [float((jpeg(clear, quality) - clear).abs().mean()) for quality in (95, 50, 10)]
    assert 0 < errors[0] < 0.01 < 2 * errors[0] < errors[1] < errors[2] < 0.05
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 16, 16)
    assert (jpeg(red, 95)[:, 8, 8] - red[:, 8, 8]).abs().max() < 0.03  # the order of channels
    assert jpeg(clear.double(), 50).dtype == torch.float64


def test_jpeg_comes_after_the_haze():
    clear, depth = photo()
    hazy = degrade(clear, depth, only(beta=(1.0, 1.0)), seeded())
    camera = only(beta=(1.0, 1.0), jpeg=(40, 40), jpeg_share=1.0)
    assert torch.equal(degrade(clear, depth, camera, seeded()), jpeg(hazy, 40))


def test_bytes_are_rounded():
    pixels = torch.tensor([0.0, 0.5, 1.5]).reshape(3, 1, 1)
    assert to_bytes(pixels).tolist() == [[[0, 128, 255]]]


def test_bad_input():
    clear, depth = photo()
    with pytest.raises(TypeError, match="clear must be floating point.*got dtype torch.uint8"):
        scatter((clear * 255).byte(), depth, 1.0, 0.9)
    with pytest.raises(ValueError, match=r"clear must have shape \[\.\.\., 3, H, W\], got \[24"):
        scatter(clear[0], depth, 1.0, 0.9)
    with pytest.raises(ValueError, match=r"depth must have.*\[24, 32\], got \[23, 32\]"):
        degrade(clear, depth[1:], HAZE["haze"], seeded())
    with pytest.raises(ValueError, match=r"clear must have shape \[3, H, W\] or \[N, 3, H, W\]"):
        degrade(clear[None, None], depth[None, None], HAZE["haze"], seeded())
