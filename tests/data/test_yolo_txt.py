import cv2
import pytest
from miniature_detection import yolo
from miniature_segmentation import write_image

from ibnvision.data import build_domain, classes, splits
from ibnvision.data.check import check_set
from ibnvision.data.layout import SUFFIXES

NAME = "yolo_txt"


def build(root, split="train", **options):
    return build_domain(NAME, split, root=root, **options)


@pytest.mark.parametrize("below", [True, False])
def test_layouts_and_boxes(tmp_path, below):
    yolo(tmp_path, below=below)
    assert splits(NAME, tmp_path) == ("train", "val")
    assert classes(NAME, tmp_path) == ("tree", "ox cart")
    for split in ("train", "val"):
        data = build(tmp_path, split)
        assert [record.image.stem for record in data.records] == ["a", "b", "c", "d"]
        first = data[0]["target"]
        assert first["boxes"].tolist() == [[9, 9, 15, 15], [0, 0, 48, 24]]
        assert first["labels"].tolist() == [2, 1] and not first["ignore"].any()
        assert first["area"].tolist() == [36, 1152]
        assert [data[i]["target"]["boxes"].shape for i in (1, 2)] == [(0, 4), (0, 4)]
        outline = data[3]["target"]["boxes"][0].tolist()
        assert outline == pytest.approx([4.8, 6, 24, 18]) and data.check() == []
    facts = data.facts()
    assert facts["notes"] == ["1 of 4 images have no text file"]
    assert facts["images_without_objects"] == 2 and facts["objects"] == {"tree": 2, "ox cart": 1}
    found = list(check_set(NAME, tmp_path))
    assert [(f.split, f.items, f.problems) for f in found] == [("train", 4, []), ("val", 4, [])]


def test_flat_folder_is_a_test_set(tmp_path):
    yolo(tmp_path, ())
    assert splits(NAME, tmp_path) == ("test",) and len(build(tmp_path, "test")) == 4
    with pytest.raises(ValueError, match="must hold train/ to give a val split"):
        build(tmp_path, "val")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_of_pictures_is_read(tmp_path, suffix):
    yolo(tmp_path)
    folder = tmp_path / "images" / "val"
    cv2.imwrite(str(folder / f"e{suffix}"), cv2.imread(str(folder / "a.jpg")))
    data = build(tmp_path, "val")
    assert [record.image.name for record in data.records][-1] == f"e{suffix}"
    same = [data[index]["image"] for index in (0, 4)]
    assert (same[0] - same[1]).abs().mean() < 0.02 and data.check() == []


@pytest.mark.parametrize(
    "text",
    [
        "names:\n  0: a b\n  1: c\n",
        "names: {1: c, 0: 'a b'}",
        'names:\n- a b  # a comment\n- "c"\n',
        "nc: 2\nnames: [\n  a b,\n  c]\npath: x",
    ],
)
def test_names_in_yaml(tmp_path, text):
    yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    assert classes(NAME, tmp_path) == ("a b", "c")


def test_names_elsewhere_or_wrong(tmp_path):
    yolo(tmp_path)
    path = tmp_path / "data.yaml"
    for text, words in (
        ("names: {0: a, 2: b}", r"must be numbered 0, 1, ..., got \[0, 2\]"),
        ("names: a", "must be a list or a dict, got 'a'"),
        ("names: [a", "must be YAML"),
        ("names: []", "must be unlike names, at least one"),
        ("names: [a, A]", "must be unlike names"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            classes(NAME, tmp_path)
    path.write_text("nc: 1")
    with pytest.raises(
        FileNotFoundError, match="no classes in .*data.yaml with names: and .*found d"
    ):
        build(tmp_path)
    (tmp_path / "classes.txt").write_text("x\ny\n")
    assert classes(NAME, tmp_path) == ("x", "y")
    path.rename(tmp_path / "my_set.yml")
    (tmp_path / "my_set.yml").write_text("names: [p, q]")
    assert classes(NAME, tmp_path) == ("p", "q")


def test_problems_are_sentences_that_name_the_line(tmp_path):
    text = "0 0.5 0.5 0.1\n\n2 0.5 0.5 0.1 0.1\n0.5 0.5 0.5 0.1 0.1\n0 0.5 0.5 0 0.1\n"
    text += "0 0.5 0.5 0.1 x\n1 0.9 0.5 0.4 0.5\n1 0.5 0.5 0.5 0.5\n0 0 0 1 1 1\n"
    yolo(tmp_path, ("train",), files={"a": text})
    data = build(tmp_path)
    problems = data.check()
    assert [p.partition("a.txt', ")[2].partition(":")[0] for p in problems[:5]] == [
        "line 1", "line 3", "line 4", "line 6", "line 9",
    ]  # fmt: skip
    assert "must be a class and 4 numbers, or 3 points and more, got '0 0.5" in problems[0]
    assert "the class must be 0 to 1, got 2" in problems[1] and "got 0.5" in problems[2]
    assert "has a box without extent" in problems[5] and "ends outside the picture" in problems[6]
    assert len(problems) == 7 and len(data[0]["target"]["boxes"]) == 2
    left_out = {"boxes without extent": 1, "lines that cannot be read": 5}
    assert data.facts()["left_out"] == left_out


def test_misfit_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no boxes of YOLO's format in .*does not exist"):
        splits(NAME, tmp_path / "nowhere")
    write_image(tmp_path / "images" / "a.jpg", 0)
    with pytest.raises(FileNotFoundError, match="images' is there, but no labels/ beside it"):
        build(tmp_path)
    yolo(tmp_path, ("train",))
    with pytest.raises(FileNotFoundError, match=r"\(test\)"):
        build(tmp_path, "test")
