"""Pictures and videos in; drawn boxes, JSON and COCO's format out."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from ibnvision import data
from ibnvision.engine.detect import Seen, as_coco, detect_files, detector, plain

CLASSES = ("car", "person")
QUIET = Console(quiet=True)


def found(*rows):
    """Objects of (x0, y0, x1, y1, label, score) rows."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return {
        "boxes": table[:, :4].float(),
        "labels": table[:, 4].long(),
        "scores": table[:, 5].float(),
    }


def bright(image):
    """A person where the left half is bright, else nothing; refuses images that are all white."""
    if image.min() == 1:
        raise ValueError("too white")
    height, width = image.shape[1:]
    box = (0, height / 4, width / 2, height / 2, 2, 0.875)
    return found(box) if image[:, :, : width // 2].mean() > 0.5 else found()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    picture = np.full((80, 120, 3), 100, np.uint8)
    cv2.imwrite("in/dark.png", picture)
    picture[:, :60] = 200
    cv2.imwrite("in/deep/light.png", picture)
    return tmp_path


def test_pictures_get_boxes_json_and_coco(folder):
    report, seen = detect_files(["in"], bright, CLASSES, "out", console=QUIET)
    assert report.failed == [] and len(seen) == 2
    assert sorted(map(str, report.written)) == ["out/dark_boxes.png", "out/deep/light_boxes.png"]
    assert np.array_equal(cv2.imread("out/dark_boxes.png"), cv2.imread("in/dark.png"))
    drawn = cv2.imread("out/deep/light_boxes.png")[..., ::-1]
    colour = data.palette(CLASSES)[1]
    assert (drawn[20:40, 59] == colour).all(), "the right edge lies in the box's last column"
    assert (drawn[20:40, 60] == 100).all() and (drawn[45, 5:55] == 200).all()
    rows = json.loads(Path("out/detections.json").read_text())
    assert rows == [
        {"file": "in/dark.png", "height": 80, "width": 120, "objects": []},
        {
            "file": "in/deep/light.png",
            "height": 80,
            "width": 120,
            "objects": [{"class": "person", "score": 0.875, "box": [0.0, 20.0, 60.0, 40.0]}],
        },
    ]
    coco = json.loads(Path("out/coco.json").read_text())
    assert coco["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}]
    assert [image["file_name"] for image in coco["images"]] == ["in/dark.png", "in/deep/light.png"]
    (only,) = coco["annotations"]
    assert only["image_id"] == coco["images"][1]["id"] and only["category_id"] == 2
    assert only["bbox"] == [0.0, 20.0, 60.0, 20.0] and only["area"] == 1200
    assert only["score"] == 0.875 and only["iscrowd"] == 0
    assert not list(Path("out").rglob(".*"))


def test_nothing_is_replaced_unless_asked(folder):
    detect_files(["in/dark.png"], bright, CLASSES, "out", console=QUIET)
    with pytest.raises(FileExistsError, match="dark_boxes.png exists"):
        detect_files(["in"], bright, CLASSES, "out", console=QUIET)
    assert not Path("out/deep").exists()
    detect_files(["in"], bright, CLASSES, "out", overwrite=True, console=QUIET)
    assert len(json.loads(Path("out/detections.json").read_text())) == 2


def test_a_file_that_fails_is_named_and_the_others_are_done(folder):
    cv2.imwrite("in/white.png", np.full((80, 120, 3), 255, np.uint8))
    Path("in/broken.png").write_bytes(b"none")
    report, seen = detect_files(["in"], bright, CLASSES, "out", console=QUIET)
    assert [path.name for path, _ in report.failed] == ["broken.png", "white.png"]
    assert len(seen) == 2 and len(json.loads(Path("out/detections.json").read_text())) == 2
    with pytest.raises(ValueError, match="2 files failed.*too white"):
        report.check()


def test_a_video_keeps_its_time_and_names_its_frames(folder):
    writer = cv2.VideoWriter("in.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for value in (40, 200, 40, 200, 200):
        writer.write(np.full((64, 96, 3), value, np.uint8))
    writer.release()
    _, seen = detect_files(["in.avi"], bright, CLASSES, "out", stride=2, console=QUIET)
    assert [one.frame for one in seen] == [0, 2, 4]
    assert [len(one.objects["boxes"]) for one in seen] == [0, 0, 1]
    reader = cv2.VideoCapture("out/in_boxes.mp4")
    assert reader.get(cv2.CAP_PROP_FPS) == 5 and reader.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    coco = json.loads(Path("out/coco.json").read_text())
    assert coco["images"][2]["file_name"] == "in.avi#4"
    with pytest.raises(ValueError, match="stride must be at least 1"):
        detect_files(["in.avi"], bright, CLASSES, "out2", stride=0)


def test_records_round_and_count():
    boxes = found((0.123456, 1, 10.987654, 5, 1, 0.123456789), (2, 2, 4, 6, 2, 0.1))
    seen = [Seen(Path("a"), None, (20, 30), boxes), Seen(Path("b"), 7, (20, 30), boxes)]
    rows, coco = plain(seen, CLASSES), as_coco(seen, CLASSES)
    assert rows[1]["frame"] == 7 and rows[0]["objects"][0] == {
        "class": "car",
        "score": 0.12346,
        "box": [0.12, 1.0, 10.99, 5.0],
    }
    assert [a["id"] for a in coco["annotations"]] == [1, 2, 3, 4]
    assert [a["image_id"] for a in coco["annotations"]] == [1, 1, 2, 2]
    assert coco["annotations"][0]["bbox"] == [0.12, 1.0, 10.87, 4.0]


class Finds(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        assert not torch.is_grad_enabled() and images[0].dim() == 3
        return [found((0, 0, 5, 5, 1, 0.9), (1, 1, 3, 3, 2, 0.5), (2, 2, 3, 3, 1, 0.25))]


def test_the_threshold_is_the_least_score():
    image = torch.zeros(3, 8, 8)
    assert detector(Finds().eval())(image)["scores"].tolist() == pytest.approx([0.9, 0.5])
    assert len(detector(Finds().eval(), threshold=0)(image)["boxes"]) == 3
    assert len(detector(Finds().eval(), threshold=1)(image)["boxes"]) == 0
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\], got 1.5"):
        detector(Finds(), threshold=1.5)
