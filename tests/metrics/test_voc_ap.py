import math

import numpy as np
import pytest

from ibnvision.metrics.voc_ap import match, voc_average_precision

OBJECT = (0, 0, 10, 10)


def matched(detections, objects, threshold=0.5):
    """detections: (score, image, box); objects: (image, box, ignored)."""
    scores, images, boxes = ([d[i] for d in detections] for i in range(3))
    target_images, target_boxes, ignore = ([o[i] for o in objects] for i in range(3))
    return match(
        np.array(scores, np.float32),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(images, np.int64),
        np.array(target_boxes, np.float32).reshape(-1, 4),
        np.array(target_images, np.int64),
        np.array(ignore, bool),
        threshold,
    ).tolist()


def scored(hits, positives, scores=None):
    scores = np.arange(len(hits), 0, -1.0) if scores is None else np.array(scores)
    return voc_average_precision(scores, np.array(hits, np.int8), positives)


def test_one_object_is_hit_once_by_the_best_score_and_not_by_the_best_overlap():
    near, exact = (0, 0, 10, 8), OBJECT
    assert matched([(0.5, 0, exact), (0.9, 0, near)], [(0, OBJECT, False)]) == [0, 1]
    assert matched([(0.7, 0, near), (0.7, 0, exact)], [(0, OBJECT, False)]) == [1, 0]  # in order


def test_the_threshold_is_reached_from_it_on():
    half, below = (0, 0, 10, 5), (0, 0, 10, 4.99)
    assert matched([(0.9, 0, half)], [(0, OBJECT, False)]) == [1]
    assert matched([(0.9, 0, below)], [(0, OBJECT, False)]) == [0]
    assert matched([(0.9, 0, half)], [(0, OBJECT, False)], threshold=0.51) == [0]


def test_only_objects_of_the_same_image_count_in_any_order():
    objects = [(3, OBJECT, False), (1, (50, 50, 60, 60), False), (0, OBJECT, False)]
    found = [(0.9, 1, OBJECT), (0.8, 0, OBJECT), (0.7, 3, OBJECT), (0.6, 2, OBJECT)]
    assert matched(found, objects) == [0, 1, 1, 0]


def test_a_detection_belongs_to_its_best_object_even_when_that_is_taken():
    beside = (0, 3, 10, 13)  # IoU 7 / 13 with the object: enough, were it free to choose
    objects = [(0, OBJECT, False), (0, beside, False)]
    assert matched([(0.9, 0, OBJECT), (0.8, 0, OBJECT)], objects) == [1, 0]
    assert matched([(0.9, 0, OBJECT), (0.8, 0, beside)], objects) == [1, 1]
    same = [(0, OBJECT, False), (0, OBJECT, True)]  # the first of equals
    assert matched([(0.9, 0, OBJECT), (0.8, 0, OBJECT)], same) == [1, 0]
    assert matched([(0.9, 0, OBJECT), (0.8, 0, OBJECT)], same[::-1]) == [-1, -1]


def test_an_ignored_object_takes_any_number_of_detections_by_iou():
    found = [(0.9, 0, OBJECT), (0.8, 0, OBJECT), (0.7, 0, (0, 0, 4, 4)), (0.6, 0, (20, 0, 30, 9))]
    assert matched(found, [(0, OBJECT, True)]) == [-1, -1, 0, 0]  # a part of it has IoU 0.16


@pytest.mark.filterwarnings("error")  # of a division by 0
def test_nothing_to_match_and_boxes_without_area():
    assert matched([], [(0, OBJECT, False)]) == []
    assert matched([(0.9, 0, OBJECT)], []) == [0]
    point = (5, 5, 5, 5)
    assert matched([(0.9, 0, point), (0.8, 0, OBJECT)], [(0, point, False)]) == [0, 0]


def test_inclusive_pixels_read_as_exclusive_ends_have_the_published_overlap():
    random = np.random.RandomState(0)
    begin = random.randint(1, 30, (400, 2))
    inclusive = np.concatenate([begin, begin + random.randint(0, 30, (400, 2))], 1)  # one-based
    a, b = inclusive[:200].astype(float), inclusive[200:].astype(float)
    size = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + 1
    both = size.clip(0).prod(1)
    union = (a[:, 2:] - a[:, :2] + 1).prod(1) + (b[:, 2:] - b[:, :2] + 1).prod(1) - both
    a[:, :2] -= 1  # as the VOC reader does
    b[:, :2] -= 1
    for threshold in (0.1, 0.25, 0.5):
        wanted = (both / union >= threshold).astype(int)
        rows = [matched([(1, 0, x)], [(0, y, False)], threshold) for x, y in zip(a, b, strict=True)]
        assert np.concatenate(rows).tolist() == wanted.tolist()
        assert 0 < wanted.sum() < 200


def test_average_precision_by_hand():
    assert scored([1, 1], 2) == pytest.approx((1, 1))
    assert scored([1], 2) == pytest.approx((0.5, 6 / 11))  # recalls 0 to 0.5 have precision 1
    assert scored([0, 1], 1) == pytest.approx((0.5, 0.5))
    # precision 1, 1/2, 2/3, 2/4, 3/5 at recall 1/4, 1/4, 2/4, 2/4, 3/4
    area = (1 + 2 / 3 + 3 / 5) / 4
    assert scored([1, 0, 1, 0, 1], 4) == pytest.approx((area, (3 + 3 * 2 / 3 + 2 * 3 / 5) / 11))
    assert scored([-1, 1, -1, 0, 1], 2) == scored([1, 0, 1], 2)  # left out
    assert scored([], 3) == (0, 0) and scored([0, 0], 3) == (0, 0)
    assert all(math.isnan(value) for value in scored([0, -1], 0))


def test_a_recall_is_reached_exactly():
    assert scored([1, 1, 1], 10)[1] == pytest.approx(4 / 11)  # 3 of 10 is 0.3; rounding says less
    assert scored([1] * 7, 10)[1] == pytest.approx(8 / 11)


def test_equal_scores_keep_their_order():
    assert scored([1, 0], 1, [0.5, 0.5]) == pytest.approx((1, 1))
    assert scored([0, 1], 1, [0.5, 0.5]) == pytest.approx((0.5, 0.5))
    assert scored([0, 1], 1, [0.5, 0.6]) == pytest.approx((1, 1))


def devkit_area(hits, positives):
    """The area as it is published, by sentinels and steps of the recall."""
    found = np.cumsum(hits)
    recall = np.concatenate([[0], found / positives, [1]])
    precision = np.concatenate([[0], found / np.arange(1, len(hits) + 1), [0]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return ((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum()


def test_the_area_is_that_of_the_published_steps():
    random = np.random.RandomState(1)
    for count in (1, 7, 60):
        hits = (random.uniform(size=count) < 0.6).astype(int)
        positives = int(hits.sum()) + 3
        found = np.cumsum(hits)
        precision = found / np.arange(1, count + 1)
        points = [max([0, *precision[10 * found >= k * positives]]) for k in range(11)]
        wanted = (devkit_area(hits, positives), np.mean(points))
        assert scored(hits, positives) == pytest.approx(wanted, abs=1e-12)
