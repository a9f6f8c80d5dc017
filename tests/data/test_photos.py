import importlib.util

import numpy as np
import pytest
import torch

from ibnvision.data import photos
from ibnvision.data.photos import PHOTOS, fill_rows, motorcycle_depth, photo, photo_part


def test_photographs_are_read_in_rgb_and_kept_unchanged():
    sizes = {name: photo(name).shape[:2] for name in PHOTOS}
    assert sizes["motorcycle"] == (500, 741) and sizes["rocket"] == (427, 640)
    assert sizes["astronaut"] == (512, 512) and sizes["coffee"] == (400, 600)
    means = {name: photo(name).mean((0, 1)) for name in PHOTOS}
    assert means["coffee"][0] > 2 * means["coffee"][2]  # a red cup on brown wood
    assert means["rocket"][2] > means["rocket"][0]  # a blue evening
    with pytest.raises(ValueError, match="read-only"):
        photo("coffee")[0] = 0


def test_depth_of_the_motorcycle_is_that_of_its_disparity():
    depth = motorcycle_depth()
    with np.load(photos.photo_folder() / photos.DISPARITY) as file:
        disparity = file["arr_0"]
    measured = np.isfinite(disparity)
    assert 0.92 < measured.mean() < 0.93
    expected_mm = 994.978 * 193.001 / (disparity[measured].astype(np.float64) + 31.086)
    np.testing.assert_allclose(depth[measured], expected_mm / 1000, rtol=1e-6)
    assert depth.dtype == np.float32 and depth.shape == (500, 741)
    assert 2.1 < depth.min() and depth.max() < 5.1 and np.isfinite(depth).all()


def test_gaps_take_the_farther_neighbour_of_the_row():
    x = np.inf
    rows = np.array([[x, 5, x, x, 3, x], [7, x, 8, 9, x, 4]])
    np.testing.assert_array_equal(fill_rows(rows), [[5, 5, 3, 3, 3, 3], [7, 7, 8, 9, 4, 4]])


def test_parts_lie_in_the_photograph_and_keep_its_colours():
    generator = torch.Generator().manual_seed(0)
    mean = photo("chelsea").mean((0, 1)) / 255
    parts = [photo_part("chelsea", (32, 48), 0.5, generator) for _ in range(20)]
    assert {part.shape for part in parts} == {(3, 32, 48)}
    assert len({float(part.sum()) for part in parts}) == 20
    np.testing.assert_allclose(torch.stack(parts).mean((0, 2, 3)).numpy(), mean, atol=0.08)
    whole = photo_part("chelsea", (300, 451), 1.0, generator)
    np.testing.assert_array_equal((whole * 255).round().byte().permute(1, 2, 0), photo("chelsea"))


def test_missing_scikit_image_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="not installed: pip install scikit-image"):
        photos.photo_folder()
    spec = importlib.util.spec_from_loader("skimage", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match="lacks astronaut.png, .*force-reinstall"):
        photos.photo_folder()


def test_unknown_photograph():
    with pytest.raises(KeyError, match="unknown photograph 'chelsae'; did you mean 'chelsea'"):
        photo("chelsae")
