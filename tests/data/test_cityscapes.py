import numpy as np
import pytest
from miniature_segmentation import cityscapes, cityscapes_foggy, train_ids, write_grey

from ibnvision.data import CITYSCAPES, build_domain


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("train_id_files", [False, True])
@pytest.mark.parametrize("above", ["", "Cityscapes", "data/cityscapes_v3"])
def test_layouts(tmp_path, wrapped, train_id_files, above):
    cityscapes(tmp_path / above, wrapped=wrapped, train_id_files=train_id_files)
    root = tmp_path / above.partition("/")[0] if "/" in above else tmp_path
    train = build_domain("cityscapes", "train", root=root)
    assert [image.parent.name for image, _ in train.files] == ["aachen"] * 2 + ["bochum"] * 2
    end = "_gtFine_labelTrainIds.png" if train_id_files else "_gtFine_labelIds.png"
    assert all(label.name == image.name[:-16] + end for image, label in train.files)
    image, label = train.picture(1)
    np.testing.assert_array_equal(label, train_ids(1))
    assert image[0, 0].tolist() == [10, 80, 40] and image.shape == (24, 48, 3)
    assert train.facts()["split"] == "train, official folders"
    assert len(CITYSCAPES) == 19 and CITYSCAPES[6] == "traffic light"


def test_test_is_the_official_val_and_says_so(tmp_path):
    cityscapes(tmp_path)
    val, test = (build_domain("cityscapes", split, root=tmp_path) for split in ("val", "test"))
    assert val.files == test.files and len(val) == 2
    assert val.facts()["split"] == "val, official folders"
    assert "val, official folders (the test labels are not public)" == test.facts()["split"]
    assert val.fingerprint() == test.fingerprint()


@pytest.mark.parametrize("wrapped", [False, True])
def test_fog_of_three_densities_shares_the_labels(tmp_path, wrapped):
    cityscapes_foggy(cityscapes(tmp_path, wrapped=not wrapped), wrapped=wrapped)
    for place, beta in enumerate(("005", "01", "02")):
        data = build_domain(f"cityscapes_foggy_{beta}", "test", root=tmp_path)
        assert len(data) == 2 and all(f"beta_0.{beta}.png" in str(i) for i, _ in data.files)
        image, label = data.picture(1)
        assert image[0, 0, 0] == pytest.approx(10 * (10 * place + 1) % 256)
        np.testing.assert_array_equal(label, train_ids(1))
    with pytest.raises(FileNotFoundError, match=r"no cityscapes_foggy_02 \(train\)"):
        build_domain("cityscapes_foggy_02", "train", root=tmp_path)


def test_wrong_folders(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="looked for {leftimg8bit/val,.*} with {gtfine/val,.* doe"
    ):
        build_domain("cityscapes", "test", root=tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match="found images/"):
        build_domain("cityscapes", "test", root=tmp_path)
    cityscapes(tmp_path / "a")
    (tmp_path / "a" / "gtFine").rename(tmp_path / "a" / "labels")
    with pytest.raises(
        FileNotFoundError, match="leftImg8bit/val' is there, but no gtfine/val/ bes"
    ):
        build_domain("cityscapes", "test", root=tmp_path / "a")
    cityscapes_foggy(cityscapes(tmp_path / "b"))
    for image in (tmp_path / "b" / "leftImg8bit_foggy").rglob("*beta_0.02*"):
        image.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"images named \*_leftImg8bit_foggy_beta_0.02.*none"
    ):
        build_domain("cityscapes_foggy_02", "test", root=tmp_path / "b")


def test_missing_labels_and_strange_values_are_named(tmp_path):
    cityscapes(tmp_path)
    folder = tmp_path / "gtFine" / "val" / "munster"
    label = folder / "munster_000000_000019_gtFine_labelIds.png"
    write_grey(label, np.full((24, 48), 77, np.uint8))
    data = build_domain("cityscapes", "val", root=tmp_path)
    with pytest.raises(ValueError, match="000000_000019_gtFine_labelIds.png' holds the values 77"):
        data[0]
    label.unlink()
    with pytest.raises(
        FileNotFoundError, match="1 of 2 images have no label.*munster_000000.*labelTrainIds.png or"
    ):
        build_domain("cityscapes", "val", root=tmp_path)
    with pytest.raises(
        ValueError, match="split of cityscapes must be one of train, val, test, got"
    ):
        build_domain("cityscapes", "dev", root=tmp_path)
