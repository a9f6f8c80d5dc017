import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detection_case import CLASSES, draw_case, pycocotools_answers
from torchmetrics.detection import MeanAveragePrecision

import ibnvision
from ibnvision.metrics import DetectionMetric

GOLDEN = Path(__file__).parent / "golden" / "pycocotools.json"
KEYS = ("ap_pct", "ap50_pct", "ap75_pct", "ap_small_pct", "ap_medium_pct", "ap_large_pct")
KEYS += ("ar100_pct", "voc_ap50_pct", "voc_ap50_11point_pct", "d_ece_pct")
BOX, FAR = (10.0, 10.0, 50.0, 50.0), (100.0, 100.0, 140.0, 140.0)  # of 40 x 40: medium


def prediction(*rows):
    """rows: (box, label, score)."""
    boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores, dtype=torch.float32),
    }


def target(*rows, ignore=()):
    """rows: (box, label); ignore: places of ignored ones."""
    boxes, labels = zip(*rows, strict=True) if rows else ((), ())
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "ignore": torch.tensor([i in ignore for i in range(len(rows))], dtype=torch.bool),
    }


def measured(predictions, targets, classes=("car", "bus"), **options):
    metric = DetectionMetric(classes, **options)
    metric.update(predictions, targets)
    return metric.compute()


def three(result):
    return [result[key] for key in ("ap50_pct", "voc_ap50_pct", "voc_ap50_11point_pct")]


def test_all_found():
    found = measured(
        [prediction((BOX, 1, 0.9), (FAR, 2, 0.8)), prediction((FAR, 1, 0.7))],
        [target((BOX, 1), (FAR, 2)), target((FAR, 1))],
    )
    assert list(found) == [*KEYS, "ap_by_class_pct", "ap50_by_class_pct"]
    assert [found[key] for key in KEYS[:3]] == pytest.approx([100] * 3)
    assert three(found) == pytest.approx([100] * 3)
    assert found["ap_medium_pct"] == found["ar100_pct"] == pytest.approx(100)
    assert math.isnan(found["ap_small_pct"]) and math.isnan(found["ap_large_pct"])
    assert found["ap_by_class_pct"] == pytest.approx({"car": 100, "bus": 100})
    assert found["d_ece_pct"] == pytest.approx(100 * (0.1 + 0.2 + 0.3) / 3)  # all hit, too unsure


def test_one_of_two_missed():
    found = measured([prediction((BOX, 1, 0.9))], [target((BOX, 1), (FAR, 1))])
    assert three(found) == pytest.approx([100 * 51 / 101, 50, 100 * 6 / 11])  # recalls up to 0.5
    assert found["ar100_pct"] == pytest.approx(50)


def test_a_duplicate_is_a_false_positive():
    twice = prediction((BOX, 1, 0.9), (BOX, 1, 0.8), (FAR, 1, 0.7))
    found = measured([twice], [target((BOX, 1), (FAR, 1))])
    # precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    coco = 100 * (51 + 50 * 2 / 3) / 101
    assert three(found) == pytest.approx([coco, 100 * (1 + 2 / 3) / 2, 100 * (6 + 5 * 2 / 3) / 11])


def test_an_ignored_object_neither_rewards_nor_punishes():
    wanted = [target((BOX, 1), (FAR, 1), ignore=[1])]
    for rows in ([], [(FAR, 1, 0.95)], [(FAR, 1, 0.95), (FAR, 1, 0.96)]):
        found = measured([prediction((BOX, 1, 0.9), *rows)], wanted)
        assert three(found) == pytest.approx([100] * 3)
        assert found["d_ece_pct"] == pytest.approx(10)
    inside = measured([prediction((BOX, 1, 0.9), ((100.0, 100.0, 110.0, 110.0), 1, 0.95))], wanted)
    assert three(inside) == pytest.approx([100, 50, 50])  # COCO's IoF is 1, VOC's IoU 1 / 16


def test_no_detections_and_no_objects():
    none = measured([prediction()], [target((BOX, 1))])
    assert three(none) == [0] * 3 and none["ar100_pct"] == 0 and math.isnan(none["d_ece_pct"])
    for wanted in (target(), target((BOX, 1), ignore=[0])):
        found = measured([prediction((FAR, 1, 0.75))], [wanted])
        assert all(math.isnan(found[key]) for key in KEYS[:-1])
        assert all(math.isnan(value) for value in found["ap50_by_class_pct"].values())
        assert found["d_ece_pct"] == pytest.approx(75)
    empty = DetectionMetric(("car",)).compute()
    assert list(empty) == list(found) and all(math.isnan(empty[key]) for key in KEYS)
    assert math.isnan(measured([], [])["ap_pct"])


