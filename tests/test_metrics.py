import math

import pytest
import torch

from ibnvision.metrics import SegmentationMetric

CLASSES = ("road", "sky", "car", "pole")


def test_hand_counted_case():
    metric = SegmentationMetric(CLASSES)
    target = torch.tensor([[[0, 0, 0, 1], [1, 2, 2, 255]]])
    metric.update(torch.tensor([[[0, 0, 1, 1], [1, 2, 0, 3]]]), target)
    result = metric.compute()
    # road: hit 2, labelled 3, predicted 3; sky: 2, 2, 3; car: 1, 2, 1; pole: no labelled pixel
    assert result["iou_pct"]["road"] == pytest.approx(100 * 2 / 4)
    assert result["iou_pct"]["sky"] == pytest.approx(100 * 2 / 3)
    assert result["iou_pct"]["car"] == pytest.approx(100 * 1 / 2)
    assert math.isnan(result["iou_pct"]["pole"])
    assert result["miou_pct"] == pytest.approx(100 * (1 / 2 + 2 / 3 + 1 / 2) / 3)
    assert result["pixel_accuracy_pct"] == pytest.approx(100 * 5 / 7)
    assert metric.confusion.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_batches_add_up_to_the_set_not_to_a_mean_of_means():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (6, 5, 7), generator=generator)
    prediction = torch.where(torch.rand(6, 5, 7, generator=generator) < 0.6, target, 0)
    whole, parts = SegmentationMetric(CLASSES), SegmentationMetric(CLASSES)
    whole.update(prediction, target)
    for i in (0, 1, 3):
        end = {0: 1, 1: 3, 3: 6}[i]
        parts.update(prediction[i:end], target[i:end])
    assert whole.compute() == parts.compute()


def test_a_predicted_but_absent_class_stays_out_of_the_mean():
    metric = SegmentationMetric(CLASSES)
    metric.update(torch.tensor([[[0, 3]]]), torch.tensor([[[0, 0]]]))
    assert metric.compute()["miou_pct"] == pytest.approx(50)  # road alone: hit 1 of 2


def test_nothing_labelled_gives_nan():
    metric = SegmentationMetric(CLASSES)
    assert math.isnan(metric.compute()["miou_pct"])
    metric.update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 255))
    assert math.isnan(metric.compute()["miou_pct"])
    assert math.isnan(metric.compute()["pixel_accuracy_pct"])


def test_bad_input_is_named():
    metric, ids = SegmentationMetric(CLASSES), torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="prediction must have the shape of target"):
        metric.update(ids, ids[:, :1])
    with pytest.raises(ValueError, match="target must hold class ids below 4 or 255, got .* to 4"):
        metric.update(ids, ids + 4)
    with pytest.raises(ValueError, match="prediction must hold class ids below 4, got"):
        metric.update(ids + 255, ids)
