import cv2
import numpy as np
import pytest
import torch

from ibnvision.data import DOMAINS, build_domain

# scenes 1, 2, 20 and 21, two hazy pictures each
ITS = [f"{scene}_{k}_0.9{k}.png" for scene in (1, 2, 20, 21) for k in (1, 2)]
ITS_CLEAR = ["1.png", "2.png", "20.png", "21.png"]
OTS = [f"{scene}_{a}_0.04.jpg" for scene in ("0005", "0020", "0100", "0041") for a in (0.8, 1)]
OTS_CLEAR = ["0005.jpg", "0020.jpg", "0041.jpg", "0100.jpg", "7000.jpg"]
INDOOR, INDOOR_CLEAR = ["1400_1.png", "1400_2.png", "1401_10.png"], ["1400.png", "1401.png"]
OUTDOOR, OUTDOOR_CLEAR = ["0001_0.8_0.2.jpg", "0002_1_0.08.jpg"], ["0001.png", "0002.png"]
HAZE4K, HAZE4K_CLEAR = ["1_0.68_0.66.png", "20_0.59_1.95.png"], ["1.png", "20.png"]


def grey(path, level=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), level, np.uint8))


def make(root, hazy_folder, hazy, clear_folder, clear):
    for folder, names in ((hazy_folder, hazy), (clear_folder, clear)):
        for level, name in enumerate(names):
            grey(root / folder / name, 10 * level)


def pairs(domain, split, root):
    return [(p.hazy.name, p.clear.name) for p in build_domain(domain, split, root=root).pairs]


def scenes(found):
    return {int(hazy.split("_")[0]) for hazy, _ in found}


@pytest.mark.parametrize(
    ("hazy", "clear", "root"),
    [
        ("train/hazy", "train/clear", "."),  # DEA-Net, its dataset/ITS
        ("dataset/ITS/train/hazy", "dataset/ITS/train/clear", "dataset"),
        ("hazy", "clear", "."),
        ("ITS_v2/hazy", "ITS_v2/clear", "."),
        ("ITS/train/ITS_haze", "ITS/train/ITS_clear", "ITS"),  # the RESIDE download
        ("RESIDE/ITS/train/ITS_haze", "RESIDE/ITS/train/ITS_clear", "."),
        ("reside-indoor/train/hazy", "reside-indoor/train/gt", "."),  # ConvIR
        ("Train/HAZY", "Train/Clear", "."),
    ],
)
def test_layouts_of_its(tmp_path, hazy, clear, root):
    make(tmp_path, hazy, ITS, clear, ITS_CLEAR)
    train, val = (pairs("its", split, tmp_path / root) for split in ("train", "val"))
    assert val == [("20_1_0.91.png", "20.png"), ("20_2_0.92.png", "20.png")]
    assert [hazy for hazy, _ in train] == [n for n in ITS if not n.startswith("20_")]
    assert all(clear == f"{hazy.split('_')[0]}.png" for hazy, clear in train)


def test_clear_pictures_named_like_hazy_ones_split_by_scene(tmp_path):
    make(tmp_path, "RESIDE-IN/train/hazy", ITS, "RESIDE-IN/train/GT", ITS)  # DehazeFormer
    train, val = (pairs("its", split, tmp_path) for split in ("train", "val"))
    assert all(hazy == clear for hazy, clear in train + val)
    assert scenes(val) == {20} and scenes(train) == {1, 2, 21}


def test_val_of_its_is_its_own_folder_where_there_is_one(tmp_path):
    make(tmp_path, "ITS/train/ITS_haze", ITS, "ITS/train/ITS_clear", ITS_CLEAR)
    make(tmp_path, "ITS/val/haze", ["7_1_0.8.png"], "ITS/val/clear", ["7.png"])
    assert pairs("its", "val", tmp_path) == [("7_1_0.8.png", "7.png")]
    assert [hazy for hazy, _ in pairs("its", "train", tmp_path)] == ITS


