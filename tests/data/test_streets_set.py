import json

import cv2
import numpy as np
import pytest

from ibnvision.data.streets import Streets
from ibnvision.data.streets_set import CAPTION_PX, contact_sheet, draw_boxes, write_set


def test_set_on_disk_holds_the_items(tmp_path):
    out = write_set(tmp_path / "a" / "set", "streets_fog", "tiny", "test", limit=3)
    data = Streets("streets_fog", "test", preset="tiny", limit=3)
    facts = json.loads((out / "boxes.json").read_text())
    assert len(facts["images"]) == 3
    assert facts["info"]["fingerprint"] == data.fingerprint()
    for index, entry in enumerate(facts["images"]):
        image, label = data.picture(index)
        s = data.scene(index)
        name = entry["file_name"].split("/")[1]
        np.testing.assert_array_equal(cv2.imread(str(out / "images" / name))[..., ::-1], image)
        np.testing.assert_array_equal(cv2.imread(str(out / "masks" / name), -1), label)
        depth = cv2.imread(str(out / "depth" / name), cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16
        np.testing.assert_allclose(depth / 100, s.depth, atol=0.0051)
        np.testing.assert_allclose(entry["camera"], s.camera, atol=1e-6)
        mine = [a for a in facts["annotations"] if a["image_id"] == index]
        assert len(mine) == len(s.boxes)
        for row, box in zip(mine, s.boxes, strict=True):
            x, y, w, h = row["bbox"]
            np.testing.assert_allclose([x, y, x + w, y + h], box["xyxy"], atol=2e-3)
            np.testing.assert_allclose(row["center_m"], box["center"], atol=1e-3)
            assert row["category_id"] == box["category"] + 1
    ids = [a["id"] for a in facts["annotations"]]
    assert ids == list(range(len(ids)))
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape == (CAPTION_PX + 3 * 32, 11 * 48, 3)
    assert sorted(p.name for p in out.parent.iterdir()) == ["set"]  # no stage left


def test_existing_folders(tmp_path):
    out = write_set(tmp_path / "set", "streets_day", "tiny", limit=2)
    with pytest.raises(FileExistsError, match="set' exists"):
        write_set(out, "streets_day", "tiny", limit=1)
    write_set(out, "streets_day", "tiny", limit=1, overwrite=True)
    assert len(list((out / "images").iterdir())) == 1
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not a set written before"):
        write_set(precious, "streets_day", "tiny", limit=1, overwrite=True)
    assert (precious / "letter.txt").read_text() == "dear"


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    with pytest.raises(OSError, match="cannot write .*000000.png"):
        write_set(tmp_path / "set", "streets_day", "tiny", limit=1)
    assert list(tmp_path.iterdir()) == []


def test_unknown_domain_writes_nothing(tmp_path):
    with pytest.raises(KeyError, match="unknown domain"):
        write_set(tmp_path / "set", "camvid_day", "tiny")
    assert list(tmp_path.iterdir()) == []


def test_contact_sheet_and_boxes():
    sheet = contact_sheet(seed=1, count=2, height=48, width=64, domains=("streets_day",))
    assert sheet.shape == (CAPTION_PX + 96, 4 * 64, 3)
    data = Streets("streets_day", "train", preset="quick", limit=1)
    image, _ = data.picture(0)
    before = image.copy()
    drawn = draw_boxes(image, data.scene(0).boxes)
    np.testing.assert_array_equal(image, before)
    assert (drawn != image).any()
