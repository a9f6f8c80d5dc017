import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from miniature_segmentation import cityscapes, train_ids, write_image

from ibnvision.data import build_domain
from ibnvision.data.label_maps import LABEL_MAPS, decode
from ibnvision.data.labelled import Labelled


def build(root, **options):
    return build_domain("cityscapes", "val", root=root, **options)


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def test_item_under_both_protocols(tmp_path):
    cityscapes(tmp_path)
    item = build(tmp_path)[1]
    assert item["image"].dtype == torch.float32 and item["image"].shape == (3, 24, 48)
    assert (item["image"][:, 3, 3] * 255).round().tolist() == [10, 80, 40]
    assert item["target"].dtype == torch.int64 and item["domain"] == "cityscapes"
    np.testing.assert_array_equal(item["target"].numpy(), train_ids(1))
    half = build(tmp_path, protocol="half")[1]
    assert half["image"].shape == (3, 512, 1024)
    np.testing.assert_array_equal(half["target"].numpy(), train_ids(1))


def test_facts_are_plain_and_follow_protocol_and_limit(tmp_path):
    data = build(cityscapes(tmp_path), protocol="half", limit=1)
    facts = data.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert len(facts.pop("files_sha256")) == 64
    assert facts == {
        "protocol": "half",
        "input": "1024x512, target at native size",
        "label_map": "cityscapes_ids",
        "split": "val, official folders",
        "images": 1,
        "notes": ["1 of 2 images, evenly spaced"],
    }
    assert data.protocol == "half" and build(tmp_path).facts()["protocol"] == "native"


def test_fingerprint_follows_names_sizes_map_and_protocol(tmp_path):
    before = build(cityscapes(tmp_path / "a")).fingerprint()
    assert before == build(cityscapes(tmp_path / "b" / "cityscapes")).fingerprint()
    assert before == build(tmp_path / "b").fingerprint()
    assert before != build(tmp_path / "a", protocol="half").fingerprint()
    assert before != build(tmp_path / "a", limit=1).fingerprint()
    assert before != build(cityscapes(tmp_path / "c", train_id_files=True)).fingerprint()
    data = build(tmp_path / "a")
    other = Labelled("x", data.files, decode, home=data.home, label_map="other", split="val")
    assert before != other.fingerprint() and data.facts() == build(tmp_path / "b").facts()
    image = data.files[0][0]
    image.write_bytes(image.read_bytes() + b"0")
    assert before != data.fingerprint()
    assert data.facts()["files_sha256"] != build(tmp_path / "b").facts()["files_sha256"]


def test_check_names_every_problem(tmp_path):
    data = build_domain("cityscapes", "train", root=cityscapes(tmp_path))
    assert data.check() == [] and data.check((2000, 2000), [0]) == []
    (image, label), (_, other) = data.files[0], data.files[1]
    write_image(image, 1, (24, 40))
    other.write_bytes(b"not a picture")
    size, unread = data.check()
    assert f"image {str(image)!r} and label {str(label)!r} must have one size" in size
    assert "24x40 and 24x48" in size and f"cannot read {str(other)!r} as a picture" in unread
    assert data.check(None, [2, 3]) == []
    data.files[2][0].write_bytes(data.files[2][0].read_bytes()[:60])
    assert data.files[2][0].name in data.check(None, [2])[0]


def test_bad_arguments(tmp_path):
    data = build(cityscapes(tmp_path))
    with pytest.raises(IndexError, match=r"\[0, 2\), got 2"):
        data[2]
    with pytest.raises(IndexError, match="got -1"):
        data.picture(-1)
    with pytest.raises(KeyError, match="unknown protocol 'naive'; did you mean 'native'"):
        build(tmp_path, protocol="naive")
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        build(tmp_path, limit=0)


def made(tmp_path, image, label):
    """A set of one picture."""
    paths = tmp_path / "image.png", tmp_path / "label.png"
    cv2.imwrite(str(paths[0]), image[..., ::-1])
    cv2.imwrite(str(paths[1]), label)
    read = lambda path: decode(path, LABEL_MAPS["train_ids"])  # noqa: E731
    return Labelled("made", [paths], read, home=tmp_path, label_map="x", split="train")


@pytest.fixture
def places(tmp_path):
    """Each pixel says where it is: red its row, green its column; one pixel has class 5."""
    rows, columns = np.indices((40, 60), dtype=np.uint8)
    label = np.zeros((40, 60), np.uint8)
    label[31, 7] = 5
    return made(tmp_path, np.stack([4 * rows, 4 * columns, 0 * rows], axis=-1), label)


def test_same_generator_same_crop(places):
    first, again, other = (places.draw(0, seeded(i), (16, 24), scale=(0.5, 2.0)) for i in (3, 3, 4))
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["target"], again["target"])
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].shape == (3, 16, 24) and first["target"].shape == (16, 24)


