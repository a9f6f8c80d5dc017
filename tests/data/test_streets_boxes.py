import json

import numpy as np
import pytest
import torch

from ibnvision.data import DOMAINS, build_domain, classes, palette
from ibnvision.data.corrupted import Corrupted
from ibnvision.data.corruptions import corrupt, corruption_seed
from ibnvision.data.streets import BOX_DTYPE, DOMAIN_SHIFTS, Scene, Streets
from ibnvision.data.streets_boxes import StreetsBoxes, boxes_of
from ibnvision.data.streets_set import write_set

BOXED = [f"{name}_boxes" for name in DOMAIN_SHIFTS]


def made(*rows):
    """A scene of 20x30 with these boxes: (category, xyxy, occlusion, truncation)."""
    boxes = np.zeros(len(rows), BOX_DTYPE)
    for box, (category, xyxy, occlusion, truncation) in zip(boxes, rows, strict=True):
        box["category"], box["xyxy"] = category, xyxy
        box["occlusion"], box["truncation"] = occlusion, truncation
    grey = np.zeros((20, 30), np.float32)
    label = np.zeros((20, 30), np.uint8)
    return Scene(np.zeros((20, 30, 3), np.float32), grey, label, grey, boxes, np.eye(3), 1.5)


def test_which_boxes_are_ignored_and_where_they_end():
    found = boxes_of(
        made(
            (0, (1, 2, 11, 8.5), 0.8, 0.8),
            (1, (-4, 2, 6, 8), 0, 0),
            (2, (0, 0, 4, 4), 0.81, 0),
            (3, (0, 0, 4, 4), 0, 0.81),
            (3, (0, 0, 3.5, 9), 0, 0),
            (0, (27, 0, 40, 9), 0, 0.5),  # 3 px wide within the picture
            (0, (30, 0, 40, 9), 0, 0),
        )
    )
    assert found.xyxy.tolist()[:2] == [[1, 2, 11, 8.5], [0, 2, 6, 8]] and len(found.xyxy) == 6
    assert found.labels.tolist() == [1, 2, 3, 4, 4, 1]
    assert found.ignore.tolist() == [False, False, True, True, True, True]
    assert found.area.tolist()[:2] == [65, 36]


@pytest.mark.parametrize("domain", BOXED)
def test_every_appearance(domain):
    data = build_domain(domain, "test", preset="tiny", limit=2)
    item = data[1]
    plain = Streets(domain.removesuffix("_boxes"), "test", preset="tiny")
    image = torch.from_numpy(plain.picture(1)[0].copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(item["image"], image, rtol=0, atol=0)
    assert item["domain"] == domain and item["target"]["image_id"] == 1
    expected = plain.scene(1).boxes
    np.testing.assert_array_equal(item["target"]["boxes"].numpy(), expected["xyxy"])
    np.testing.assert_array_equal(item["target"]["labels"].numpy(), expected["category"] + 1)
    assert DOMAINS[domain].stress == (domain[8:14] in ("sketch", "invert"))
    assert classes(domain) == ("car", "truck", "person", "bicycle")
    assert len(np.unique(palette(classes(domain)), axis=0)) == 4


def test_scenes_without_objects_stay_unless_dropped():
    kept, dropped = (
        build_domain("streets_day_boxes", "test", preset="tiny", empty=rule)
        for rule in ("keep", "drop")
    )
    empty = [i for i in range(16) if not (~kept.boxes(i).ignore).any()]
    assert empty and len(kept) == 16 and len(dropped) == 16 - len(empty)
    ids = [int(dropped.picture(i)[1]["image_id"]) for i in range(len(dropped))]
    assert ids == [i for i in range(16) if i not in empty]
    facts = kept.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["images_without_objects"] == len(empty) and facts["empty_images"] == "kept"
    total = sum(len(kept.boxes(i).labels) for i in range(16))
    assert sum(facts["objects"].values()) + facts["ignored_objects"] == total
    assert dropped.facts()["images_without_objects"] == 0
    assert dropped.facts()["empty_images"] == "dropped"
    assert kept.fingerprint() != dropped.fingerprint()


def test_kept_pictures_and_boxes_are_shared(tmp_path, monkeypatch):
    first = StreetsBoxes("streets_fog_boxes", "val", preset="tiny", limit=4)
    expected = [first[i] for i in range(4)]
    first.keep(tmp_path)
    Streets("streets_fog", "val", preset="tiny", limit=4).keep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # pictures, boxes
    StreetsBoxes("streets_day_boxes", "val", preset="tiny", limit=4).keep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3  # the boxes are the same
    monkeypatch.setattr(Streets, "scene", None)  # nothing is drawn from here on
    again = StreetsBoxes("streets_fog_boxes", "val", preset="tiny", limit=4)
    again.keep(tmp_path)
    for item, other in zip(expected, (again[i] for i in range(4)), strict=True):
        assert torch.equal(item["image"], other["image"])
        for key, value in item["target"].items():
            assert torch.equal(value, other["target"][key]) and value.dtype == (
                other["target"][key].dtype
            )


def test_a_set_on_disk_read_back_has_the_same_boxes(tmp_path):
    write_set(tmp_path, "streets_fog", "tiny", "test", limit=5, overwrite=True)
    disk = build_domain("coco_json", "test", root=tmp_path)
    drawn = build_domain("streets_fog_boxes", "test", preset="tiny", limit=5)
    assert classes("coco_json", tmp_path) == classes("streets_fog_boxes") and len(disk) == 5
    for item, other in ((disk[i], drawn[i]) for i in range(5)):
        assert torch.equal(item["image"], other["image"])
        for key, value in other["target"].items():
            torch.testing.assert_close(item["target"][key], value, rtol=1e-5, atol=2e-3)
    assert disk.check() == []


def test_bad_arguments():
    with pytest.raises(KeyError, match="unknown domain 'streets_fog'; did you mean 'streets_fog_b"):
        StreetsBoxes("streets_fog", "test")
    with pytest.raises(ValueError, match="empty must be one of keep, drop, got 'no'"):
        build_domain("streets_fog_boxes", "test", empty="no")
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        build_domain("streets_fog_boxes", "test", limit=0)
    with pytest.raises(IndexError, match=r"\[0, 2\), got 2"):
        build_domain("streets_fog_boxes", "test", preset="tiny", limit=2)[2]


def test_corruptions_take_the_depth_of_a_scene():
    clean = build_domain("streets_day_boxes", "test", preset="tiny", limit=2)
    foggy = Corrupted(clean, "fog_depth", 5)
    assert clean.scene(1).depth.shape == (32, 48)
    item, before = foggy[1], clean[1]
    assert item["domain"] == "streets_day_boxes@fog_depth_5"
    seed = corruption_seed(int(before["target"]["image_id"]), "fog_depth", 5)
    depth = torch.tensor(clean.scene(1).depth)
    expected = corrupt(before["image"], "fog_depth", 5, seed, depth=depth)
    assert torch.equal(item["image"], expected) and not torch.equal(expected, before["image"])
    assert torch.equal(item["target"]["boxes"], before["target"]["boxes"])
    assert foggy.facts()["severity"] == 5 and foggy.facts()["images"] == 2