def test_an_absent_class_stays_out_of_the_mean_with_its_detections():
    found = measured([prediction((BOX, 1, 0.9), (FAR, 2, 0.95))], [target((BOX, 1))])
    assert three(found) == pytest.approx([100] * 3)
    assert math.isnan(found["ap50_by_class_pct"]["bus"]) and math.isnan(
        found["ap_by_class_pct"]["bus"]
    )


def test_detections_in_images_without_objects_are_false_positives():
    found = measured(
        [prediction((BOX, 1, 0.9)), prediction((BOX, 1, 0.95))], [target((BOX, 1)), target()]
    )
    assert three(found) == pytest.approx([50, 50, 50])


def test_only_as_many_detections_as_asked_for():
    rows = [(FAR, 1, 0.9), (BOX, 1, 0.8)]
    wanted = [target((BOX, 1))]
    assert measured([prediction(*rows)], wanted)["ap50_pct"] == pytest.approx(50)
    capped = measured([prediction(*rows)], wanted, max_detections=1)
    assert capped["ap50_pct"] == 0 and capped["ar100_pct"] == pytest.approx(100)
    assert capped["voc_ap50_pct"] == pytest.approx(50)  # counts all
    shifted = [((100.0 + i, 100.0, 140.0 + i, 140.0), 1, 0.9) for i in range(100)]
    late = [prediction(*shifted, (BOX, 1, 0.8))]
    assert measured(late, wanted)["ap50_pct"] == 0
    assert measured(late, wanted, max_detections=101)["ap50_pct"] == pytest.approx(100 / 101)


def test_calibration_by_hand():
    apart = [(20.0 * i, 0.0, 20.0 * i + 10, 10.0) for i in range(5)]
    rows = [(apart[0], 1, 0.91), (apart[1], 2, 0.97), (apart[2], 1, 0.5), (apart[3], 1, 0.29)]
    found = measured([prediction(*rows)], [target((apart[0], 1), (apart[3], 1), (apart[4], 2))])
    # bins from 0.9333 (0.97, missed), 0.8667 (0.91, hit) and 0.4667 (0.5, missed); 0.29 is too low
    assert found["d_ece_pct"] == pytest.approx(100 * (0.97 + 0.09 + 0.5) / 3)
    edge = measured([prediction((FAR, 1, 0.3), (FAR, 1, 0.3))], [target()])
    assert edge["d_ece_pct"] == pytest.approx(30)


@pytest.fixture(scope="module")
def case():
    predictions, targets = draw_case()
    metric = DetectionMetric(CLASSES)
    for i in range(0, len(targets), 7):
        metric.update(predictions[i : i + 7], targets[i : i + 7])
    return metric, predictions, targets


def assert_pycocotools(metric, wanted):
    def percent(values):
        return [math.nan if v is None else 100 * v for v in values]

    result = metric.compute()
    assert len(wanted["summary"]) == len(set(wanted["summary"])) == 12
    summary = list(metric.coco_summary().values())
    assert summary == pytest.approx(percent(wanted["summary"]), abs=1e-11, rel=0)
    for key, name in (("ap_by_class_pct", "ap"), ("ap50_by_class_pct", "ap50")):
        assert list(result[key]) == list(wanted[name]) == list(CLASSES)
        values = percent(wanted[name].values())
        assert list(result[key].values()) == pytest.approx(values, abs=1e-11, rel=0, nan_ok=True)
    assert [result[key] for key in KEYS[:6]] == summary[:6]
    assert result["ar100_pct"] == summary[8]


def test_recorded_numbers_of_pycocotools(case):
    assert_pycocotools(case[0], json.loads(GOLDEN.read_text()))


def test_numbers_of_pycocotools_where_it_is_installed():
    pytest.importorskip("pycocotools")
    predictions, targets = draw_case(seed=8)
    metric = DetectionMetric(CLASSES)
    metric.update(predictions, targets)
    assert_pycocotools(metric, pycocotools_answers(predictions, targets))


