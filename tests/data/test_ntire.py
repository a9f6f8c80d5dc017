import cv2
import numpy as np
import pytest

from ibnvision.data import build_domain
from ibnvision.data.ntire import DOMAINS, SETS


def make(folder, *files):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(files):
        assert cv2.imwrite(str(folder / name), np.full((6, 6, 3), number, np.uint8))


def two_folders(root, numbers, kind="", suffix=".png"):
    make(root / "hazy", *(f"{n:02d}{kind}_hazy{suffix}" for n in numbers))
    make(root / "GT", *(f"{n:02d}{kind}_GT{suffix}" for n in numbers))


def one_folder(root, numbers):
    make(root, *(f"{n:02d}_{end}.png" for n in numbers for end in ("hazy", "GT")))


def numbers(domain, split, root):
    pairs = build_domain(domain, split, root=root).pairs
    found = [int(pair.hazy.name[:2]) for pair in pairs]
    assert found == [int(pair.clear.name[:2]) for pair in pairs]
    assert all("hazy" in pair.hazy.name and "GT" in pair.clear.name for pair in pairs)
    return found


@pytest.mark.parametrize(
    ("domain", "home", "kind", "suffix"),
    [
        ("o_haze", "O-HAZE/# O-HAZY NTIRE 2018", "_outdoor", ".jpg"),
        ("o_haze", "O_HAZY_NTIRE_2018", "_outdoor", ".JPG"),
        ("i_haze", "I-HAZE/# I-HAZY NTIRE 2018", "_indoor", ".jpg"),
        ("dense_haze", "Dense_Haze_NTIRE19", "", ".png"),
        ("nh_haze", "NH-HAZE", "", ".png"),
    ],
)
def test_layouts_with_two_folders(tmp_path, domain, home, kind, suffix):
    two_folders(tmp_path / home, range(1, 13), kind, suffix)
    for other in {"o_haze": "I-HAZE", "i_haze": "O-HAZE"}.get(domain, "NH-HAZE2"), "photos":
        two_folders(tmp_path / other, [50])
    for root in (tmp_path, tmp_path / home):
        assert numbers(domain, "test", root) == list(range(1, 13))


def test_layouts_with_one_folder_and_with_split_folders(tmp_path):
    one_folder(tmp_path / "NH-HAZE" / "NH-HAZE", range(1, 4))
    assert numbers("nh_haze", "test", tmp_path) == [1, 2, 3]
    assert numbers("nh_haze", "test", tmp_path / "NH-HAZE" / "NH-HAZE") == [1, 2, 3]
    two_folders(tmp_path / "O-HAZE" / "train", [1, 3, 4])
    two_folders(tmp_path / "O-HAZE" / "val", [5])
    two_folders(tmp_path / "O-HAZE" / "test", [2])
    assert numbers("o_haze", "test", tmp_path) == [1, 2, 3, 4, 5]


def test_the_two_protocols_are_two_domains(tmp_path):
    one_folder(tmp_path, [*range(1, 26), *range(31, 36)])  # I-HAZE as many have it
    assert numbers("i_haze", "test", tmp_path) == [*range(1, 26), *range(31, 36)]
    parts = {split: numbers("i_haze_last5", split, tmp_path) for split in ("train", "val", "test")}
    assert parts == {
        "train": list(range(1, 21)),
        "val": list(range(21, 26)),
        "test": list(range(31, 36)),
    }
    assert build_domain("i_haze_last5", "test", root=tmp_path)[0]["domain"] == "i_haze_last5"
    with pytest.raises(ValueError, match=r"must be one of test, got 'train' \(.*in i_haze_last5\)"):
        build_domain("i_haze", "train", root=tmp_path)
    assert DOMAINS == (*SETS, *(f"{name}_last5" for name in SETS))


def test_bad_folders(tmp_path):
    one_folder(tmp_path / "ten", range(1, 11))
    with pytest.raises(ValueError, match="nh_haze_last5 must have more than 10 pairs.*got 10"):
        build_domain("nh_haze_last5", "test", root=tmp_path / "ten")
    with pytest.raises(
        FileNotFoundError, match=r"no NH-HAZE .all. in .*01_hazy with 01_GT.*found ten/"
    ):
        build_domain("nh_haze", "test", root=tmp_path)
    two_folders(tmp_path / "train", [1, 2])
    two_folders(tmp_path / "test", [2])
    with pytest.raises(ValueError, match="one picture must be named '2', found"):
        build_domain("nh_haze", "test", root=tmp_path)
    (tmp_path / "ten" / "03_GT.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 10 hazy pictures.*03_hazy.png': looked for 3"
    ):
        build_domain("nh_haze", "test", root=tmp_path / "ten")
