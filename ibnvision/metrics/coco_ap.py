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
    evaluation = _prepared(state, classes)
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def coco_matches(state: Mapping[str, Tensor], classes: Sequence[str], limit: int) -> np.ndarray:
    """What the detections are at IoU 0.5: 1 hit, 0 false positive, -1 left out; int8 [M].

    Left out are those of an ignored object, and of a class in an image all after the best `limit`.
    state: `DetectionMetric.state()`.
    """
    evaluation = _prepared(state, classes, extra_calc=True)
    asked = evaluation.params
    asked.iouThrs, asked.maxDets = np.array([0.5]), [limit]
    asked.areaRng, asked.areaRngLbl = asked.areaRng[:1], asked.areaRngLbl[:1]
    evaluation.evaluate()
    evaluation.accumulate()
    if not evaluation.matched:
        raise RuntimeError("faster-coco-eval did not tell which detections it has matched")
    rows, ignore = evaluation.cocoDt.anns, state["target_ignore"].tolist()
    hits = np.zeros(len(state["scores"]), np.int8)
    for number, row in rows.items():
        if "gt_id" in row:
            hits[number - 1] = -1 if ignore[row["gt_id"] - 1] else 1
    hits[_ranks(state) >= limit] = -1
    return hits


def _ranks(state: Mapping[str, Tensor]) -> np.ndarray:
    """The place of each detection by score among those of its class in its image, from 0: [M]."""
    images = np.repeat(np.arange(len(state["detections"])), state["detections"].numpy())
    labels = state["labels"].numpy()
    order = np.lexsort((-state["scores"].numpy(), labels, images))  # equal scores keep their order
    groups = np.stack([images, labels])[:, order]
    begins = np.flatnonzero(np.diff(groups, prepend=-1).any(0))
    sizes = np.diff(begins, append=len(order))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(begins, sizes)
    return ranks


def _prepared(state: Mapping[str, Tensor], classes: Sequence[str], **options: Any) -> Any:
    """faster-coco-eval's evaluation of a state, to be run; numbers of rows count from 1."""
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
    return COCOeval_faster(*sets, "bbox", print_function=_silent, **options)


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
