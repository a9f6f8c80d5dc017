"""The scores of any choice of images of a set, from what each image adds to them.

    found = statistics(one_metric_for_each_image)        # arrays, to be kept
    scores(found, "miou_pct", weights)                   # of sets that hold image i weights[r, i]
                                                         # times, without another prediction

Weights of 1 give what the metric itself says of the whole set. A bootstrap over images redraws
the weights. A new metric adds a function of its states to STATISTICS, and to SCORES one for each
number.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .ap_by_image import ap50, matches
from .detection import DetectionMetric
from .restoration import PROTOCOLS, RestorationMetric
from .segmentation import SegmentationMetric

Array = NDArray[Any]
Statistics = dict[str, Array]


def statistics(metrics: Sequence[Any]) -> Statistics:
    """What each image adds, of metrics that have each counted one image; `images` is their number.

    Raises: ValueError where there is none; TypeError for a metric that STATISTICS does not know.
    """
    if not metrics:
        raise ValueError("metrics must hold one for each image, got none")
    kind = type(metrics[0])
    if kind not in STATISTICS:
        known = ", ".join(each.__name__ for each in STATISTICS)
        raise TypeError(f"metrics must be of {known}, got {kind.__name__}")
    return {"images": np.array(len(metrics)), **STATISTICS[kind](metrics)}


def scores(found: Mapping[str, Array], field: str, weights: Array) -> Array:
    """A number of the metric, float64 [R], of R sets that hold image i `weights[r, i]` times.

    found: as `statistics` gives it; field: the metric's key; weights: int [R, I]. NaN where a set
    leaves it undefined.

    Raises: KeyError for a field that is not in SCORES; ValueError for weights of another shape.
    """
    if field not in SCORES:
        raise KeyError(f"field must be one of {', '.join(SCORES)}, got {field!r}")
    images = int(found["images"])
    if weights.ndim != 2 or weights.shape[1] != images:
        raise ValueError(f"weights must be [R, {images}], got {list(weights.shape)}")
    return SCORES[field](found, weights)


def whole(found: Mapping[str, Array], field: str) -> float:
    """The number of the set itself."""
    return float(scores(found, field, np.ones((1, int(found["images"])), np.int64))[0])


def _segmentation(metrics: Sequence[SegmentationMetric]) -> Statistics:
    """`confusion` int32 [I, K, K], rows the labelled class; `bins` float64 [I, 3, 15]."""
    confusions, bins = zip(*(metric.state() for metric in metrics), strict=True)
    return {
        "confusion": torch.stack(confusions).numpy().astype(np.int32),
        "bins": torch.stack(bins).numpy(),
    }


def _detection(metrics: Sequence[DetectionMetric]) -> Statistics:
    """Those of `ap_by_image.matches`."""
    first = metrics[0]
    together = DetectionMetric(first.classes, max_detections=first.max_detections)
    for metric in metrics:
        together.merge(metric.state())
    return matches(together)


def _restoration(metrics: Sequence[RestorationMetric]) -> Statistics:
    """`rows` float64 [I, 5], the numbers of PROTOCOLS in their order."""
    return {"rows": torch.cat([metric.state() for metric in metrics]).numpy()}


def _miou(found: Mapping[str, Array], weights: Array) -> Array:
    confusion = found["confusion"]
    flat = confusion.reshape(len(confusion), -1).astype(np.float64)
    counts = (weights.astype(np.float64) @ flat).reshape(len(weights), *confusion.shape[1:])
    hits, labelled = np.einsum("rkk->rk", counts), counts.sum(2)
    union = labelled + counts.sum(1) - hits
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=labelled > 0)
    return 100 * _ratio(iou.sum(1), (labelled > 0).sum(1))


def _ece(found: Mapping[str, Array], weights: Array) -> Array:
    bins = np.einsum("ri,ibk->rbk", weights.astype(np.float64), found["bins"])
    return 100 * _ratio(np.abs(bins[:, 1] - bins[:, 2]).sum(1), bins[:, 0].sum(1))


def _mean(column: int, found: Mapping[str, Array], weights: Array) -> Array:
    return _ratio(weights @ found["rows"][:, column], weights.sum(1))


def _ratio(top: Array, bottom: Array) -> Array:
    """NaN where the bottom is 0."""
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)


STATISTICS: dict[type, Callable[[Any], Statistics]] = {
    SegmentationMetric: _segmentation,
    DetectionMetric: _detection,
    RestorationMetric: _restoration,
}
SCORES: dict[str, Callable[[Mapping[str, Array], Array], Array]] = {
    "miou_pct": _miou,
    "ece_pct": _ece,
    "ap50_pct": ap50,
    **{field: partial(_mean, column) for column, field in enumerate(PROTOCOLS)},
}
