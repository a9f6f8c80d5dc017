"""The published sets in VOC's format, and BDD100K."""

import json

import pytest
from miniature_detection import BDD_OLD, DWD_FOLDERS, bdd100k, dwd, voc

from ibnvision.data import build_domain
from ibnvision.data.check import check_set

TARGETS = {
    "dwd_night_clear": "night_sunny",
    "dwd_dusk_rainy": "dusk_rainy",
    "dwd_night_rainy": "night_rainy",
    "dwd_daytime_foggy": "daytime_foggy",
}


def test_sim10k_is_cars_to_train_on(tmp_path):
    files = {"3384645": [("car", 1, 1, 9, 9), ("motorbike", 2, 2, 4, 4)], "3384800": []}
    root = voc(tmp_path / "sim10k" / "VOC2012", files).parents[1]
    data = build_domain("sim10k", "train", root=root)
    assert len(data) == 2 and data[0]["target"]["boxes"].tolist() == [[0, 0, 9, 9]]
    facts = data.facts()
    assert facts["left_out"] == {"motorbike": 1} and facts["objects"] == {"car": 1}
    assert facts["notes"] == ["2 images, 10000 as published"]
    assert facts["split"] == "all images (no official split)"
    assert list(check_set("sim10k", root)) == [("sim10k", "train", 2, [])]
    with pytest.raises(
        ValueError, match="must be one of train, got 'test' .Sim10k has no official"
    ):
        build_domain("sim10k", "test", root=root)
    with pytest.raises(
        FileNotFoundError, match="no Sim10k in .*looked for {jpegimages} with {annotat"
    ):
        build_domain("sim10k", "train", root=tmp_path / "nowhere")


@pytest.mark.parametrize("above", ["", "diverseWeather"])
def test_dwd(tmp_path, above):
    dwd(tmp_path / above)
    source = {s: build_domain("dwd_daytime_clear", s, root=tmp_path) for s in ("train", "test")}
    assert [r.image.stem for r in source["train"].records] == ["daytime_clear-0", "daytime_clear-1"]
    assert [r.image.stem for r in source["test"].records] == ["daytime_clear-2"]
    assert source["test"].facts()["split"] == "test, the list test.txt"
    assert source["train"].facts()["notes"] == ["2 images, 19395 as published"]
    published = {"night_clear": 26158, "dusk_rainy": 3501, "night_rainy": 2494}
    for domain, folder in TARGETS.items():
        data = build_domain(domain, "test", root=tmp_path)
        assert [r.image.stem for r in data.records] == [f"{folder}-0", f"{folder}-1"]
        number = DWD_FOLDERS.index(folder)
        target = data[0]["target"]
        assert target["boxes"].tolist() == [[0, 0, 2 + number, 4]] and target["labels"] == 2
        facts = data.facts()
        assert facts["split"] == "test, the list train.txt (no test list was published)"
        count = published.get(domain[4:], 3775)
        assert facts["notes"] == [f"2 images, {count} as published"]
        assert facts["left_out"] == {"train": 1 * 2}
        with pytest.raises(ValueError, match=f"split of {domain} must be one of test, got 'train'"):
            build_domain(domain, "train", root=tmp_path)
    found = list(check_set("dwd", tmp_path))
    assert [(f.domain, f.split, f.items) for f in found[:2]] == [
        ("dwd_daytime_clear", "train", 2),
        ("dwd_daytime_clear", "test", 1),
    ]
    assert [f.domain for f in found[2:]] == list(TARGETS)
    assert all("the class 'train', which is none of bus" in f.problems[0] for f in found)