def test_torchmetrics_agrees(case):
    metric, predictions, targets = case
    exact = {  # its own are rounded to float32, which moves what reaches 0.55 or a recall of 0.3
        "iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(),
        "rec_thresholds": np.linspace(0, 1, 101).tolist(),
    }
    other = MeanAveragePrecision(backend="faster_coco_eval", **exact)
    other.warn_on_many_detections = False
    other.update(predictions, [t | {"iscrowd": t["ignore"].int()} for t in targets])
    wanted, found = other.compute(), metric.compute()
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")
    for key, name in zip(KEYS, names, strict=False):  # the rest is VOC's
        assert found[key] == pytest.approx(100 * wanted[name].item(), abs=1e-4)


def test_the_area_is_the_annotations_where_there_is_one():
    wanted = target((BOX, 1))
    small = measured([prediction((BOX, 1, 0.9))], [wanted | {"area": torch.tensor([900.0])}])
    assert small["ap_small_pct"] == pytest.approx(100) and math.isnan(small["ap_medium_pct"])
    bare = {key: wanted[key] for key in ("boxes", "labels")}
    assert measured([prediction((BOX, 1, 0.9))], [bare])["ap_medium_pct"] == pytest.approx(100)


def test_states_of_several_processes_add_up_to_the_set(case):
    whole, predictions, targets = case
    first, second = DetectionMetric(CLASSES), DetectionMetric(CLASSES)
    first.update(predictions[:20], targets[:20])
    second.update(predictions[20:31], targets[20:31])
    second.update(predictions[31:], targets[31:])
    first.merge(second.state())
    assert {k: v.dtype for k, v in first.state().items()} == {
        k: v.dtype for k, v in DetectionMetric(CLASSES).state().items()
    }
    assert all(torch.equal(first.state()[key], value) for key, value in whole.state().items())
    assert str(first.compute()) == str(whole.compute())  # text, since NaN is not NaN


def test_bad_input_is_named():
    metric, good, wanted = DetectionMetric(("car",)), prediction((BOX, 1, 0.9)), target((BOX, 1))
    with pytest.raises(ValueError, match="max_detections must be at least 1, got 0"):
        DetectionMetric(("car",), max_detections=0)
    with pytest.raises(ValueError, match="predictions must be as many as targets, 1, got 2"):
        metric.update([good, good], [wanted])
    without = {key: good[key] for key in ("boxes", "labels")}
    with pytest.raises(KeyError, match=r"predictions\[0\] must hold 'scores', got"):
        metric.update([without], [wanted])
    cases = [
        (good | {"scores": torch.zeros(2)}, r"scores of predictions\[1\] must be \[1\], one for"),
        (good | {"boxes": torch.zeros(1, 5)}, r"boxes of predictions\[1\] must be \[n, 4\], got"),
        (good | {"labels": torch.tensor([2])}, r"labels of predictions must lie in 1..1, .* to 2"),
        (
            good | {"labels": torch.tensor([0])},
            r"labels of predictions must lie in 1..1, .* from 0",
        ),
        (good | {"scores": torch.tensor([math.nan])}, r"scores must lie in \[0, 1\], got nan"),
        (good | {"scores": torch.tensor([1.5])}, r"scores must lie in \[0, 1\], got 1.5"),
        (good | {"boxes": torch.tensor([[5.0, 0, 4, 1]])}, r"boxes of predictions must be finite"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            metric.update([good, wrong], [wanted, wanted])
    with pytest.raises(TypeError, match=r"labels of targets\[0\] must be integers, got torch.flo"):
        metric.update([good], [wanted | {"labels": torch.ones(1)}])
    with pytest.raises(ValueError, match=r"ignore of targets\[0\] must be \[1\], one for each box"):
        metric.update([good], [wanted | {"ignore": torch.zeros(0, dtype=torch.bool)}])
    assert math.isnan(metric.compute()["ap_pct"])  # nothing of it was counted


def test_the_counter_is_imported_when_a_number_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)  # any import of it now fails
    monkeypatch.setattr(ibnvision, "metrics", None)
    for name in [n for n in sys.modules if n.startswith("ibnvision.metrics")]:
        monkeypatch.delitem(sys.modules, name)
    fresh = importlib.import_module("ibnvision.metrics")
    assert fresh.DetectionMetric is not DetectionMetric
    with pytest.raises(ImportError, match="faster_coco_eval"):
        fresh.DetectionMetric(("car",)).compute()


def test_nothing_is_printed(capfd):
    measured([prediction((BOX, 1, 0.9))], [target((BOX, 1))])
    assert capfd.readouterr() == ("", "")
