from pathlib import Path

import cv2
import numpy as np
import pytest

from ibnvision.data import build_domain
from ibnvision.data.layout import SUFFIXES, Found
from ibnvision.data.pairing import by_name, by_number, held_out


def found(hazy, clear):
    return Found([Path("hazy") / name for name in hazy], [Path("clear") / name for name in clear])


def names(pairs):
    return [(pair.hazy.name, pair.clear.name) for pair in pairs]


def make(folder, *files):
    """Pictures of 8 x 8 pixels, each of one grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(files):
        assert cv2.imwrite(str(folder / name), np.full((8, 8, 3), number, np.uint8))


def test_names_pair_up_to_the_first_underscore_whatever_the_suffix():
    hazy = ["1_1_0.90179.png", "1_2_0.8.png", "10_1_0.7.PNG", "0005_0.8_0.04.jpg"]
    clear = ["0005.png", "1.jpeg", "10.bmp", "11.png"]
    assert names(by_name(found(hazy, clear))) == [
        ("1_1_0.90179.png", "1.jpeg"),
        ("1_2_0.8.png", "1.jpeg"),
        ("10_1_0.7.PNG", "10.bmp"),
        ("0005_0.8_0.04.jpg", "0005.png"),
    ]


def test_the_whole_name_and_its_end_come_first():
    hazy = ["1_1_0.9.png", "street_2_hazy.jpg", "Dusk-haze.png"]
    clear = ["1.png", "1_1_0.9.png", "street_2_GT.png", "dusk-clean.png", "street.png"]
    assert names(by_name(found(hazy, clear))) == [
        ("1_1_0.9.png", "1_1_0.9.png"),
        ("street_2_hazy.jpg", "street_2_GT.png"),
        ("Dusk-haze.png", "dusk-clean.png"),
    ]


def test_numbers_pair_without_their_zeros():
    hazy = ["01_outdoor_hazy.jpg", "2.png", "10_hazy.png"]
    clear = ["10_GT.png", "02_outdoor_GT.JPG", "1_GT.png"]
    assert names(by_number(found(hazy, clear))) == [
        ("01_outdoor_hazy.jpg", "1_GT.png"),
        ("2.png", "02_outdoor_GT.JPG"),
        ("10_hazy.png", "10_GT.png"),
    ]


def test_missing_and_ambiguous_partners_are_named():
    with pytest.raises(FileNotFoundError, match=r"2 of 3 hazy .*7_1.png': looked for 7_1 or 7 wit"):
        by_name(found(["1_1.png", "7_1.png", "8_1.png"], ["1.png", "70.png"]))
    with pytest.raises(ValueError, match=r"must be named '1', found '.*1.png' and '.*1_gt.jpg'"):
        by_name(found(["1_1.png"], ["1.png", "1_gt.jpg"]))
    with pytest.raises(ValueError, match=r"must be named '3', found .*03_hazy.png' and .*3_h"):
        by_number(found(["03_hazy.png", "3_hazy.png"], ["3_GT.png"]))
    with pytest.raises(FileNotFoundError, match=r"1 of 1 hazy .*looked for 4 with"):
        by_number(found(["04_hazy.png"], ["5_GT.png"]))


def test_held_out_scenes():
    assert held_out(str(i) for i in range(1, 1400)) == {str(i) for i in range(20, 1400, 20)}
    assert held_out(f"{i:04d}" for i in (5, 20, 41)) == {"0020"}
    assert held_out(["20", "40"]) == {"40"} and held_out(["1", "2", "3"]) == {"3"}
    assert held_out(["b2", "b10", "a", "a"]) == {"b10"}
    assert held_out(f"s{i}" for i in range(1, 46)) == {"s20", "s40"}
    with pytest.raises(ValueError, match="at least two scenes.*got .'7'.: add pairs, or give val"):
        held_out(["7", "7"])


def own(root, split):
    return build_domain("paired_folder", split, root=root)


def test_a_folder_of_pairs_is_a_test_set(tmp_path):
    make(tmp_path / "Hazy", "a_1.jpg", "a_2.jpg", "b.png")
    make(tmp_path / "GT", "a.png", "b.png")
    data = own(tmp_path, "test")
    assert names(data.pairs) == [("a_1.jpg", "a.png"), ("a_2.jpg", "a.png"), ("b.png", "b.png")]
    assert data[2]["domain"] == "paired_folder"
    with pytest.raises(ValueError, match=r"must hold train/ to give a train split.*a test set; to"):
        own(tmp_path, "train")
    with pytest.raises(ValueError, match="must be one of train, val, test, got 'dev'"):
        own(tmp_path, "dev")


def test_both_kinds_in_one_folder(tmp_path):
    make(tmp_path, "a_hazy.jpg", "a_gt.png", "b_1_hazy.png", "b_1_GT.png", "cover.png")
    assert names(own(tmp_path, "test").pairs) == [
        ("a_hazy.jpg", "a_gt.png"),
        ("b_1_hazy.png", "b_1_GT.png"),
    ]


def test_val_is_held_out_of_train_by_clear_picture_unless_it_has_a_folder(tmp_path):
    clear = [f"street_{i}.png" for i in range(1, 23)]
    hazy = [f"street_{i}_{kind}.png" for i in range(1, 23) for kind in ("hazy", "haze")]
    make(tmp_path / "train" / "input", *hazy)
    make(tmp_path / "train" / "target", *clear)
    train, val = (own(tmp_path, split).pairs for split in ("train", "val"))
    assert {pair.clear.name for pair in val} == {"street_20.png"} and len(val) == 2
    assert {pair.clear.name for pair in train} == set(clear) - {"street_20.png"}
    assert len(train) == 42
    make(tmp_path / "valid" / "hazy", "x_1.png")
    make(tmp_path / "valid" / "clear", "x.png")
    assert len(own(tmp_path, "train").pairs) == 44
    assert names(own(tmp_path, "val").pairs) == [("x_1.png", "x.png")]
    with pytest.raises(FileNotFoundError, match="no pairs .test. in"):
        own(tmp_path, "test")


def test_a_wrong_folder_says_what_was_looked_for_and_what_is_there(tmp_path):
    def message(root):
        with pytest.raises(FileNotFoundError) as caught:
            own(root, "test")
        return str(caught.value)

    text = message(tmp_path / "nowhere")
    assert (
        "looked for {.}/{test,.}/{hazy,haze,input,in} with {clear,gt,target,clean} beside it"
        in text
    )
    assert "or pictures like 01_hazy with 01_GT" in text
    assert text.endswith("the folder does not exist")
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert message(tmp_path).endswith("found notes.txt, photos/")
    assert message(tmp_path / "notes.txt").endswith("it is a file")
    make(tmp_path / "Hazy", "a.png")
    assert message(tmp_path).endswith(f"in {str(tmp_path)!r} found Hazy/, notes.txt, photos/")
    (tmp_path / "Clear").mkdir()
    assert message(tmp_path).endswith(f"{str(tmp_path / 'Clear')!r} holds no {', '.join(SUFFIXES)}")
    (tmp_path / "Hazy" / "a.png").unlink()
    assert message(tmp_path).endswith(f"{str(tmp_path / 'Hazy')!r} holds no {', '.join(SUFFIXES)}")
