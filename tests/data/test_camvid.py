from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ibnvision.data import CLASSES, IGNORED, build_domain
from ibnvision.data.camvid import ORIGINAL_CLASSES, CamVid, label_map

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "camvid"
FRAMES = {
    "train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390", "0016E5_00420"],
    "val": ["0016E5_07959"],
    "test": ["0001TP_008550", "Seq05VD_f00000", "Seq05VD_f00030", "Seq05VD_f00060"],
}


@pytest.fixture(params=[".png", ".jpg"])
def made(tmp_path, request):
    """A miniature CamVid: 12 stripes, one per mask value, on 24 x 48 frames of one colour."""
    return make(tmp_path / "CamVid", request.param)


def make(root, suffix=".png"):
    mask = np.repeat(np.arange(12, dtype=np.uint8), 4)[None].repeat(24, 0)
    for number, (split, names) in enumerate(FRAMES.items()):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for name in names:
            image = np.zeros((24, 48, 3), np.uint8)
            image[:] = (40, 80, 120 + number)  # BGR
            cv2.imwrite(str(root / split / f"{name}{suffix}"), image)
            cv2.imwrite(str(root / f"{split}annot" / f"{name}.png"), mask)
    return root


def test_domains_go_by_sequence(made):
    stems = {
        (domain, split): [frame.stem for frame, _ in CamVid(domain, split, root=made).files]
        for domain, split in (
            ("camvid_day", "train"),
            ("camvid_day", "val"),
            ("camvid_day", "test"),
            ("camvid_dusk", "train"),
            ("camvid_dusk", "test"),
        )
    }
    assert stems["camvid_day", "train"] == FRAMES["train"][1:]
    assert stems["camvid_day", "val"] == FRAMES["val"]
    assert stems["camvid_day", "test"] == FRAMES["test"][1:]
    assert stems["camvid_dusk", "train"] == FRAMES["train"][:1]
    assert stems["camvid_dusk", "test"] == FRAMES["test"][:1]


def test_labels_and_colour_order(made):
    item = CamVid("camvid_day", "test", root=made.parent)[0]  # the folder above serves too
    expected = ["sky", "building", "pole", "road", "sidewalk", "vegetation", None, None]
    expected += ["car", "person", None, None]
    values = [IGNORED if n is None else CLASSES.index(n) for n in expected]
    assert item["target"][0, ::4].tolist() == values
    assert item["domain"] == "camvid_day"
    rgb = item["image"][:, 3, 3] * 255
    assert torch.allclose(rgb, torch.tensor([122.0, 80.0, 40.0]), atol=3)
    original = CamVid("camvid_day", "test", root=made, original_classes=True)[0]
    assert original["target"][0, ::4].tolist() == [*range(11), IGNORED]
    assert len(ORIGINAL_CLASSES) == 11 and (label_map(True)[11:] == IGNORED).all()


def test_size_and_limit(made):
    data = build_domain("camvid_day", "test", root=made, size=(16, 24))
    assert data[0]["image"].shape == (3, 16, 24) and data[0]["target"].shape == (16, 24)
    assert data[0]["target"][0, 0] == CLASSES.index("sky")
    assert build_domain("camvid_day", "test", root=made, preset="tiny")[0]["target"].shape == (
        32,
        48,
    )
    few = CamVid("camvid_day", "test", root=made, limit=2)
    assert [frame.stem for frame, _ in few.files] == ["Seq05VD_f00000", "Seq05VD_f00030"]


def test_fingerprint_follows_files_size_and_labels(made):
    before = CamVid("camvid_day", "test", root=made).fingerprint()
    assert before == CamVid("camvid_day", "test", root=made.parent).fingerprint()
    assert before != CamVid("camvid_day", "test", root=made, size=(16, 24)).fingerprint()
    assert before != CamVid("camvid_day", "test", root=made, original_classes=True).fingerprint()
    frame, mask = CamVid("camvid_day", "test", root=made).files[0]
    frame.write_bytes(frame.read_bytes() + b"0")
    assert before != CamVid("camvid_day", "test", root=made).fingerprint()


def test_wrong_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="looked for train/ and.*does not exist"):
        CamVid("camvid_day", "test", root=tmp_path / "nowhere")
    (tmp_path / "leftImg8bit").mkdir()
    with pytest.raises(FileNotFoundError, match="found leftImg8bit/"):
        CamVid("camvid_day", "test", root=tmp_path)
    root = make(tmp_path / "CamVid")
    for frame in (root / "test").glob("Seq05VD*"):
        frame.unlink()
    with pytest.raises(ValueError, match="needs frames of Seq05VD in .*test.*found 1 pictures"):
        CamVid("camvid_day", "test", root=root)


def test_bad_files_are_named(tmp_path):
    root = make(tmp_path)
    data = CamVid("camvid_day", "test", root=root)
    masks = root / "testannot"
    cv2.imwrite(str(masks / "Seq05VD_f00000.png"), np.zeros((24, 40), np.uint8))
    with pytest.raises(ValueError, match=r"mask .*Seq05VD_f00000.png' is 40x24, its frame 48x24"):
        data[0]
    cv2.imwrite(str(masks / "Seq05VD_f00030.png"), np.full((24, 48), 77, np.uint8))
    with pytest.raises(ValueError, match=r"Seq05VD_f00030.png' must be one 8-bit.*maximum 77"):
        data[1]
    (root / "test" / "Seq05VD_f00060.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"cannot read '.*Seq05VD_f00060.png' as a picture"):
        data[2]
    (masks / "Seq05VD_f00060.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"Seq05VD_f00060.png' has no mask: looked for"):
        CamVid("camvid_day", "test", root=root)


def test_bad_arguments(tmp_path):
    root = make(tmp_path)
    with pytest.raises(KeyError, match="unknown domain 'camvid_dsk'; did you mean 'camvid_dusk'"):
        CamVid("camvid_dsk", "test", root=root)
    with pytest.raises(ValueError, match="camvid_dusk must be one of train, test, got 'val'"):
        CamVid("camvid_dusk", "val", root=root)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        CamVid("camvid_dusk", "test", root=root, limit=0)
    with pytest.raises(IndexError, match=r"\[0, 3\), got 3"):
        CamVid("camvid_day", "test", root=root)[3]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no CamVid in {SHARED.parent.name}/{SHARED.name}")
def test_real_frames():
    counts = {
        ("camvid_day", "train"): 305,
        ("camvid_day", "val"): 101,
        ("camvid_day", "test"): 171,
        ("camvid_dusk", "train"): 62,
        ("camvid_dusk", "test"): 62,
    }
    for (domain, split), count in counts.items():
        assert len(CamVid(domain, split, root=SHARED)) == count
    day = CamVid("camvid_day", "test", root=SHARED, limit=12)
    dusk = CamVid("camvid_dusk", "test", root=SHARED, limit=12)
    assert day[0]["image"].shape == (3, 360, 480)
    means = [np.mean([d.picture(i)[0].mean() for i in range(12)]) for d in (day, dusk)]
    assert means[0] > 85 and means[1] < 75  # a dusk frame is about half as bright
    labels = np.bincount(np.concatenate([day.picture(i)[1].ravel() for i in range(12)]))
    assert labels[CLASSES.index("road")] > 0.15 * labels.sum()
