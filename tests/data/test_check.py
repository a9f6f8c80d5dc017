import cv2
import numpy as np
import pytest

from ibnvision.data.check import check_set


def make(root, side=8, hazy=("1_1_0.9.png", "2_1_0.9.png", "20_1_0.9.png")):
    for name in hazy:
        for path in (root / "hazy" / name, root / "clear" / f"{name.partition('_')[0]}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.zeros((side, side, 3), np.uint8))


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
    with pytest.raises(
        KeyError, match="unknown set 'sts'; did you mean '.*known: its, ots, sots_indoor"
    ):
        list(check_set("sts", tmp_path))
