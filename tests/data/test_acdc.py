import numpy as np
import pytest
from miniature_segmentation import acdc, train_ids

from ibnvision.data import build_domain


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("train_id_files", [False, True])
@pytest.mark.parametrize("above", ["", "ACDC"])
def test_layouts_and_conditions(tmp_path, wrapped, train_id_files, above):
    acdc(tmp_path / above, wrapped=wrapped, train_id_files=train_id_files)
    both = build_domain("acdc", "test", root=tmp_path)
    assert [image.parents[2].name for image, _ in both.files] == ["fog", "night", "rain", "snow"]
    for number, condition in enumerate(("fog", "night", "rain", "snow")):
        data = build_domain(f"acdc_{condition}", "test", root=tmp_path)
        assert data.files == [both.files[number]] and data.files[0][0].parents[1].name == "val"
        np.testing.assert_array_equal(data.picture(0)[1], train_ids(number))
    assert len(build_domain("acdc", "train", root=tmp_path)) == 4
    assert "val, official folders (the test" in both.facts()["split"]


def test_half_is_half_of_each_side(tmp_path):
    item = build_domain("acdc_rain", "val", root=acdc(tmp_path), protocol="half")[0]
    assert item["image"].shape == (3, 12, 24) and item["target"].shape == (24, 48)


def test_a_missing_condition_is_named(tmp_path):
    acdc(tmp_path)
    (tmp_path / "gt" / "rain").rename(tmp_path / "gt" / "hail")
    assert len(build_domain("acdc_fog", "test", root=tmp_path)) == 1
    for name in ("acdc", "acdc_rain"):
        with pytest.raises(
            FileNotFoundError, match=r"no ACDC \(rain/val\).*no gt/rain/val/ beside"
        ):
            build_domain(name, "test", root=tmp_path)
