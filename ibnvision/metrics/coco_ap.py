"""COCO's average precision and recall, counted by faster-coco-eval in memory, without a word."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

AREAS = ("all", "small", "medium", "large")  # of the third axis from the end
IOU = tuple(f"{50 + 5 * i}" for i in range(10))  # thresholds of the first axis, in percent


def coco_evaluation(
    state: Mapping[str, Tensor], classes: Sequence[str], limits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision, float64 [10, 101, K, 4, M], and greatest recall, float64 [10, K, 4, M].

    Axes: IOU; recalls 0, 0.01 ... 1; classes; AREAS; limits, ascending: detections of a class in
    an image. -1 where a class has no counted object in an area. state: `DetectionMetric.state()`.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # a second that other tasks do not wait

    head = {
        "images": [{"id": 1 + i} for i in range(len(state["detections"]))],
        "categories": [{"id": 1 + i, "name": name} for i, name in enumerate(classes)],
    }
    sides = (state["boxes"][:, 2:].double() - state["boxes"][:, :2].double()).prod(1)
    found = _annotations(
        state["detections"], state["boxes"], state["labels"], area=sides, score=state["scores"]
    )
    wanted = _annotations(
        state["objects"],
        state["target_boxes"],
        state["target_labels"],
        area=state["target_area"],
        iscrowd=state["target_ignore"].int(),
    )
    sets = [COCO({**head, "annotations": rows}, print_function=_silent) for rows in (wanted, found)]
    evaluation = COCOeval_faster(*sets, "bbox", print_function=_silent)
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _annotations(
    counts: Tensor, boxes: Tensor, labels: Tensor, **columns: Tensor
) -> list[dict[str, Any]]:
    """Rows of the COCO format; ids from 1, since 0 means unmatched there."""
    corners = boxes.double()
    corners[:, 2:] -= corners[:, :2]
    names = ("image_id", "bbox", "category_id", "iscrowd", *columns)
    images = np.repeat(np.arange(1, len(counts) + 1), counts.numpy()).tolist()
    crowd = [0] * len(images)
    lists = (
        images,
        corners.tolist(),
        labels.tolist(),
        crowd,
        *(c.tolist() for c in columns.values()),
    )
    rows = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
    for number, row in enumerate(rows, 1):
        row["id"] = number
    return rows


def _silent(*_: object) -> None:
    """In place of its log."""
