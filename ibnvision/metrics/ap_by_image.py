"""COCO's AP50 of any choice of images: matched once, since a match never leaves its image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco_ap import coco_matches
from .detection import DetectionMetric

Array = NDArray[Any]
_RECALLS = np.linspace(0, 1, 101)  # as COCO has them: 0.29 is compared as it is rounded there
_AT_ONCE = 2**23  # numbers of a block


def matches(metric: DetectionMetric) -> dict[str, Array]:
    """The detections of a metric in the order of their images, and the objects to find.

    `image` int32 [M], from 0; `label` int16 [M], from 1; `score` float32 [M]; `hit` int8 [M], see
    `coco_ap.coco_matches`; `objects` int32 [I, K], those of each image and class that count.
    """
    state = metric.state()
    images = len(state["objects"])
    counted = ~state["target_ignore"].numpy()
    place = np.repeat(np.arange(images), state["objects"].numpy())[counted]
    objects = np.zeros((images, len(metric.classes)), np.int32)
    np.add.at(objects, (place, state["target_labels"].numpy()[counted] - 1), 1)
    image = np.repeat(np.arange(images, dtype=np.int32), state["detections"].numpy())
    return {
        "image": image,
        "label": state["labels"].numpy().astype(np.int16),
        "score": state["scores"].numpy(),
        "hit": coco_matches(state, metric.classes, metric.max_detections),
        "objects": objects,
    }


def ap50(statistics: Mapping[str, Array], weights: Array) -> Array:
    """AP50 in percent, float64 [R], of sets that hold image i `weights[r, i]` times.

    The mean over the classes with an object in the set, NaN where there is none. Copies of a
    detection stand side by side in the ranking.
    """
    objects = weights @ statistics["objects"].astype(np.int64)
    found = np.full(objects.shape, np.nan)
    for k in range(objects.shape[1]):
        mine = np.flatnonzero((statistics["label"] == k + 1) & (statistics["hit"] >= 0))
        mine = mine[np.argsort(-statistics["score"][mine], kind="stable")]
        image, hit = statistics["image"][mine], statistics["hit"][mine] == 1
        rows = max(1, _AT_ONCE // max(1, len(mine)))
        for begin in range(0, len(weights), rows):
            part = slice(begin, begin + rows)
            found[part, k] = _average_precision(weights[part][:, image], hit, objects[part, k])
    classes = (objects > 0).sum(1)
    return 100 * np.divide(
        np.nansum(found, 1), classes, out=np.full(len(weights), np.nan), where=classes > 0
    )


def _average_precision(copies: Array, hit: Array, objects: Array) -> Array:
    """AP in [0, 1], float64 [R], of ranked detections; NaN where there is no object.

    copies: int [R, D], how often the set holds each; hit: bool [D]; objects: int [R].
    """
    true = copies[:, hit].cumsum(1)
    precision = true / copies.cumsum(1)[:, hit].clip(1)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    # precision falls from one hit to the next and recall stands: the recalls that a hit is the
    # first to reach all read the envelope there; a hit of which there is no copy reaches none
    reached = np.searchsorted(_RECALLS, true / objects.clip(1)[:, None], side="right")
    read = np.diff(reached, axis=1, prepend=0)
    return np.where(objects > 0, (envelope * read).sum(1) / len(_RECALLS), np.nan)