def test_crop_without_scale_is_a_part_of_the_picture(places):
    corners = set()
    for seed in range(200):
        item = places.draw(0, seeded(seed), (38, 57))
        top, left = (int(v) for v in (item["image"][:2, 0, 0] * 255 / 4).round())
        image, label = places.picture(0)
        part = item["image"].permute(1, 2, 0).numpy() * 255
        np.testing.assert_allclose(part, image[top : top + 38, left : left + 57], atol=0.01)
        expected = label[top : top + 38, left : left + 57]
        np.testing.assert_array_equal(item["target"].numpy(), expected)
        corners.add((top, left))
    assert corners == {(y, x) for y in range(3) for x in range(4)}  # every place, none outside


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.2, 0.4), (0.5, 3.0)])
def test_centre_is_inside_anywhere(places, scale):
    found = []
    for seed in range(60):
        item = places.draw(0, seeded(seed), (20, 20), scale=scale, centre=(31, 7))
        red, green = item["image"][0] * 255 / 4, item["image"][1] * 255 / 4
        inside = (item["target"] != 255) & ((red - 31).abs() < 3) & ((green - 7).abs() < 3)
        assert inside.any()
        found.append(int(inside.nonzero()[0, 0]))
        if scale[0] >= 1:
            assert (item["target"] == 5).sum() == 1
    assert max(found) - min(found) > 5


def test_scale_is_uniform_in_the_factor(tmp_path):
    image = np.zeros((30, 30, 3), np.uint8)
    data = made(tmp_path, image, np.zeros((30, 30), np.uint8))
    sides = []
    for seed in range(400):
        target = data.draw(0, seeded(seed), (64, 64), scale=(0.5, 2.0))["target"]
        (rows,), (columns,) = ((target == 0).any(i).nonzero(as_tuple=True) for i in (1, 0))
        assert len(rows) == len(columns)  # one factor for both sides
        sides.append(len(rows))
    assert 15 <= min(sides) <= 17 and 58 <= max(sides) <= 60
    assert np.mean(sides) == pytest.approx(30 * 1.25, abs=2)  # log-uniform would give 32.5
    assert np.mean(np.array(sides) < 30) == pytest.approx(1 / 3, abs=0.08)


def test_padding_has_the_mean_colour_and_is_ignored(tmp_path):
    image = np.full((10, 12, 3), 255, np.uint8)
    data = made(tmp_path, image, np.full((10, 12), 3, np.uint8))
    tops = set()
    for seed in range(40):
        item = data.draw(0, seeded(seed), (16, 20))
        inside = item["target"] == 3
        assert inside.sum() == 120 and (item["target"][~inside] == 255).all()
        assert (item["image"][:, inside] == 1).all()
        outside = (item["image"][:, ~inside] * 255).round().T.unique(dim=0)
        assert outside.tolist() == [[124, 116, 104]]
        tops.add(int(inside.any(1).nonzero()[0]))
    assert tops == set(range(7))


def test_image_is_antialiased_where_it_shrinks_and_label_never_mixed(tmp_path):
    lines = np.zeros((64, 64), np.uint8)
    lines[:, ::4] = 255
    data = made(tmp_path, np.repeat(lines[..., None], 3, 2), np.where(lines, 8, 2).astype(np.uint8))
    item = data.draw(0, seeded(), (12, 12), scale=(0.25, 0.25))
    assert item["image"].mean() == pytest.approx(0.25, abs=0.02)
    assert item["image"].std() < 0.05  # a subsampled picture would be all black or all white
    assert set(item["target"].unique().tolist()) <= {2, 8}


def test_bad_draws(places):
    with pytest.raises(ValueError, match=r"size must be \(height, width\).*got \(0, 4\)"):
        places.draw(0, seeded(), (0, 4))
    with pytest.raises(ValueError, match=r"0 < low <= high, got \(2.0, 1.0\)"):
        places.draw(0, seeded(), (8, 8), scale=(2.0, 1.0))
    with pytest.raises(ValueError, match=r"centre must lie in the image of 40x60, got \(40, 3\)"):
        places.draw(0, seeded(), (8, 8), centre=(40, 3))


def test_files_are_read_upright_as_stored(tmp_path):
    """A label has no EXIF orientation, so that of an image must not turn it."""
    from PIL import Image

    data = made(tmp_path, np.zeros((8, 12, 3), np.uint8), np.zeros((8, 12), np.uint8))
    path = Path(tmp_path) / "image.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path, exif=exif)
    data.files = [(path, data.files[0][1])]
    assert data.picture(0)[0].shape == (8, 12, 3)
