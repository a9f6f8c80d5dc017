import math

import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

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
    half = torch.full(target.shape, 0.5)
    whole.update(prediction, target, half)
    for i in (0, 1, 3):
        end = {0: 1, 1: 3, 3: 6}[i]
        parts.update(prediction[i:end], target[i:end], half[i:end])
    assert whole.compute() == parts.compute()


def test_a_predicted_but_absent_class_stays_out_of_the_mean_and_not_of_the_published_one():
    metric = SegmentationMetric(CLASSES)
    metric.update(torch.tensor([[[0, 3]]]), torch.tensor([[[0, 0]]]))
    found = metric.compute()
    assert found["miou_pct"] == pytest.approx(50)  # road alone: hit 1 of 2
    assert found["miou_strict_pct"] == pytest.approx(25)  # road, and pole with 0; no sky, no car
    assert math.isnan(found["iou_pct"]["pole"])


def test_both_means_are_one_where_every_class_is_labelled():
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, 4, (2, 5, 7), generator=generator)
    metric = SegmentationMetric(CLASSES)
    metric.update(torch.randint(0, 4, (2, 5, 7), generator=generator), target)
    found = metric.compute()
    assert found["miou_strict_pct"] == found["miou_pct"] > 0


def test_nothing_labelled_gives_nan():
    metric = SegmentationMetric(CLASSES)
    assert math.isnan(metric.compute()["miou_pct"])
    metric.update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 255))
    assert math.isnan(metric.compute()["miou_pct"])
    assert math.isnan(metric.compute()["miou_strict_pct"])
    assert math.isnan(metric.compute()["pixel_accuracy_pct"])


def test_hand_counted_calibration():
    metric = SegmentationMetric(CLASSES)
    target = torch.tensor([[[0, 0, 1, 255]]])
    prediction = torch.tensor([[[0, 1, 1, 1]]])
    metric.update(prediction, target, torch.tensor([[[1.0, 0.9, 0.91, 0.3]]]))
    # the last bin holds 1.0, hit; the one below 0.9, missed, and 0.91, hit
    pixels, sure, accuracy = metric.reliability
    assert pixels[-2:].tolist() == [2, 1] and pixels.sum() == 3
    assert sure[-2].item() == pytest.approx(0.905) and accuracy[-2].item() == 0.5
    assert metric.compute()["ece_pct"] == pytest.approx(100 * (2 * 0.405 + 0) / 3)
    ids = torch.zeros(1, 1, 4, dtype=torch.int64)
    bare = SegmentationMetric(CLASSES)
    bare.update(ids, ids)
    assert math.isnan(bare.compute()["ece_pct"])


def test_calibration_adds_up_over_batches():
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, 4, (6, 5, 7), generator=generator)
    prediction = torch.randint(0, 4, (6, 5, 7), generator=generator)
    confidence = torch.rand(6, 5, 7, generator=generator)
    whole, parts = SegmentationMetric(CLASSES), SegmentationMetric(CLASSES)
    whole.update(prediction, target, confidence)
    for part in (slice(0, 1), slice(1, 6)):
        parts.update(prediction[part], target[part], confidence[part])
    assert parts.compute()["ece_pct"] == pytest.approx(whole.compute()["ece_pct"])
    shape = (confidence.flatten(), (prediction == target).flatten().long())
    wanted = binary_calibration_error(*shape, n_bins=15, norm="l1")
    assert whole.compute()["ece_pct"] == pytest.approx(100 * wanted.item(), rel=1e-5)


def test_bad_input_is_named():
    metric, ids = SegmentationMetric(CLASSES), torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="prediction must have the shape of target"):
        metric.update(ids, ids[:, :1])
    with pytest.raises(ValueError, match="confidence must have the shape of target"):
        metric.update(ids, ids, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="target must hold class ids below 4 or 255, got .* to 4"):
        metric.update(ids, ids + 4)
    with pytest.raises(ValueError, match="prediction must hold class ids below 4, got"):
        metric.update(ids + 255, ids)


def test_what_several_processes_counted_adds_up():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (6, 5, 7), generator=generator)
    prediction = torch.where(torch.rand(6, 5, 7, generator=generator) < 0.6, target, 0)
    sure = torch.full(target.shape, 0.75)
    whole, merged = SegmentationMetric(CLASSES), SegmentationMetric(CLASSES)
    whole.update(prediction, target, sure)
    for mine in (slice(0, 6, 2), slice(1, 6, 2), slice(6, 6)):
        part = SegmentationMetric(CLASSES)
        if mine != slice(6, 6):
            part.update(prediction[mine], target[mine], sure[mine])
        merged.merge(part.state())
    assert merged.compute() == whole.compute()
    assert torch.equal(merged.confusion, whole.confusion)
    merged.update(prediction, target, sure)
    assert torch.equal(merged.confusion, 2 * whole.confusion)
