import numpy as np
import pytest
import torch
from detection_case import CLASSES, draw_case

from ibnvision.metrics import DetectionMetric, RestorationMetric, SegmentationMetric, by_image


def one_by_one(new, *columns):
    """A metric for each image of columns that are indexed by image."""
    metrics = []
    for i in range(len(columns[0])):
        metrics.append(new())
        metrics[-1].update(*(column[i : i + 1] for column in columns))
    return metrics


def copies(column, weights):
    """The entries of a column as often as their weights say."""
    return [entry for entry, count in zip(column, weights, strict=True) for _ in range(count)]


def of_detection(predictions, targets, classes=CLASSES, **options):
    def new():
        return DetectionMetric(classes, **options)

    return by_image.statistics(one_by_one(new, predictions, targets))


def asked(classes, predictions, targets, **options):
    metric = DetectionMetric(classes, **options)
    metric.update(predictions, targets)
    return metric.compute()["ap50_pct"]


@pytest.mark.parametrize("limit", [100, 3])
def test_ap50_of_the_whole_set_is_that_of_the_metric(limit):
    """Crowds, empty images, equal scores, a class without objects and more than 100 detections."""
    predictions, targets = draw_case()
    found = of_detection(predictions, targets, max_detections=limit)
    assert (found["hit"] == -1).sum() > 20 and not found["objects"][3].any()
    expected = asked(CLASSES, predictions, targets, max_detections=limit)
    assert by_image.whole(found, "ap50_pct") == pytest.approx(expected, abs=1e-9)


def test_ap50_of_redrawn_images_is_that_of_the_metric_on_their_copies():
    predictions, targets = draw_case(3)
    rng = np.random.default_rng(1)
    for one in predictions:  # no two alike: copies of equal scores have no order to agree on
        one["scores"] = torch.from_numpy(rng.random(len(one["scores"]), np.float32))
    weights = rng.multinomial(60, np.full(60, 1 / 60), 3)
    weights[2, 10:] = 0  # few images: most classes have few objects, perhaps none
    got = by_image.scores(of_detection(predictions, targets), "ap50_pct", weights)
    expected = [
        asked(CLASSES, copies(predictions, row.tolist()), copies(targets, row.tolist()))
        for row in weights
    ]
    assert got == pytest.approx(expected, abs=1e-9) and len(set(expected)) == 3


def test_ap50_by_hand():
    """Image 0: its car found at 0.9. Image 1: a false one at 0.95, one missed. Image 2: none."""
    box, far = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[50.0, 50, 60, 60]])
    label, none = torch.tensor([1]), torch.zeros(0, 4)
    predictions = [
        {"boxes": box, "labels": label, "scores": torch.tensor([0.9])},
        {"boxes": far, "labels": label, "scores": torch.tensor([0.95])},
        {"boxes": none, "labels": label[:0], "scores": torch.zeros(0)},
    ]
    targets = [{"boxes": b, "labels": label[: len(b)]} for b in (box, box, none)]
    found = of_detection(predictions, targets, classes=("car",))
    assert found["hit"].tolist() == [1, 0] and found["objects"].tolist() == [[1], [1], [0]]
    weights = np.array([[1, 1, 1], [2, 0, 1], [0, 2, 1], [0, 0, 3], [3, 1, 0]])
    # recall 1/2 at precision 1/2: 51 of 101 recalls; both found; none found; nothing to find;
    # 3 of 4 objects at best precision 3/4: recalls 0 to 0.75 are 76
    expected = [51 / 101 * 50, 100, 0, np.nan, 76 / 101 * 75]
    assert by_image.scores(found, "ap50_pct", weights) == pytest.approx(expected, nan_ok=True)


def test_segmentation_of_copies_is_that_of_the_metric():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (4, 6, 8), generator=generator)
    target[:2][target[:2] == 2] = 255  # images without the third class
    prediction = torch.randint(0, 3, (4, 6, 8), generator=generator)
    sure = torch.rand(4, 6, 8, generator=generator)
    columns = (prediction, target, sure)

    def new():
        return SegmentationMetric("abc")

    found = by_image.statistics(one_by_one(new, *columns))
    weights = np.array([[1, 1, 1, 1], [3, 1, 0, 0], [0, 0, 2, 2], [0, 0, 0, 0]])
    got = {key: by_image.scores(found, key, weights) for key in ("miou_pct", "ece_pct")}
    for r, row in enumerate(weights[:3].tolist()):
        metric = new()
        metric.update(*(torch.stack(copies(column, row)) for column in columns))
        for key, values in got.items():
            assert values[r] == pytest.approx(metric.compute()[key], abs=1e-9)
    assert np.isnan(got["miou_pct"][3]) and np.isnan(got["ece_pct"][3])


def test_restoration_is_the_weighted_mean():
    clear = torch.full((2, 3, 11, 11), 0.5)
    restored = clear.clone()
    restored[1] += 0.1
    found = by_image.statistics(one_by_one(RestorationMetric, restored, clear))
    weights = np.array([[1, 1], [1, 3], [0, 2]])
    # 100 dB where equal, 20 dB at an error of 0.1
    got = by_image.scores(found, "psnr_rgb_db", weights)
    assert got == pytest.approx([60, 40, 20], abs=1e-4)
    ssim = found["rows"][:, 2]
    assert by_image.whole(found, "ssim_zero_padded") == pytest.approx(ssim.mean())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="got none"):
        by_image.statistics([])
    with pytest.raises(TypeError, match="SegmentationMetric, .*got dict"):
        by_image.statistics([{}])
    found = {"images": np.array(2), "rows": np.zeros((2, 5))}
    with pytest.raises(KeyError, match="miou_pct.*got 'iou'"):
        by_image.scores(found, "iou", np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"\[R, 2\], got \[1, 3\]"):
        by_image.scores(found, "psnr_rgb_db", np.ones((1, 3)))
