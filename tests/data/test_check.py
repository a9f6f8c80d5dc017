import copy

import cv2
import numpy as np
import pytest
from miniature_detection import COCO, coco
from miniature_segmentation import acdc, cityscapes, gtav_flat, mapillary, synthia, write_grey

from ibnvision.data.check import check_set


def make(root, side=8, hazy=("1_1_0.9.png", "2_1_0.9.png", "20_1_0.9.png")):
    for name in hazy:
        for path in (root / "hazy" / name, root / "clear" / f"{name.partition('_')[0]}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.zeros((side, side, 3), np.uint8))


def counted(seen):
    def watch(indices):
        seen.append(len(indices))
        return indices

    return watch


def test_every_split_is_read_and_its_problems_are_named(tmp_path):
    make(tmp_path)
    seen = []

    def watch(indices):
        seen.append(list(indices))
        return indices

    found = list(check_set("its", tmp_path, watch=watch))
    assert found == [("its", "train", 2, []), ("its", "val", 1, [])] and seen == [[0, 1], [0]]
    cv2.imwrite(str(tmp_path / "clear" / "2.png"), np.zeros((8, 9, 3), np.uint8))
    train, val = check_set("its", tmp_path, size=(16, 16))
    assert len(train.problems) == 2 and "1_1_0.9.png': a crop of 16x16" in train.problems[0]
    assert "2.png' must have the size" in train.problems[1]
    assert val.problems == []  # pictures are cropped for training only


def test_a_key_stands_for_all_its_domains_and_a_wrong_folder_is_a_problem(tmp_path):
    make(tmp_path / "indoor", hazy=("1400_1.png",))
    indoor, outdoor = check_set("sots", tmp_path)
    assert indoor == ("sots_indoor", "test", 1, [])
    assert outdoor.items == 0 and "no SOTS outdoor (test) in" in outdoor.problems[0]
    assert [found.domain for found in check_set("sots_indoor", tmp_path)] == ["sots_indoor"]
    assert [found.domain for found in check_set("o_haze", tmp_path)] == ["o_haze"]
    labelled = [found.domain for found in check_set("sots:mine", tmp_path)]
    assert labelled == ["sots_indoor:mine", "sots_outdoor:mine"]
    with pytest.raises(
        KeyError,
        match="unknown set 'sts'; did you mean '.*known: camvid_day, .*gtav, .*sots_indoor",
    ):
        list(check_set("sts", tmp_path))


def test_sets_of_segmentation(tmp_path):
    seen = []
    cityscapes(tmp_path)
    found = list(check_set("cityscapes", tmp_path, size=(768, 768), watch=counted(seen)))
    assert found == [("cityscapes", s, n, []) for s, n in (("train", 4), ("val", 2), ("test", 2))]
    assert seen == [4, 2]  # test is val and not read again
    label = next((tmp_path / "gtFine" / "val").rglob("*_labelIds.png"))
    write_grey(label, np.full((24, 40), 99, np.uint8))
    _, val, test = check_set("cityscapes", tmp_path)
    assert val.problems == test.problems and "holds the values 99" in val.problems[0]


def test_two_label_maps_do_not_read_a_file_twice(tmp_path):
    mapillary(tmp_path)
    seen = []
    assert not any(f.problems for f in check_set("mapillary", tmp_path, watch=counted(seen)))
    assert seen == [2, 2]  # train and val of the first
    image = next((tmp_path / "validation" / "images").iterdir())
    image.write_bytes(b"not a picture")
    found = list(check_set("mapillary", tmp_path))
    assert [(f.domain, f.split) for f in found if f.problems] == [
        (f"mapillary_{name}", split) for name in ("robustnet", "rein") for split in ("val", "test")
    ]
    assert all(f.problems == [] or image.name in f.problems[0] for f in found)


def test_calls_may_share_what_was_read(tmp_path):
    acdc(tmp_path)
    seen, read = [], {}
    label = next(path for path in tmp_path.rglob("*_gt_label*.png") if "fog" in path.parts)
    write_grey(label, np.full((24, 48), 99, np.uint8))
    both = [
        list(check_set(name, tmp_path, watch=counted(seen), read=read))
        for name in ("acdc", "acdc_fog")
    ]
    assert seen == [4, 4]
    everything, fog = ({p for found in call for p in found.problems} for call in both)
    assert everything == fog and len(fog) == 1
    seen.clear()
    assert list(check_set("acdc_fog", tmp_path, watch=counted(seen))) == both[1] and seen == [1, 1]


def test_a_folder_decides_which_splits_are_checked(tmp_path):
    assert [found.split for found in check_set("synthia", synthia(tmp_path))] == ["train"]
    missing = list(check_set("synthia", tmp_path / "nowhere"))
    assert len(missing) == 3 and "the folder does not exist" in missing[0].problems[0]
    both = list(check_set("mapillary", mapillary(tmp_path)))
    assert [(f.items, f.problems) for f in both] == 6 * [(2, [])]
    gtav_flat(tmp_path / "gta")
    assert all("or split.mat" in f.problems[0] for f in check_set("gtav", tmp_path / "gta"))
    (everything,) = check_set("gtav_all", tmp_path / "gta")
    assert everything == ("gtav_all", "train", 4, [])


def test_camvid(tmp_path):
    for folder, value in (("test", 9), ("testannot", 3)):
        (tmp_path / folder).mkdir()
        picture = np.full((8, 8, 3)[: 3 if folder == "test" else 2], value, np.uint8)
        cv2.imwrite(str(tmp_path / folder / "0001TP_1.png"), picture)
    found = list(check_set("camvid_dusk", tmp_path))
    assert found[1] == ("camvid_dusk", "test", 1, []) and "needs frames" in found[0].problems[0]


def test_what_is_wrong_with_one_file_of_all_pictures_is_said_once(tmp_path):
    content = copy.deepcopy(COCO)
    content["annotations"][1]["id"] = 1
    coco(tmp_path, "flat", ("test",), content=content)
    (test,) = check_set("coco_json", tmp_path)
    assert test.items == 3
    assert len(test.problems) == 1 and "1 objects of an id that another one" in test.problems[0]