@pytest.mark.parametrize(
    ("hazy", "clear", "root"),
    [
        (["OTS/train/hazy"], "OTS/train/clear", "OTS"),  # DEA-Net
        (["part1", "part2", "part3", "part4"], "clear", "."),
        (["hazy/part1", "hazy/part2", "hazy/part3", "hazy/part4"], "clear", "."),
        (["OTS_ALPHA/haze/OTS"], "OTS_ALPHA/clear/clear_images", "."),
        (["OTS_ALPHA/OTS"], "OTS_ALPHA/clear_images", "OTS_ALPHA"),
        (["RESIDE-OUT/train/hazy"], "RESIDE-OUT/train/GT", "."),
    ],
)
def test_layouts_of_ots(tmp_path, hazy, clear, root):
    for part, folder in enumerate(hazy):
        make(tmp_path, folder, OTS[part :: len(hazy)], clear, OTS_CLEAR)
    (tmp_path / hazy[0] / "part1.zip").write_text("")
    train, val = (pairs("ots", split, tmp_path / root) for split in ("train", "val"))
    assert sorted(hazy for hazy, _ in train + val) == sorted(OTS)
    assert scenes(val) == {20, 100} and scenes(train) == {5, 41}
    assert all(clear == f"{hazy.split('_')[0]}.jpg" for hazy, clear in train + val)


@pytest.mark.parametrize(
    ("indoor", "outdoor", "gt", "root"),
    [
        ("SOTS/indoor", "SOTS/outdoor", "gt", "SOTS"),
        ("SOTS/indoor", "SOTS/outdoor", "clear", "."),
        ("SOTS/indoor/nyuhaze500", "SOTS/outdoor", "gt", "SOTS"),
        ("SOTS/nyuhaze500", "SOTS/outdoor", "gt", "SOTS"),
        ("SOTS/SOTS/indoor/nyuhaze500", "SOTS/SOTS/outdoor", "GT", "."),
        ("ITS/test", "OTS/test", "clear", "."),  # DEA-Net: they are SOTS
        ("RESIDE-IN/test", "RESIDE-OUT/test", "GT", "."),
    ],
)
def test_layouts_of_sots(tmp_path, indoor, outdoor, gt, root):
    make(tmp_path / indoor, "hazy", INDOOR, gt, INDOOR_CLEAR)
    make(tmp_path / outdoor, "hazy", OUTDOOR, gt, OUTDOOR_CLEAR)
    assert pairs("sots_indoor", "test", tmp_path / root) == [
        ("1400_1.png", "1400.png"),
        ("1400_2.png", "1400.png"),
        ("1401_10.png", "1401.png"),
    ]
    assert pairs("sots_outdoor", "test", tmp_path / root) == list(
        zip(OUTDOOR, OUTDOOR_CLEAR, strict=True)
    )
    assert pairs("sots_indoor", "test", tmp_path / indoor) == pairs(
        "sots_indoor", "test", tmp_path / root
    )


def test_the_other_half_of_sots_is_not_taken_for_this_one(tmp_path):
    make(tmp_path / "indoor", "hazy", INDOOR, "gt", INDOOR_CLEAR)
    make(tmp_path / "outdoor", "hazy", OUTDOOR, "gt", OUTDOOR_CLEAR)
    with pytest.raises(ValueError, match=r"SOTS indoor must be named like 1400_1, got .*0001_0.8_"):
        build_domain("sots_indoor", "test", root=tmp_path / "outdoor")
    with pytest.raises(
        ValueError, match=r"SOTS outdoor must be named like 0001_0.8_0.2, got .*140"
    ):
        build_domain("sots_outdoor", "test", root=tmp_path / "indoor")


def test_sots_indoor_takes_the_centre_of_the_clear_picture(tmp_path):
    rng = np.random.default_rng(0)
    clear = rng.integers(0, 256, (480, 640, 3), np.uint8)
    hazy = rng.integers(0, 256, (460, 620, 3), np.uint8)
    for folder, name, picture in (("gt", "1400.png", clear), ("hazy", "1400_1.png", hazy)):
        grey(tmp_path / folder / name)
        cv2.imwrite(str(tmp_path / folder / name), picture)
    data = build_domain("sots_indoor", "test", root=tmp_path)
    shown, target = data.picture(0)
    np.testing.assert_array_equal(shown, hazy[..., ::-1])
    np.testing.assert_array_equal(target, clear[10:470, 10:630, ::-1])
    expected = torch.from_numpy(np.float32(clear[10:470, 10:630, ::-1]) / 255).permute(2, 0, 1)
    assert torch.equal(data[0]["target"], expected)
    # any other set must not be cut: there the same sizes are a mistake
    (tmp_path / "hazy" / "1400_1.png").rename(tmp_path / "hazy" / "0001_1_0.2.png")
    (tmp_path / "gt" / "1400.png").rename(tmp_path / "gt" / "0001.png")
    with pytest.raises(
        ValueError, match=r"gt.0001.png' must have.*480x640.*0001_1_0.2.png' 460x62"
    ):
        build_domain("sots_outdoor", "test", root=tmp_path)[0]
    # nor a difference that the rule does not know
    grey(tmp_path / "indoor" / "gt" / "1400.png", size=(479, 640))
    grey(tmp_path / "indoor" / "hazy" / "1400_1.png", size=(460, 620))
    with pytest.raises(ValueError, match="10 pixels larger on each side: it is 479x640"):
        build_domain("sots_indoor", "test", root=tmp_path)[0]


