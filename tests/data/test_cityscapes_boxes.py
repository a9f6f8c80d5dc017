import cv2
import numpy as np
import pytest
from miniature_detection import cityscapes_instances, instance_ids
from miniature_segmentation import cityscapes, cityscapes_foggy

from ibnvision.data import build_domain
from ibnvision.data.check import check_set

NAMES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
# of instance_ids(): the cars, the person, the regions of groups; x0, y0, x1, y1
EXPECTED = {
    (3, False): [[2, 4, 12, 10], [30, 12, 40, 20]],
    (1, False): [[4, 6, 6, 8]],
    (1, True): [[40, 20, 44, 22], [44, 2, 48, 5]],
    (3, True): [[0, 15, 4, 17]],
}


def rows(target):
    found = {}
    for box, label, ignore in zip(
        *(target[key].tolist() for key in ("boxes", "labels", "ignore")), strict=True
    ):
        found.setdefault((label, ignore), []).append(box)
    return {key: sorted(boxes) for key, boxes in found.items()}


def test_boxes_of_instances_and_groups(tmp_path):
    root = cityscapes_instances(cityscapes(tmp_path))
    data = build_domain("cityscapes_boxes", "val", root=root)
    target = data[0]["target"]
    assert rows(target) == {key: sorted(boxes) for key, boxes in EXPECTED.items()}
    areas = dict(zip(map(tuple, target["boxes"].tolist()), target["area"].tolist(), strict=True))
    assert areas[(2, 4, 12, 10)] == 60 - 4  # visible pixels: a person stands in front
    assert areas[(0, 15, 4, 17)] == 4 and areas[(30, 12, 40, 20)] == 80
    assert data[1]["target"]["boxes"].shape == (0, 4) and len(data) == 2  # negative, kept
    facts = data.facts()
    assert facts["objects"] == {**dict.fromkeys(NAMES, 0), "person": 1, "car": 2}
    assert facts["ignored_objects"] == 3 and facts["images_without_objects"] == 1
    assert facts["split"] == "val, official folders" and facts["left_out"] == {}
    found = list(check_set("cityscapes_boxes", root))
    assert found == [
        ("cityscapes_boxes", s, n, []) for s, n in (("train", 4), ("val", 2), ("test", 2))
    ]


def test_cars_alone(tmp_path):
    root = cityscapes_instances(cityscapes(tmp_path))
    data = build_domain("cityscapes_car_boxes", "test", root=root)
    assert rows(data[0]["target"]) == {(1, False): EXPECTED[3, False], (1, True): EXPECTED[3, True]}
    assert data.check() == [] and data.facts()["left_out"] == {"person": 3}


def test_fog_of_three_densities_shares_the_boxes(tmp_path):
    root = cityscapes_foggy(cityscapes_instances(cityscapes(tmp_path)))
    everything = build_domain("cityscapes_foggy_all_boxes", "test", root=root)
    assert len(everything) == 6 and len({record.image for record in everything.records}) == 6
    assert [record.image_id for record in everything.records] == list(range(6))
    assert everything.facts()["notes"] == ["fog of density 0.005, 0.01, 0.02"]
    assert everything.facts()["objects"]["car"] == 6
    for place, beta in enumerate(("005", "01", "02")):
        data = build_domain(f"cityscapes_foggy_{beta}_boxes", "test", root=root)
        assert len(data) == 2 and data.facts()["notes"] == [f"fog of density 0.{beta}"]
        image, target = data.picture(0)
        assert image[0, 0, 0] == 100 * place and rows(target) == rows(everything[0]["target"])
        assert [r.image for r in data.records] == [
            r.image for r in everything.records[2 * place : 2 * place + 2]
        ]


def test_misfits_are_named(tmp_path):
    root = cityscapes(tmp_path)
    with pytest.raises(FileNotFoundError, match="2 of 2 images have no label.*_instanceIds.png in"):
        build_domain("cityscapes_boxes", "val", root=root)
    cityscapes_instances(root)
    with pytest.raises(FileNotFoundError, match=r"no cityscapes_foggy_all_boxes \(val\) in"):
        build_domain("cityscapes_foggy_all_boxes", "val", root=root)
    data = build_domain("cityscapes_boxes", "val", root=root)
    path = data.records[0].source
    cv2.imwrite(str(path), np.zeros((24, 48, 3), np.uint8))
    cv2.imwrite(str(data.records[1].source), instance_ids()[:20])
    colours, size = data.check()
    assert (
        "must hold one 16-bit value a pixel, as Cityscapes publishes instanceIds, got u" in colours
    )
    assert "describes a picture of 20x48 (height x width), but" in size
    with pytest.raises(
        KeyError, match="unknown domain 'cityscapes_boxs'; did you mean 'cityscapes_"
    ):
        build_domain("cityscapes_boxs", "val", root=root)
