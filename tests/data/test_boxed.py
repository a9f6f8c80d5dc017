import json

import cv2
import numpy as np
import pytest
import torch
from miniature_detection import COCO, coco, voc, xml
from miniature_segmentation import write_image

from ibnvision.data import build_domain
from ibnvision.data.boxed import Boxed, Record
from ibnvision.data.boxes import ClassNames, Row, annotation


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def made(folder, image, *boxes, **options):
    """A set of one picture; boxes of class a."""
    path = folder / "image.png"
    cv2.imwrite(str(path), image[..., ::-1])
    names = ClassNames(("a",))
    read = lambda record: annotation([Row(box, "a") for box in boxes], names, "'made'")  # noqa: E731
    return Boxed(
        "made", [Record(path, folder / "none", 3)], read, names=names, home=folder,
        split="train", convention="x", **options,
    )  # fmt: skip


@pytest.fixture
def places(tmp_path):
    """Each pixel says where it is: red its row, green its column; one box is 16 x 10."""
    rows, columns = np.indices((40, 60), dtype=np.uint8)
    picture = np.stack([4 * rows, 4 * columns, 0 * rows], axis=-1)
    return made(tmp_path, picture, (20, 12, 36, 22), (59, 39, 60, 40))


def test_item(tmp_path):
    data = build_domain("coco_json", "val", root=coco(tmp_path))
    item = data[0]
    assert item["image"].dtype == torch.float32 and item["image"].shape == (3, 24, 48)
    assert item["domain"] == "coco_json" and (item["image"][2] * 255).round().unique() == 40
    image, target = data.picture(0)
    assert image.dtype == np.uint8 and image.shape == (24, 48, 3)
    for key, value in target.items():
        assert torch.equal(item["target"][key], value)
    assert {key: value.dtype for key, value in target.items()} == {
        "boxes": torch.float32,
        "labels": torch.int64,
        "ignore": torch.bool,
        "area": torch.float32,
        "image_id": torch.int64,
    }
    with pytest.raises(IndexError, match=r"\[0, 3\), got 3"):
        data[3]


def test_boxes_are_cut_to_the_picture(tmp_path):
    picture = np.zeros((10, 20, 3), np.uint8)
    data = made(tmp_path, picture, (-1, 2, 4, 6), (3, 3, 25, 30), (20, 0, 22, 4))
    target = data[0]["target"]
    assert target["boxes"].tolist() == [[0, 2, 4, 6], [3, 3, 20, 10]]
    assert target["area"].tolist() == [16, 119] and target["image_id"] == 3
    assert len(data.check()) == 2  # half a pixel and one pixel outside are nothing


def test_facts_are_plain_and_complete(tmp_path):
    data = build_domain("coco_json", "val", root=coco(tmp_path))
    facts = data.facts()
    assert json.loads(json.dumps(facts)) == facts
    hashes = facts.pop("files_sha256"), facts.pop("annotations_sha256")
    assert all(len(digest) == 64 for digest in hashes)
    assert facts == {
        "protocol": "native",
        "input": "native size",
        "label_map": "car, dog, toothbrush",
        "box_convention": "COCO x, y, width, height in pixels, as they stand",
        "split": "val, your file annotations/instances_val2017.json",
        "images": 3,
        "empty_images": "kept",
        "images_without_objects": 1,
        "objects": {"car": 0, "dog": 1, "toothbrush": 1},
        "ignored_objects": 1,
        "left_out": {},
        "notes": [],
    }


def test_images_without_objects_are_kept_or_dropped_and_the_rule_is_recorded(tmp_path):
    root = coco(tmp_path)
    kept, dropped = (build_domain("coco_json", "val", root=root, empty=e) for e in ("keep", "drop"))
    assert [r.image_id for r in kept.records] == [40, 7, 9]
    assert [r.image_id for r in dropped.records] == [40, 7]
    assert kept[2]["target"]["boxes"].shape == (0, 4) and kept[2]["target"]["labels"].shape == (0,)
    facts = dropped.facts()
    assert facts["empty_images"] == "dropped" and facts["images_without_objects"] == 0
    assert facts["notes"] == ["1 of 3 images dropped, which show no object"]
    assert kept.fingerprint() != dropped.fingerprint()
    with pytest.raises(ValueError, match="empty must be one of keep, drop, got 'all'"):
        build_domain("coco_json", "val", root=root, empty="all")
    only_ignored = {**COCO, "annotations": COCO["annotations"][1:2]}
    root = coco(tmp_path / "b", content=only_ignored)
    with pytest.raises(ValueError, match=r"coco_json \(val, .*\) has no images in"):
        build_domain("coco_json", "val", root=root, empty="drop")


def test_limit_is_evenly_spaced_and_noted(tmp_path):
    files = {f"p{i}": [] for i in range(10)}
    data = build_domain(
        "voc_xml", "test", root=voc(tmp_path, {**files, "p10": [("a", 1, 1, 2, 2)]}), limit=3
    )
    assert [r.image_id for r in data.records] == [0, 3, 7]
    assert data.facts()["notes"] == ["3 of 11 images, evenly spaced"]
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        build_domain("voc_xml", "test", root=tmp_path, limit=0)


def test_fingerprint_follows_pictures_boxes_and_classes(tmp_path):
    build = lambda root: build_domain("coco_json", "val", root=root)  # noqa: E731
    data = build(coco(tmp_path / "a"))
    before = data.fingerprint()
    assert before == build(coco(tmp_path / "b")).fingerprint()
    (tmp_path / "b" / "classes.txt").write_text("dog\ncar\ntoothbrush\n")
    assert before != build(tmp_path / "b").fingerprint()
    moved = [{**COCO["annotations"][0], "bbox": [5, 2, 10, 6.25]}, *COCO["annotations"][1:]]
    other = build(coco(tmp_path / "c", content={**COCO, "annotations": moved}))
    assert before != other.fingerprint()
    assert data.facts()["files_sha256"] == other.facts()["files_sha256"]
    assert data.facts()["annotations_sha256"] != other.facts()["annotations_sha256"]
    image = data.records[0].image
    image.write_bytes(image.read_bytes() + b"0")
    assert before != data.fingerprint()


