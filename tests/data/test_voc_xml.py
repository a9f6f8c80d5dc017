import pytest
from miniature_detection import VOC, voc, xml

from ibnvision.data import build_domain, classes, splits
from ibnvision.data.check import check_set
from ibnvision.data.voc import read

NAME = "voc_xml"
LISTS = {"train": ["a_10", "a_1"], "val": ["a_2"], "trainval": list(VOC)}


def build(root, split="test", **options):
    return build_domain(NAME, split, root=root, **options)


@pytest.mark.parametrize("above", ["", "VOC2012", "VOCdevkit/VOC2007"])
def test_lists_choose_and_order(tmp_path, above):
    voc(tmp_path / above, lists=LISTS)
    assert splits(NAME, tmp_path) == ("train", "val")
    assert classes(NAME, tmp_path) == ("car", "Person")  # as often as person, seen first
    train = build(tmp_path, "train")
    assert [record.image.stem for record in train.records] == ["a_10", "a_1"]
    assert [record.image.stem for record in build(tmp_path, "val").records] == ["a_2"]
    assert train.facts()["split"] == "train, your list train.txt"
    tested = build(tmp_path, "test")
    assert [record.image.stem for record in tested.records] == ["a_2"]
    assert tested.facts()["split"] == "val, as there is no test split, your list val.txt"


def test_pixels_count_from_one_and_the_last_is_included(tmp_path):
    data = build(voc(tmp_path))
    assert [record.image.stem for record in data.records] == ["a_1", "a_2", "a_10"]
    first, empty, last = (data[i]["target"] for i in range(3))
    assert first["boxes"].tolist() == [[4, 2, 14, 8], [0, 0, 48, 24]]
    assert first["area"].tolist() == [60, 1152] and first["labels"].tolist() == [1, 2]
    assert first["ignore"].tolist() == [False, True]  # difficult
    assert empty["boxes"].shape == (0, 4)
    assert last["boxes"].tolist() == [[1.5, 2.5, 4, 9], [9, 9, 10, 10]]  # one pixel
    assert "x0 = xmin - 1" in data.facts()["box_convention"] and data.check() == []
    assert data.facts()["images_without_objects"] == 1
    assert data.facts()["objects"] == {"car": 2, "Person": 1}


def test_a_corner_at_zero_is_cut_and_no_problem(tmp_path):
    data = build(voc(tmp_path, {"a": [("car", 0, 0, 48, 24)]}))
    assert data[0]["target"]["boxes"].tolist() == [[0, 0, 48, 24]] and data.check() == []


def test_missing_tags_and_sizes(tmp_path):
    data = build(voc(tmp_path, {"a": [("car", 1, 1, 4, 4)]}, tags=False, size=None))
    assert data[0]["target"]["ignore"].tolist() == [False] and data.check() == []
    path = data.records[0].source
    path.write_text(xml([("car", 1, 1, 4, 4)], (0, 0)))
    assert read(path)[1] is None


@pytest.mark.parametrize(
    "layout", [("images", "annotations"), ("JPEGImages", "Annotations"), (".", ".")]
)
def test_folders_of_splits(tmp_path, layout):
    images, labels = layout
    for split in ("train", "valid"):
        voc(tmp_path / split, images=images, labels=labels)
    assert splits(NAME, tmp_path) == ("train", "val")
    assert [len(build(tmp_path, split)) for split in ("train", "val")] == [3, 3]
    found = list(check_set(NAME, tmp_path))
    assert [(f.split, f.items, f.problems) for f in found] == [("train", 3, []), ("val", 3, [])]


def test_flat_folder_is_a_test_set(tmp_path):
    voc(tmp_path, images="images", labels="annotations")
    assert splits(NAME, tmp_path) == ("test",) and len(build(tmp_path)) == 3
    with pytest.raises(ValueError, match="must hold train/ to give a train split"):
        build(tmp_path, "train")


def test_classes_txt_chooses_and_orders(tmp_path):
    root = voc(tmp_path)
    (root / "classes.txt").write_text("PERSON\n\n")
    data = build(root)
    assert data[0]["target"]["labels"].tolist() == [1] and data[2]["target"]["labels"].tolist() == [
        1
    ]
    assert data.facts()["left_out"] == {"car": 2}


def test_list_lines_with_a_mark_and_names_with_blanks(tmp_path):
    files = {"a b": [("car", 1, 1, 2, 2)], "c": [], "d": []}
    voc(tmp_path, files, {"train": ["a b", "c  -1", "d 1"], "test": ["a b  1"]})
    assert [r.image.stem for r in build(tmp_path, "train").records] == ["a b", "c", "d"]
    assert [r.image.stem for r in build(tmp_path, "test").records] == ["a b"]


def test_what_is_missing_is_named(tmp_path):
    root = voc(tmp_path, lists={"test": ["a_1", "b_7"]})
    with pytest.raises(
        FileNotFoundError, match="1 of the 2 pictures of .*test.txt.*, such as 'b_7'"
    ):
        build(root)
    (root / "ImageSets" / "Main" / "test.txt").unlink()
    (root / "Annotations" / "a_2.xml").unlink()
    with pytest.raises(
        FileNotFoundError,
        match="1 of 3 images have no boxes.*looked for a_2.xml in .*found a_1.xml",
    ):
        build(root)
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        build(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no element found"),
        ("<annotation><object><name>car</name></object></annotation>", "an object has no bndbox"),
        (xml([("", 1, 1, 2, 2)]), "an object has no name"),
        (xml([("car", "x", 1, 2, 2)]), "could not convert string to float: 'x'"),
        (xml([("car", 1, 1, 2, 2)]).replace("ymax", "ymin2"), "the bndbox of a car lacks a corner"),
    ],
)
def test_files_that_are_no_voc(tmp_path, text, words):
    root = voc(tmp_path)
    path = root / "Annotations" / "a_2.xml"
    path.write_text(text)
    with pytest.raises(
        ValueError, match="a_2.xml' must be XML of Pascal VOC, with a name and xmin"
    ):
        build(root)
    (root / "classes.txt").write_text("car\nperson\n")
    (problem,) = build(root).check()
    assert words in problem
