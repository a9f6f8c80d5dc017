import json

import pytest
from miniature_detection import COCO, coco

from ibnvision.data import build_domain, classes, root_of, splits
from ibnvision.data.check import check_set

NAME = "coco_json"


def build(root, split="val", **options):
    return build_domain(NAME, split, root=root, **options)


@pytest.mark.parametrize("layout", ["official", "images", "roboflow", "flat"])
def test_layouts(tmp_path, layout):
    made = ("test",) if layout == "flat" else ("train", "val")
    coco(tmp_path, layout, made)
    assert splits(NAME, tmp_path) == made and classes(NAME, tmp_path) == (
        "car",
        "dog",
        "toothbrush",
    )
    for split in made:
        data = build(tmp_path, split)
        assert [record.image.name for record in data.records] == ["a.jpg", "b.jpg", "c.jpg"]
        assert data.records[1].image.parent.name == "sub" and data.check() == []
        target = data[0]["target"]
        assert target["image_id"] == 40
        assert target["boxes"].tolist() == [[4.5, 2, 14.5, 8.25], [0, 0, 48, 24]]
        assert target["labels"].tolist() == [2, 1] and target["ignore"].tolist() == [False, True]
        assert target["area"].tolist() == [31.5, 900]
        other = data[1]["target"]
        assert other["boxes"].tolist() == [[40, 20, 48, 24]] and other["labels"].tolist() == [3]
        assert other["area"].tolist() == [32]  # of a box without an area
        assert data[2]["target"]["boxes"].shape == (0, 4)
    found = list(check_set(NAME, tmp_path))
    assert [(f.split, f.items, f.problems) for f in found] == [(s, 3, []) for s in made]


def test_flat_folder_is_a_test_set(tmp_path):
    coco(tmp_path, "flat", ["test"])
    with pytest.raises(ValueError, match="must hold train/ to give a train split: its images are"):
        build(tmp_path, "train")
    with pytest.raises(ValueError, match="split of coco_json must be one of train, val, test, got"):
        build(tmp_path, "dev")


def test_images_folder_beside_the_file(tmp_path):
    coco(tmp_path, "flat", ["test"])
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "c.jpg", "sub"):
        (tmp_path / name).rename(tmp_path / "images" / name)
    assert build(tmp_path, "test").records[1].image == tmp_path / "images" / "sub" / "b.jpg"


def test_pictures_elsewhere_by_their_whole_path(tmp_path):
    coco(tmp_path / "there", "flat", ["test"])
    rows = [{**r, "file_name": str(tmp_path / "there" / r["file_name"])} for r in COCO["images"]]
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "boxes.json").write_text(json.dumps({**COCO, "images": rows}))
    data = build(tmp_path / "here", "test")
    assert data.check() == [] and len(data.facts()["files_sha256"]) == 64


def test_classes_txt_chooses_and_orders(tmp_path):
    coco(tmp_path)
    (tmp_path / "classes.txt").write_text("Toothbrush\ncar\n")
    assert classes(NAME, tmp_path) == ("Toothbrush", "car")
    data = build(tmp_path)
    assert data[0]["target"]["labels"].tolist() == [2] and data[1]["target"]["labels"] == 1
    assert data.facts()["left_out"] == {"dog": 1}
    (problem,) = data.check()
    assert "(a.jpg) holds the class 'dog', which is none of Toothbrush, car: left out" in problem
    (tmp_path / "classes.txt").write_text("car\ncar\n")
    with pytest.raises(ValueError, match="must be unlike names, at least one, got .'car', 'car'"):
        classes(NAME, tmp_path)


def test_a_second_folder_is_a_domain_of_its_own(tmp_path):
    coco(tmp_path / "a"), coco(tmp_path / "b", "flat", ["test"])
    target = f"{NAME}:target"
    roots = {NAME: str(tmp_path / "a"), target: str(tmp_path / "b")}
    assert [root_of(name, roots) for name in roots] == list(roots.values())
    assert classes(target, roots[target]) == classes(NAME, roots[NAME])
    assert splits(target, roots[target]) == ("test",)
    data = build_domain(target, "test", root=roots[target])
    assert data[0]["domain"] == target and data.facts()["split"] == "test, your file boxes.json"
    assert [f.domain for f in check_set(target, tmp_path / "b")] == [target]
    assert {f.domain for f in check_set(NAME, tmp_path / "a")} == {NAME}


def write(root, **changes):
    return coco(root, "flat", ["test"], {**COCO, **changes})


