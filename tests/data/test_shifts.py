import numpy as np
import pytest

from ibnvision.data.shifts import (
    APPEARANCE,
    APPEARANCE_HASH,
    SHIFTS,
    appearance_hash,
    apply,
    fog,
    haze,
    luminance,
    night,
)


def photo(height=24, width=32):
    rng = np.random.default_rng(0)
    image = rng.uniform(0.1, 0.9, (height, width, 3)).astype(np.float32)
    depth = rng.uniform(2, 120, (height, width)).astype(np.float32)
    return image, depth


def test_recipes_are_the_ones_fixed_before_training():
    assert appearance_hash(APPEARANCE) == APPEARANCE_HASH
    assert list(APPEARANCE) == list(SHIFTS)  # the order numbers the domains
    changed = {**APPEARANCE, "day": {**APPEARANCE["day"], "noise": 0.013}}
    assert appearance_hash(changed) != APPEARANCE_HASH


def test_haze_is_the_scattering_model():
    image, depth = photo()
    hazy = haze(image, depth, 0.03, 0.8)
    y, x, c = 5, 7, 1
    t = np.exp(-0.03 * float(depth[y, x]))
    assert hazy[y, x, c] == pytest.approx(float(image[y, x, c]) * t + 0.8 * (1 - t), rel=1e-5)
    t = np.exp(-0.03 * depth.astype(np.float64))[..., None]
    np.testing.assert_allclose((hazy - 0.8 * (1 - t)) / t, image, atol=1e-4)


def test_fog_draws_its_density_and_airlight_from_the_recipe():
    image, _ = photo()
    constants = APPEARANCE["fog"]["constants"]
    far = np.full(image.shape[:2], 1e6, np.float32)
    for seed in range(20):
        airlight = fog(image, np.random.default_rng(seed), depth=far, **constants)[0, 0]
        assert 0.75 <= airlight[0] <= 0.92
        assert airlight[2] == pytest.approx(airlight[0] * 1.02, rel=1e-5)
        half = fog(image * 0, np.random.default_rng(seed), depth=far * 0 + 50, **constants)[0, 0]
        beta = -np.log(1 - half[0] / airlight[0]) / 50
        assert 0.02 <= beta <= 0.05


@pytest.mark.parametrize("name", SHIFTS)
def test_every_shift_works_on_a_photo_with_depth_and_repeats(name):
    image, depth = photo()
    first = apply(name, image, np.random.default_rng(3), depth=depth)
    again = apply(name, image, np.random.default_rng(3), depth=depth)
    assert first.dtype == np.float32 and first.shape == image.shape
    assert 0 <= first.min() and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - image).mean() > 0.01


def test_directions_of_the_shifts():
    image, depth = photo()

    def mean(name):
        return apply(name, image, np.random.default_rng(0), depth=depth).mean((0, 1))

    assert mean("night").mean() < 0.6 * image.mean()
    assert mean("dusk")[0] > 1.3 * mean("dusk")[2]
    assert mean("rain")[2] > mean("rain")[0]
    np.testing.assert_allclose(mean("invert"), 1 - image.mean((0, 1)), atol=0.01)
    grey = luminance(image)
    assert grey[2, 3, 0] == pytest.approx(float(image[2, 3] @ [0.299, 0.587, 0.114]), rel=1e-5)


def test_night_darkens_the_sky_only_where_told():
    image = np.full((24, 32, 3), 0.6, np.float32)
    sky = np.zeros((24, 32), bool)
    sky[:8] = True
    shown = night(image, np.random.default_rng(0), sky=sky, **APPEARANCE["night"]["constants"])
    assert shown[:8].mean() < 0.4 * shown[8:12].mean()


def test_bad_input():
    image, depth = photo()
    rng = np.random.default_rng(0)
    with pytest.raises(KeyError, match="unknown shift 'nigth'; did you mean 'night'"):
        apply("nigth", image, rng)
    with pytest.raises(ValueError, match="fog needs depth"):
        apply("fog", image, rng)
    with pytest.raises(TypeError, match="image must be floating point.*uint8"):
        apply("day", (image * 255).astype(np.uint8), rng)
    with pytest.raises(ValueError, match=r"image must have shape \[H, W, 3\], got \[24, 32\]"):
        apply("day", image[..., 0], rng)
    with pytest.raises(ValueError, match=r"depth must have the image's shape \[24, 32\], got"):
        apply("fog", image, rng, depth=depth[:-1])
