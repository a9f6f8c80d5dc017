import sys

import numpy as np
import pytest
from miniature_segmentation import (
    GTAV_SPLIT,
    gtav_flat,
    gtav_folders,
    raw_ids,
    train_ids,
    write_image,
    write_palette,
)

from ibnvision.data import build_domain
from ibnvision.data.gtav import BAD_IDS
from ibnvision.data.label_maps import decode_gtav


def numbers(data):
    return [int(image.stem) for image, _ in data.files]


@pytest.mark.parametrize(
    "make, options, words",
    [
        (gtav_flat, {"split_mat": "."}, "split.mat"),
        (gtav_flat, {"split_mat": "read_mapping", "colors": True}, "split.mat"),
        (gtav_flat, {"split_mat": ".", "train_id_files": True}, "split.mat"),
        (gtav_folders, {}, "folder"),
        (gtav_folders, {"colors": False}, "folder"),
    ],
)
@pytest.mark.parametrize("above", ["", "gta5"])
def test_official_split(tmp_path, make, options, words, above):
    make(tmp_path / above, **options)
    for split, ids in GTAV_SPLIT.items():
        data = build_domain("gtav", split, root=tmp_path)
        assert numbers(data) == [i for i in ids if i not in BAD_IDS]
        np.testing.assert_array_equal(data.picture(0)[1], train_ids(ids[0]))
        assert data.facts()["split"].startswith(f"{split} of the official split, {words}")
    notes = build_domain("gtav", "train", root=tmp_path).facts()["notes"]
    assert len(BAD_IDS) == 15 and notes[0].startswith("left out as bad: 1 of the ids 12160, 12166")


@pytest.mark.parametrize("make", [gtav_flat, gtav_folders])
def test_all_images_are_train(tmp_path, make):
    data = build_domain("gtav_all", "train", root=make(tmp_path))
    assert sorted(numbers(data)) == [1, 2, 3, 4]
    assert "all images, the official val and test among them" == data.facts()["split"]
    with pytest.raises(ValueError, match="gtav_all must be one of train, got 'val' .gtav has the"):
        build_domain("gtav_all", "val", root=tmp_path)


def test_without_split_or_scipy(tmp_path, monkeypatch):
    gtav_flat(tmp_path)
    with pytest.raises(FileNotFoundError, match="split.mat.*found neither.*domain gtav_all"):
        build_domain("gtav", "train", root=tmp_path)
    gtav_flat(tmp_path, split_mat=".")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(
        ImportError, match="split.mat' is read with SciPy.*pip install scipy, or use"
    ):
        build_domain("gtav", "train", root=tmp_path)


def test_a_part_of_the_download_says_so(tmp_path):
    gtav_flat(tmp_path, split_mat=".")
    (tmp_path / "images" / "00002.png").unlink()
    data = build_domain("gtav", "train", root=tmp_path)
    assert numbers(data) == [1] and data.facts()["split"].endswith("(2 of its 3 images are there)")


def test_another_split_mat(tmp_path):
    from scipy.io import savemat

    gtav_flat(tmp_path)
    savemat(tmp_path / "split.mat", {"train": [1, 2]})
    with pytest.raises(ValueError, match="split.mat' must hold trainIds.*got train"):
        build_domain("gtav", "train", root=tmp_path)


def test_unknown_colours_are_ignored_and_a_licence_plate_only_by_palette(tmp_path):
    gtav_flat(tmp_path, colors=True)
    label = tmp_path / "labels" / "00001.png"
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0] = [(128, 64, 128), (128, 64, 129), (0, 0, 142)]
    from miniature_segmentation import write_grey

    write_grey(label, picture)
    assert decode_gtav(label).tolist() == [[0, 255, 13], [255, 255, 255]]
    write_palette(label, np.array([[7, 34, 26]], np.uint8), {26: (0, 0, 142), 34: (0, 0, 142)})
    assert decode_gtav(label).tolist() == [[0, 255, 13]]
    write_palette(label, np.array([[7, 35, 200]], np.uint8), {})
    with pytest.raises(
        ValueError, match="00001.png' holds the values 35, 200, which the map 'gtav_"
    ):
        decode_gtav(label)


def test_sizes_that_differ_are_listed(tmp_path):
    gtav_flat(tmp_path)
    write_image(tmp_path / "images" / "00002.png", 2, (24, 40))
    data = build_domain("gtav_all", "train", root=tmp_path)
    message = (
        r"images/00002.png' and label .*labels/00002.png' must have one size, got 24x40 and 24x4"
    )
    with pytest.raises(ValueError, match=message):
        data.picture(1)
    (problem,) = data.check()
    assert "00002.png' and label" in problem and raw_ids(2).shape == (24, 48)


def test_images_of_nearly_their_labels_size_are_resized_to_them(tmp_path):
    """As the download has some: they must not end a training run, and `check` must name them."""
    write_image(gtav_flat(tmp_path) / "images" / "00002.png", 2, (25, 46))
    data = build_domain("gtav_all", "train", root=tmp_path)
    image, label = data.picture(1)
    assert image.shape == (24, 48, 3) and (image == (20, 80, 40)).all()
    np.testing.assert_array_equal(label, train_ids(2))
    (problem,) = data.check()
    assert "must have one size, got 25x46 and 24x48" in problem
    assert "within 5% of a side of its label" in data.facts()["notes"][1]
    write_image(tmp_path / "images" / "00002.png", 2, (26, 48))
    with pytest.raises(ValueError, match="got 26x48 and 24x48"):
        data.picture(1)


def test_the_official_val_is_a_target_under_its_own_name(tmp_path):
    root = gtav_folders(tmp_path)
    val, target = (
        build_domain("gtav", "val", root=root),
        build_domain("gtav_val", "test", root=root),
    )
    assert val.files == target.files and target.facts()["split"].startswith("val of the official")
    with pytest.raises(ValueError, match="gtav_val must be one of test, got 'train'"):
        build_domain("gtav_val", "train", root=root)