def test_dwd_without_folders_or_lists(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no dwd_dusk_rainy in .*in {dusk.rainy,dusk.rainy/v"
    ):
        build_domain("dwd_dusk_rainy", "test", root=tmp_path)
    dwd(tmp_path)
    (tmp_path / "dusk_rainy" / "VOC2007" / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no dwd_dusk_rainy \(test\) .*ImageSets/Main/train.txt.*found Ann"
    ):
        build_domain("dwd_dusk_rainy", "test", root=tmp_path)


def test_rtts(tmp_path):
    files = {
        "AM_1": [("motorbike", 1, 1, 9, 9), ("Person", 2, 2, 4, 4, 1)],
        "AM_2": [("bicycle", 3, 3, 4, 4), ("cat", 1, 1, 2, 2)],
    }
    voc(tmp_path / "RESIDE" / "RTTS", files)
    data = build_domain("rtts_boxes", "test", root=tmp_path)
    assert data[0]["target"]["labels"].tolist() == [5, 1]
    assert data[0]["target"]["ignore"].tolist() == [False, True]
    assert data[1]["target"]["boxes"].tolist() == [[2, 2, 4, 4]]
    assert data.facts()["notes"] == ["2 images, 4322 as published"]
    (found,) = check_set("rtts_boxes", tmp_path)
    assert "the class 'cat', which is none of person, bicycle, car, bus, mot" in found.problems[0]
    with pytest.raises(ValueError, match="one of test, got 'train' .RTTS is a test set"):
        build_domain("rtts_boxes", "train", root=tmp_path)


def test_bdd100k_of_2018(tmp_path):
    data = build_domain("bdd100k_boxes", "val", root=bdd100k(tmp_path))
    assert [record.image.name for record in data.records] == ["b1.jpg", "b0.jpg"]
    target = data[0]["target"]
    assert target["boxes"].tolist() == [[3.5, 4, 10.5, 12], [0, 0, 2, 2]]  # the last pixel counts
    assert target["labels"].tolist() == [8, 1] and not target["ignore"].any()
    assert data[1]["target"]["labels"].tolist() == [9]
    facts = data.facts()
    assert facts["notes"] == ["1 images are not in bdd100k_labels_images_val.json and left out"]
    assert "person = pedestrian" in facts["label_map"] and data.check() == []
    test = build_domain("bdd100k_boxes", "test", root=tmp_path)
    assert test.records == data.records and "test labels are not public" in test.facts()["split"]
    found = list(check_set("bdd100k_boxes", tmp_path))
    assert [(f.split, f.items, f.problems) for f in found] == [
        (split, 2, []) for split in ("train", "val", "test")
    ]


@pytest.mark.parametrize("above", ["", "bdd100k"])
def test_newer_file_of_bdd100k_wins(tmp_path, above):
    bdd100k(bdd100k(tmp_path / above), newer=True)
    data = build_domain("bdd100k_boxes", "train", root=tmp_path)
    target = data[0]["target"]
    assert target["labels"].tolist() == [1, 3, 8] and data[1]["target"]["boxes"].shape == (0, 4)
    assert target["ignore"].tolist() == [True, True, False]  # a crowd, another vehicle
    assert data.facts()["images_without_objects"] == 1


def test_misfit_bdd100k(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no BDD100K with boxes \(val\) in .*images/100k/val.*det_val.json"
    ):
        build_domain("bdd100k_boxes", "val", root=tmp_path)
    bdd100k(tmp_path)
    path = tmp_path / "labels" / "bdd100k_labels_images_val.json"
    for content, words in (
        ([*BDD_OLD, BDD_OLD[0]], "two images are called b1.jpg"),
        ([{"labels": []}], "KeyError: 'name'"),
        ([{"name": "b0.jpg", "labels": [{"box2d": {"x1": 1}}]}], "KeyError: 'y1'"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="must hold BDD100K's list of images.*" + words):
            build_domain("bdd100k_boxes", "val", root=tmp_path)
    path.write_text(json.dumps([*BDD_OLD, {"name": "b9.jpg"}]))
    with pytest.raises(FileNotFoundError, match="1 of the 3 images of .*, such as 'b9.jpg'"):
        build_domain("bdd100k_boxes", "val", root=tmp_path)