@pytest.mark.parametrize(
    ("home", "hazy", "clear"),
    [
        ("HAZE4K", "hazy", "clear"),  # DEA-Net
        ("Haze4K/Haze4K", "haze", "gt"),  # the download, with trans beside them
        ("Haze4K", "IN", "GT"),
    ],
)
def test_layouts_of_haze4k(tmp_path, home, hazy, clear):
    for split in ("train", "test"):
        make(tmp_path / home / split, hazy, HAZE4K, clear, HAZE4K_CLEAR)
        grey(tmp_path / home / split / "trans" / "1.png")
    for root in (tmp_path, tmp_path / home):
        assert pairs("haze4k", "train", root) == [("1_0.68_0.66.png", "1.png")]
        assert pairs("haze4k", "val", root) == [("20_0.59_1.95.png", "20.png")]
        assert pairs("haze4k", "test", root) == list(zip(HAZE4K, HAZE4K_CLEAR, strict=True))


@pytest.mark.parametrize("folder", ["RTTS/JPEGImages", "RESIDE/RTTS/JPEGImages", "JPEGImages", ""])
def test_rtts_is_read_and_never_scored(tmp_path, folder):
    make(tmp_path, folder, ["AM_Bing_211.png", "AM_Bing_9.png"], folder, [])
    data = build_domain("rtts", "unpaired", root=tmp_path)
    assert [data[i]["name"] for i in range(2)] == ["AM_Bing_9.png", "AM_Bing_211.png"]
    assert data[0]["domain"] == "rtts" and "target" not in data[0]
    assert torch.equal(data[0]["image"], torch.full((3, 8, 8), 10.0) / 255)
    assert data.picture(0).shape == (8, 8, 3) and data.picture(0).max() == 10
    with pytest.raises(ValueError, match="no clear pictures, so it cannot be trained on or scored"):
        build_domain("rtts", "test", root=tmp_path)


def test_wrong_folder_and_missing_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no RESIDE ITS .train. in.*its_haze.*not exist"):
        build_domain("its", "train", root=tmp_path / "nowhere")
    make(tmp_path, "ITS/train/hazy", ITS, "ITS/train/trans", ITS)
    with pytest.raises(FileNotFoundError, match=r"ITS/train' found hazy/, trans/$"):
        build_domain("its", "train", root=tmp_path)
    make(tmp_path, "ITS/train/hazy", ITS, "ITS/train/clear", ITS_CLEAR[1:])
    with pytest.raises(
        FileNotFoundError, match=r"2 of 8 hazy .*1_1_0.91.png': looked for 1_1_0.91 or"
    ):
        build_domain("its", "val", root=tmp_path)


def test_splits_and_arguments(tmp_path):
    make(tmp_path, "hazy", ITS, "clear", ITS_CLEAR)
    with pytest.raises(
        ValueError, match=r"train, val, got 'test' \(its is tested on sots_indoor\)"
    ):
        build_domain("its", "test", root=tmp_path)
    with pytest.raises(
        ValueError, match="split of haze4k must be one of train, val, test, got 'de"
    ):
        build_domain("haze4k", "dev", root=tmp_path)
    assert len(build_domain("its", "train", root=tmp_path, limit=3, size=(16, 16))) == 3
    with pytest.raises(
        ValueError, match=r"its is read from a folder: give root=DIR .*--data its=DI"
    ):
        build_domain("its", "train")
    for name, row in DOMAINS.items():
        if row.task == "dehazing":
            assert row.classes == () and name.startswith(row.data_key)