def test_nothing_is_written_into_the_folder(tmp_path):
    root = coco(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    data = build_domain("coco_json", "train", root=root)
    data[0], data.draw(0, seeded(), (16, 16)), data.facts(), data.fingerprint(), data.check()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_check_names_every_problem(tmp_path):
    files = {
        "a": [("car", 1, 1, 48, 24)],
        "b": [("car", 2, 2, 50, 9), ("tram", 1, 1, 2, 2), ("car", 9, 2, 8, 9)],
        "c": [("car", 1, 1, 2, 2)],
        "d": [],
        "e": [],
    }
    root = voc(tmp_path, files)
    (root / "classes.txt").write_text("car\n")
    write_image(root / "JPEGImages" / "c.jpg", 1, (24, 40))
    (root / "JPEGImages" / "d.jpg").write_bytes(b"no picture")
    (root / "Annotations" / "e.xml").write_text("<annotation><object>")
    data = build_domain("voc_xml", "test", root=root)
    tram, extent, outside, size, unread, broken = data.check()
    assert "b.xml' holds the class 'tram', which is none of car: left out" in tram
    assert "b.xml' has a box without extent, 8, 1, 8, 9: left out" in extent
    assert "b.xml' (b.jpg) has the box 1, 1, 50, 9 (x0, y0, x1, y1), which ends outs" in outside
    assert "c.xml' describes a picture of 24x48 (height x width), but" in size
    assert "c.jpg' is 24x40" in size
    assert f"cannot read {str(root / 'JPEGImages' / 'd.jpg')!r} as a picture" in unread
    assert "e.xml' must be XML of Pascal VOC" in broken
    assert data.check(None, [0]) == [] == data.check((900, 900), [0])
    assert len(data.check(None, [1, 2])) == 4


def test_same_generator_same_crop(places):
    first, again, other = (places.draw(0, seeded(i), (16, 24), scale=(0.5, 2.0)) for i in (3, 3, 4))
    assert torch.equal(first["image"], again["image"])
    for key, value in first["target"].items():
        assert torch.equal(value, again["target"][key])
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].shape == (3, 16, 24) and first["domain"] == "made"


def test_boxes_of_a_crop_surround_what_they_did(places):
    """The corners of the box are at rows 12, 22 and columns 20, 36: the pixels say so."""
    seen = set()
    for seed in range(150):
        item = places.draw(0, seeded(seed), (20, 30))
        where = (item["image"][:2] * 255 / 4).round()
        top, left = (int(v) for v in where[:, 0, 0])
        expected = [max(20 - left, 0), max(12 - top, 0), min(36 - left, 30), min(22 - top, 20)]
        share = max(expected[2] - expected[0], 0) * max(expected[3] - expected[1], 0) / 160
        found = [box for box in item["target"]["boxes"].tolist() if box[3] - box[1] > 1]
        assert found == ([expected] if share >= 0.3 else [])
        corner = [[59 - left, 39 - top, 60 - left, 40 - top]]
        small = [box for box in item["target"]["boxes"].tolist() if box[3] - box[1] <= 1]
        assert small == (corner if (left, top) == (30, 20) else [])
        seen.add(len(found) + 2 * (share == 1))
    assert seen == {0, 1, 3}  # gone, cut and whole


@pytest.mark.parametrize("scale", [(0.2, 0.4), (0.5, 3.0)])
def test_scaled_boxes_are_never_degenerate_and_hold_their_object(tmp_path, scale):
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[12:22, 20:36] = 255
    data = made(tmp_path, picture, (20, 12, 36, 22), (0, 0, 60, 40), (5, 5, 6, 6))
    for seed in range(60):
        item = data.draw(0, seeded(seed), (24, 24), scale=scale)
        xyxy, labels = item["target"]["boxes"], item["target"]["labels"]
        assert ((xyxy[:, 2:] - xyxy[:, :2]) >= 1).all() and len(labels) == len(xyxy)
        assert (xyxy >= 0).all() and (xyxy <= 24).all()
        area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
        torch.testing.assert_close(item["target"]["area"], area)
        bright = item["image"].amin(0) > 0.9
        if bright.any() and len(xyxy):
            ys, xs = torch.nonzero(bright, as_tuple=True)
            hull = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            assert (xyxy - hull).abs().amax(1).min() <= 1.5 or bright.sum() < 0.5 * area.max()


def test_a_picture_smaller_than_the_crop_lies_on_padding_with_its_boxes(tmp_path):
    data = made(tmp_path, np.full((8, 10, 3), 255, np.uint8), (0, 0, 10, 8))
    corners = set()
    for seed in range(40):
        item = data.draw(0, seeded(seed), (12, 16))
        ((x0, y0, x1, y1),) = item["target"]["boxes"].int().tolist()
        assert (x1 - x0, y1 - y0) == (10, 8)
        white = item["image"].amin(0) == 1
        assert white[y0:y1, x0:x1].all() and white.sum() == 80
        corners.add((x0, y0))
    assert len(corners) > 15
    with pytest.raises(ValueError, match="scale must be"):
        data.draw(0, seeded(), (8, 8), scale=(2.0, 1.0))


def test_xml_helper_is_well_formed():
    assert xml([("a", 1, 2, 3, 4)], None, tags=False).count("<pose>") == 0