def test_only_supercategory_of_roboflow_is_no_class(tmp_path):
    rows = [
        {"id": 0, "name": "fish", "supercategory": "none"},
        {"id": 1, "name": "fish", "supercategory": "fish"},
        {"id": 2, "name": "crab", "supercategory": "fish"},
    ]
    objects = [{"id": 1, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}]
    write(tmp_path, categories=rows, annotations=objects)
    assert classes(NAME, tmp_path) == ("fish", "crab")
    assert build(tmp_path, "test")[2]["target"]["labels"].tolist() == [1]
    rows[0]["name"] = "a name of its own"
    write(tmp_path, categories=rows[:1], annotations=[])
    assert classes(NAME, tmp_path) == ("a name of its own",)


def test_ignore_counts_as_iscrowd_does(tmp_path):
    rows = [{**COCO["annotations"][0], "ignore": 1}, {**COCO["annotations"][0], "id": 2}]
    data = build(write(tmp_path, annotations=rows), "test")
    assert data[0]["target"]["ignore"].tolist() == [True, False]


def test_problems_of_a_file_are_sentences(tmp_path):
    first = COCO["annotations"][0]
    rows = [
        first,
        {**first},
        {**first, "id": 20, "image_id": 1234},
        {**first, "id": 21, "bbox": None},
        {**first, "id": 22, "category_id": 5},
        {**first, "id": 23, "bbox": [4, 4, 0, 2]},
        {**first, "id": 24, "bbox": [44, 20, 9, 2]},
    ]
    images = [{**COCO["images"][0], "height": 25}, *COCO["images"][1:]]
    data = build(write(tmp_path, annotations=rows, images=images), "test")
    without, twice, lost, category, extent, size, outside = data.check()
    assert "has an object without bbox (id 21)" in without
    assert "has 1 objects of an id that another one has" in twice
    assert "has 1 objects of images that it does not list" in lost
    assert "(a.jpg) holds the class 'category 5', which is none of car, dog" in category
    assert "has a box without extent, 4, 4, 4, 6" in extent
    assert "describes a picture of 25x48 (height x width)" in size
    assert "has the box 44, 20, 53, 22" in outside
    assert len(data[0]["target"]["labels"]) == 3


def test_files_that_are_no_coco(tmp_path):
    twice = [COCO["images"][0], {**COCO["images"][1], "id": 40}]
    with pytest.raises(
        ValueError, match="images, annotations and cat.*: two images have the id 40"
    ):
        build(write(tmp_path, images=twice), "test")
    for text in ("[]", "{", '{"images": []}', '{"images": [{}], "categories": []}'):
        (tmp_path / "boxes.json").write_text(text)
        with pytest.raises(
            ValueError, match="boxes.json' must hold COCO's images, annotations and"
        ):
            build(tmp_path, "test")
    (found,) = check_set(NAME, tmp_path)
    assert found.items == 0 and "must hold COCO's images" in found.problems[0]
    write(tmp_path, categories=[])
    with pytest.raises(ValueError, match=r"must be unlike names, at least one, got \[\]"):
        build(tmp_path, "test")


def test_splits_must_agree(tmp_path):
    coco(tmp_path)
    other = {**COCO, "categories": COCO["categories"][:2]}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(other))
    with pytest.raises(
        ValueError, match="must name the same.*got car, dog, toothbrush and car, toothbrush; class"
    ):
        build(tmp_path)
    (tmp_path / "classes.txt").write_text("car\n")
    assert len(build(tmp_path)) == 3


def test_misfit_folders(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"no boxes of COCO's format \(train, val, test\) in .*looked for annotations/"
        r"instances_{train,val,valid,validation,test}\*.json and .* \(a test set\), in any case",
    ):
        build(tmp_path / "nowhere")
    (tmp_path / "stuff").mkdir()
    with pytest.raises(FileNotFoundError, match="in any case; found stuff/"):
        build(tmp_path, "test")
    coco(tmp_path)
    flat = tmp_path / "boxes.json"
    flat.write_text(json.dumps({**COCO, "images": []}))  # beside train and val it plays no part
    assert len(build(tmp_path, "test")) == 3  # that is val
    flat.unlink()
    (tmp_path / "val2017" / "c.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match="1 of the 3 images of .*, such as 'c.jpg': looked in .*val2017"
    ):
        build(tmp_path)
    (tmp_path / "val2017").rename(tmp_path / "pictures")
    with pytest.raises(
        FileNotFoundError,
        match="3 of the 3 .* 'a.jpg': looked in .*annotations.*found annotations/",
    ):
        build(tmp_path)
