"""Pascal VOC's average precision in two forms, 11 points and area; the COCO packages have neither.

A detection belongs to the object of its image that it overlaps most (the first of equals), if
their IoU reaches the threshold. The first detection of an object by score hits it, later ones are
false positives; so are those of no object. Detections of an ignored object are left out. Equal
scores keep their order.

Box ends are exclusive: width = x1 - x0. The published code adds 1 to the width of inclusive pixels,
which is the same where a pixel range xmin to xmax is read as x0 = xmin - 1, x1 = xmax.

Source: Everingham et al., IJCV 2010 (11 points) and 2015 (area).
"""

import math

import numpy as np
from numpy import ndarray as Array


def match(
    scores: Array,
    boxes: Array,
    images: Array,
    target_boxes: Array,
    target_images: Array,
    ignore: Array,
    threshold: float = 0.5,
) -> Array:
    """What the detections of one class are: 1 hit, 0 false positive, -1 left out; int8 [M].

    scores: float [M]; boxes: float [M, 4], x0 y0 x1 y1; images: int [M], the image of each.
    target_boxes: float [G, 4]; target_images: int [G]; ignore: bool [G].
    """
    best, overlap = _closest(boxes, images, target_boxes, target_images)
    hits = np.zeros(len(boxes), np.int8)
    found = np.flatnonzero(overlap >= threshold)
    left_out = ignore[best[found]].astype(bool)
    hits[found[left_out]] = -1
    ranked = found[~left_out]
    ranked = ranked[np.argsort(-scores[ranked], kind="stable")]
    _, first = np.unique(best[ranked], return_index=True)  # where each object comes up first
    hits[ranked[first]] = 1
    return hits


def voc_average_precision(scores: Array, hits: Array, positives: int) -> tuple[float, float]:
    """Area under the monotone envelope, and mean of its values at recalls 0, 0.1 ... 1; in [0, 1].

    scores: float [M] and hits: int [M], as `match` gives them, of one class over the set;
    positives: its objects that are not ignored. NaN where there is none. A recall is compared
    exactly, as a fraction: 3 of 10 reaches 0.3, which rounding denies in the published code.
    """
    if positives == 0:
        return math.nan, math.nan
    ranked = hits[np.argsort(-scores, kind="stable")]
    ranked = ranked[ranked >= 0]
    found = np.cumsum(ranked, dtype=np.int64)
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    area = envelope[ranked == 1].sum() / positives  # recall grows by 1 / positives at each hit
    reached = np.searchsorted(10 * found, positives * np.arange(11))
    points = envelope[reached[reached < len(found)]].sum() / 11
    return float(area), float(points)


def _closest(
    boxes: Array, images: Array, target_boxes: Array, target_images: Array
) -> tuple[Array, Array]:
    """Of each box the target of its image with the largest IoU, int64 [M], and that IoU, [M].

    -1 and 0 where its image has none.
    """
    order = np.argsort(target_images, kind="stable")
    begin, end = (np.searchsorted(target_images[order], images, side) for side in ("left", "right"))
    best, overlap = np.full(len(boxes), -1), np.zeros(len(boxes))
    some = np.flatnonzero(end > begin)
    if not some.size:
        return best, overlap
    count = (end - begin)[some]
    first = np.cumsum(count) - count  # of a box's pairs in the list of all pairs
    target = order[np.arange(count.sum()) + np.repeat(begin[some] - first, count)]
    iou = _iou(np.repeat(boxes[some], count, 0), target_boxes[target])
    overlap[some] = np.maximum.reduceat(iou, first)
    equal = np.flatnonzero(iou == np.repeat(overlap[some], count))
    _, kept = np.unique(np.repeat(some, count)[equal], return_index=True)
    best[some] = target[equal[kept]]
    return best, overlap


def _iou(one: Array, two: Array) -> Array:
    """IoU of pairs of boxes, both [P, 4], in float64; 0 where both are empty."""
    a, b = one.astype(np.float64), two.astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    both = sides.clip(0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)
