import numpy as np
import pytest
import torch

from ibnvision.data.boxes import (
    Boxes,
    ClassNames,
    Row,
    annotation,
    areas,
    clip,
    crop,
    object_facts,
    outside,
    target_of,
)

NAMES = ClassNames(
    ("car", "traffic light"),
    spellings={"auto": "car"},
    ignored={"van": "car"},
    unused=("tree",),
)


def boxes(*xyxy, area=None):
    array = np.array(xyxy, np.float32).reshape(-1, 4)
    given = areas(array) if area is None else np.array(area, np.float32)
    count = len(array)
    return Boxes(array, np.arange(1, count + 1), np.zeros(count, bool), given)


def test_names_of_any_spelling():
    assert NAMES.label("Car") == (1, False) == NAMES.label("AUTO")
    assert NAMES.label("Traffic_Light") == (2, False) == NAMES.label("traffic-light")
    assert NAMES.label("van") == (1, True)
    assert NAMES.label("tree") is None and not NAMES.strange("Tree")
    assert NAMES.label("bus") is None and NAMES.strange("bus")
    assert NAMES.words() == "car, traffic light (auto = car, van ignored as car)"
    assert ClassNames(("a", "b")).words() == "a, b"
    with pytest.raises(ValueError, match="in more than case, '_', '-' and blanks, got bus stop, B"):
        ClassNames(("bus stop", "Bus-Stop"))


def test_annotation_keeps_what_counts_and_says_what_not():
    rows = [
        Row((0, 0, 2, 3), "car"),
        Row((1, 1, 5, 2), "van", area=2.5),
        Row((1, 1, 5, 2), "Traffic Light", ignore=True),
        Row((0, 0, 9, 9), "tree"),
        Row((0, 0, 9, 9), "bus"),
        Row((0, 0, 9, 9), "bus"),
        Row((4, 4, 4, 9), "car"),
        Row((4, 4, float("nan"), 9), "car"),
        Row((5, 4, 4, 9), "car"),
    ]
    found = annotation(rows, NAMES, "'x.xml'", (10, 20))
    assert found.boxes.xyxy.tolist() == [[0, 0, 2, 3], [1, 1, 5, 2], [1, 1, 5, 2]]
    assert found.boxes.labels.tolist() == [1, 1, 2] and found.boxes.area.tolist() == [6, 2.5, 4]
    assert found.boxes.ignore.tolist() == [False, True, True] and found.size == (10, 20)
    assert found.left_out == {"tree": 1, "bus": 2, "boxes without extent": 3}
    assert [p.partition(":")[0] for p in found.problems] == [
        "'x.xml' holds the class 'bus', which is none of car, traffic light",
        "'x.xml' has a box without extent, 4, 4, 4, 9",
        "'x.xml' has a box without extent, 4, 4, nan, 9",
        "'x.xml' has a box without extent, 5, 4, 4, 9",
    ]


def test_no_objects_are_arrays_of_the_right_kind():
    target = target_of(annotation([], NAMES, "").boxes, 12)
    assert target["boxes"].shape == (0, 4) and target["boxes"].dtype == torch.float32
    assert target["labels"].shape == (0,) and target["labels"].dtype == torch.int64
    assert target["ignore"].dtype == torch.bool and target["area"].dtype == torch.float32
    assert target["image_id"].dtype == torch.int64 and target["image_id"].item() == 12
    assert target["image_id"].shape == ()


def test_clip_shrinks_areas_alike_and_drops_what_is_outside():
    found = clip(boxes((-1, 2, 3, 6), (4, 4, 6, 6), (10, 0, 12, 2), area=(8, 3, 4)), 5, 10)
    assert found.xyxy.tolist() == [[0, 2, 3, 5], [4, 4, 6, 5]]
    assert found.labels.tolist() == [1, 2]
    np.testing.assert_allclose(found.area, [8 * 9 / 16, 3 / 2])
    inside = boxes((0, 0, 10, 5), area=(7,))
    assert clip(inside, 5, 10).area.tolist() == [7]  # an area of the file stays as it is


def test_crop_moves_scales_and_drops():
    """A picture of 10x20 at twice the size; rows 4 to 12, columns 10 to 30 of it."""
    found = crop(
        boxes(
            (6, 3, 10, 5),  # inside: 12, 6, 20, 10
            (0, 2, 6, 6),  # 0, 4, 12, 12: 2 of 12 columns stay, a sixth
            (3, 2, 6, 6),  # 6, 4, 12, 12: 2 of 6 columns stay, a third
            (5, 1.9, 15, 2.2),  # 10, 3.8, 30, 4.4: 0.4 px high
            (15, 0, 20, 10),  # ends where the part does
        ),
        (10, 20),
        (20, 40),
        [(4, 12), (10, 30)],
    )
    assert found.xyxy.tolist() == [[2, 2, 10, 6], [0, 0, 2, 8]] and found.labels.tolist() == [1, 3]
    assert found.area.tolist() == [32, 16]


def test_crop_scales_rows_and_columns_by_their_own_factor():
    found = crop(boxes((1, 2, 3, 4)), (10, 10), (20, 30), [(0, 20), (0, 30)])
    assert found.xyxy.tolist() == [[3, 4, 9, 8]] and found.area.tolist() == [24]


def test_crop_of_a_picture_smaller_than_the_part():
    """4x6 in a part of 8x12, 3 rows down and 5 columns to the right."""
    found = crop(boxes((0, 0, 6, 4), (1, 2, 3, 3)), (4, 6), (4, 6), [(-3, 4), (-5, 6)])
    assert found.xyxy.tolist() == [[5, 3, 11, 7], [6, 5, 8, 6]]


def test_outside():
    found = outside(boxes((-1, -1, 11, 6), (0, -1.5, 2, 2), (0, 0, 11.5, 2)), (5, 10), "'a'")
    assert [text.partition(", which")[0] for text in found] == [
        "'a' has the box 0, -1.5, 2, 2 (x0, y0, x1, y1)",
        "'a' has the box 0, 0, 11.5, 2 (x0, y0, x1, y1)",
    ]
    assert found[0].endswith("outside the picture of 5x10 (height x width)")


def test_object_facts():
    some = boxes((0, 0, 1, 1), (0, 0, 1, 1))
    ignored = some._replace(ignore=np.array([True, True]))
    assert object_facts([some, ignored, boxes(), some], ("a", "b", "c")) == {
        "images_without_objects": 2,
        "objects": {"a": 2, "b": 2, "c": 0},
        "ignored_objects": 2,
    }
    assert object_facts([], ("a",))["objects"] == {"a": 0}
    with pytest.raises(ValueError):
        object_facts([some], ("a",))  # a label beyond the classes
