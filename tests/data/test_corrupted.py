import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from ibnvision.data import build_domain
from ibnvision.data.corrupted import Corrupted
from ibnvision.data.corruptions import corrupt, corrupt_sample, corruption_seed


class Boxes(Dataset):
    """Three images of detection, the last without objects."""

    domain = "boxes"

    def __len__(self):
        return 3

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        rows = [] if index == 2 else [[8.0, 8.0, 24.0, 28.0], [30.0, 6.0, 44.0, 34.0]]
        boxes = torch.tensor(rows).view(-1, 4)
        target = {
            "boxes": boxes,
            "labels": torch.ones(len(boxes), dtype=torch.int64),
            "ignore": torch.zeros(len(boxes), dtype=torch.bool),
            "area": (boxes[:, 2:] - boxes[:, :2]).prod(1) / 2,
            "image_id": torch.tensor(100 + index),
        }
        image = torch.rand(3, 40, 50, generator=generator)
        return {"image": image, "target": target, "domain": self.domain}

    def fingerprint(self):
        return "f" * 64

    def facts(self):
        return {"split": "test"}


def streets(limit=2, domain="streets_day"):
    return build_domain(domain, "test", preset="tiny", limit=limit)


def test_items_of_segmentation_are_the_corrupted_ones():
    clean = streets()
    found = Corrupted(clean, "elastic_transform", 4, seed=3)
    assert len(found) == 2 and found.domain == "streets_day@elastic_transform_4"
    item = found[1]
    seed = corruption_seed(1, "elastic_transform", 4, 3)
    expected = corrupt_sample(
        clean[1]["image"], "elastic_transform", 4, seed, mask=clean[1]["target"]
    )
    assert torch.equal(item["image"], expected.image)
    assert torch.equal(item["target"], expected.mask) and item["target"].dtype == torch.int64
    assert item["domain"] == "streets_day@elastic_transform_4"
    assert not torch.equal(item["target"], clean[1]["target"])
    assert torch.equal(found[1]["image"], item["image"])  # read again, after another
    picture, label = found.picture(1)
    assert picture.dtype == np.uint8 and picture.shape == (32, 48, 3)
    assert np.array_equal(label, item["target"].numpy())


def test_fog_by_depth_takes_the_depth_of_the_scene():
    clean = streets()
    item = Corrupted(clean, "fog_depth", 3)[0]
    depth = torch.tensor(clean.scene(0).depth)
    seed = corruption_seed(0, "fog_depth", 3, 0)
    assert torch.equal(item["image"], corrupt(clean[0]["image"], "fog_depth", 3, seed, depth=depth))
    with pytest.raises(ValueError, match=r"fog_depth needs .* scene\(i\).depth .* got Boxes"):
        Corrupted(Boxes(), "fog_depth", 3)


def test_boxes_and_areas_are_carried():
    clean = Boxes()
    found = Corrupted(clean, "elastic_transform", 5)
    item, target = found[0], clean[0]["target"]
    seed = corruption_seed(100, "elastic_transform", 5, 0)  # by image_id
    expected = corrupt_sample(
        clean[0]["image"], "elastic_transform", 5, seed, boxes=target["boxes"]
    )
    boxes = item["target"]["boxes"]
    assert torch.equal(boxes, expected.boxes) and not torch.equal(boxes, target["boxes"])
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    torch.testing.assert_close(item["target"]["area"], sizes / 2)
    assert torch.equal(item["target"]["labels"], target["labels"])
    assert found[2]["target"]["boxes"].shape == (0, 4)
    still = Corrupted(clean, "snow", 5)[0]["target"]
    assert torch.equal(still["boxes"], target["boxes"])
    assert torch.equal(still["area"], target["area"])
    assert Corrupted(clean, "snow", 1).picture(0)[1]["image_id"] == 100


def test_facts_and_fingerprint_name_the_corruption():
    clean = streets()
    one = Corrupted(clean, "snow", 2, seed=1)
    named = {"corruption": "snow", "severity": 2, "corruption_seed": 1}
    assert one.facts() == named
    assert Corrupted(Boxes(), "snow", 2, seed=1).facts() == {"split": "test", **named}
    others = [
        Corrupted(clean, "fog", 2, seed=1),
        Corrupted(clean, "snow", 3, seed=1),
        Corrupted(clean, "snow", 2),
        Corrupted(streets(limit=1), "snow", 2, seed=1),
        clean,
    ]
    marks = {other.fingerprint() for other in others} | {one.fingerprint()}
    assert len(marks) == 6 and one.fingerprint() == Corrupted(streets(), "snow", 2, 1).fingerprint()


def test_what_cannot_be_corrupted_is_named():
    with pytest.raises(KeyError, match="unknown corruption 'rainy'"):
        Corrupted(Boxes(), "rainy", 1)
    with pytest.raises(ValueError, match="severity"):
        Corrupted(Boxes(), "rain", 6)
    pairs = build_domain("haze", "test", preset="tiny", limit=1)
    with pytest.raises(
        TypeError, match=r"masks \[H, W\] or dicts of boxes as targets, got torch.float32"
    ):
        Corrupted(pairs, "rain", 1)[0]
