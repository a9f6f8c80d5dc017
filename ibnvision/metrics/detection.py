"""Detection: average precision under the rules of COCO and of Pascal VOC, and calibration."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calibration import BINS, bin_sums, calibration_error
from .coco_ap import AREAS, IOU, coco_evaluation
from .voc_ap import match, voc_average_precision

AP_RULE = (
    "COCO: mean over classes, IoU thresholds 0.50, 0.55 ... 0.95 (ap50, ap75: one of them) and 101 "
    "recalls; small is below 32 x 32 pixels of annotated area, large above 96 x 96; at most 100 "
    "detections of a class in an image, or as many as were asked for"
)
VOC_RULE = (
    "Pascal VOC at IoU 0.5: voc_ap50 is the area under the monotone precision (VOC2010 on), "
    "voc_ap50_11point the mean of its values at recalls 0, 0.1 ... 1 (VOC2007); a detection "
    "belongs to the object that it overlaps most, a second one of an object is a false positive, "
    "equal scores keep the order of the set, all detections count; box ends are exclusive (VOC's "
    "inclusive pixels xmin to xmax are xmin - 1 to xmax)"
)
IGNORE_RULE = (
    "COCO's crowds and VOC's difficult objects neither reward nor punish: they are no objects to "
    "find, and a detection of one is left out; in the AP of COCO by the share of the detection "
    "that lies inside (IoF) and after the counted objects, in that of VOC by IoU"
)
EMPTY_IMAGE_RULE = "counted: every detection in them is a false positive"
ABSENT_RULE = (
    "a class without a counted object in the set has no AP (NaN, null in JSON) "
    "and is left out of the mean"
)
D_ECE_RULE = (
    "detection calibration error by the score alone (Kueppers et al., 2020): detections of all "
    "classes with a score of at least 0.3, 15 equal bins of the score, distance of the precision "
    "at IoU 0.5 (matched as in VOC) from the mean score; lower is better"
)
_D_ECE_FLOOR = 0.3  # above the floors of the detectors' own, on which the number would hang
_AR_LIMITS = (1, 10, 100)
_EMPTY = {  # the state of nothing
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.int64),
    "scores": torch.zeros(0),
    "detections": torch.zeros(0, dtype=torch.int64),
    "target_boxes": torch.zeros(0, 4),
    "target_labels": torch.zeros(0, dtype=torch.int64),
    "target_ignore": torch.zeros(0, dtype=torch.bool),
    "target_area": torch.zeros(0),
    "objects": torch.zeros(0, dtype=torch.int64),
}
_PREDICTED = {name: name for name in ("boxes", "labels", "scores")}  # key -> name in the state
_WANTED = {name: f"target_{name}" for name in ("boxes", "labels", "ignore", "area")}
_DEFAULTS: dict[str, Callable[[Tensor], Tensor]] = {  # of keys that a target may lack
    "ignore": lambda boxes: torch.zeros(len(boxes), dtype=torch.bool),
    "area": lambda boxes: (boxes[:, 2:] - boxes[:, :2]).prod(1),
}


class DetectionMetric:
    """Average precision by COCO and by VOC, and calibration, in percent over a set.

    classes: names in the order of the labels, 1 for the first; max_detections: of a class in an
    image, for the AP of COCO. Kept are boxes, scores and labels on the CPU, not images.
    """

    def __init__(self, classes: Sequence[str], *, max_detections: int = 100) -> None:
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.classes = tuple(classes)
        self.max_detections = max_detections
        self._parts: list[dict[str, Tensor]] = []

    def update(
        self,
        predictions: Sequence[Mapping[str, Tensor]],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> None:
        """Count a batch, one dict per image; boxes are x0 y0 x1 y1 in pixels with exclusive ends.

        predictions: boxes float [m, 4], labels int64 [m] in 1..K, scores float [m] in [0, 1].
        targets: boxes float [n, 4], labels int64 [n] in 1..K, ignore bool [n] and area float [n];
        without `ignore` all count, without `area` it is that of the box. More keys may be there.

        Raises: KeyError for a missing key; ValueError for lists of unequal length, shapes that do
        not fit, a label that is no class, a box that is not finite or whose ends are exchanged, a
        score outside [0, 1]; TypeError for labels that are no integers.
        """
        if len(predictions) != len(targets):
            raise ValueError(
                f"predictions must be as many as targets, {len(targets)}, got {len(predictions)}"
            )
        part = _flat("predictions", predictions, _PREDICTED) | _flat("targets", targets, _WANTED)
        for name, column in (("detections", predictions), ("objects", targets)):
            part[name] = torch.tensor([len(one["boxes"]) for one in column], dtype=torch.int64)
        self._check(part)
        self._parts.append(part)

    def _check(self, part: Mapping[str, Tensor]) -> None:
        for name, prefix in (("predictions", ""), ("targets", "target_")):
            boxes, labels = part[f"{prefix}boxes"], part[f"{prefix}labels"]
            if labels.numel() and not 1 <= labels.min() <= labels.max() <= len(self.classes):
                raise ValueError(
                    f"labels of {name} must lie in 1..{len(self.classes)}, the classes, "
                    f"got values from {int(labels.min())} to {int(labels.max())}"
                )
            wrong = ~boxes.isfinite().all(1) | (boxes[:, :2] > boxes[:, 2:]).any(1)
            if wrong.any():
                raise ValueError(
                    f"boxes of {name} must be finite with x0 <= x1 and y0 <= y1, "
                    f"got {boxes[wrong][0].tolist()}"
                )
        scores = part["scores"]
        wrong = ~((scores >= 0) & (scores <= 1))  # NaN too
        if wrong.any():
            raise ValueError(f"scores must lie in [0, 1], got {scores[wrong][0].item()}")

    def state(self) -> dict[str, Tensor]:
        """All that was counted, flat CPU tensors: what a process gives to another's `merge`.

        `boxes` float32 [M, 4], `labels` int64 [M], `scores` float32 [M]; `detections` int64 [I],
        how many of them each image has; `target_boxes`, `target_labels`, `target_ignore`,
        `target_area` and `objects` the same of the targets.
        """
        if len(self._parts) != 1:
            parts = self._parts or [_EMPTY]
            self._parts = [{key: torch.cat([part[key] for part in parts]) for key in _EMPTY}]
        return dict(self._parts[0])

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Count what another metric of the same classes has counted; its images come after."""
        self._parts.append({key: state[key] for key in _EMPTY})

    def compute(self) -> dict[str, Any]:
        """The numbers in percent, NaN where undefined.

        By COCO `ap_pct`, `ap50_pct`, `ap75_pct`, `ap_small_pct`, `ap_medium_pct`, `ap_large_pct`,
        `ar100_pct`; by VOC `voc_ap50_pct` and `voc_ap50_11point_pct`; `d_ece_pct`; and by class
        `ap_by_class_pct` and `ap50_by_class_pct`, those of COCO.
        """
        precision, recall = self._coco(_AR_LIMITS[-1:])  # fewer limits, less time
        everywhere = precision[:, :, :, AREAS.index("all")]
        ap50 = everywhere[IOU.index("50")]
        return {
            "ap_pct": _mean(everywhere),
            "ap50_pct": _mean(ap50),
            "ap75_pct": _mean(everywhere[IOU.index("75")]),
            **{f"ap_{area}_pct": _mean(precision[..., AREAS.index(area)]) for area in AREAS[1:]},
            "ar100_pct": _mean(recall[_AR_LIMITS[-1]][..., AREAS.index("all")]),
            **self._voc(),
            "ap_by_class_pct": {c: _mean(everywhere[:, :, i]) for i, c in enumerate(self.classes)},
            "ap50_by_class_pct": {c: _mean(ap50[:, i]) for i, c in enumerate(self.classes)},
        }

    def coco_summary(self) -> dict[str, float]:
        """The twelve numbers of COCO's summary in its order, in percent, NaN where undefined.

        `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `ar1`, `ar10`, `ar100`,
        `ar_small`, `ar_medium`, `ar_large`; the first six and the last three at `max_detections`.
        """
        precision, recall = self._coco(_AR_LIMITS)
        everywhere = precision[..., AREAS.index("all")]
        kept = recall[self.max_detections]
        return {
            "ap": _mean(everywhere),
            **{f"ap{iou}": _mean(everywhere[IOU.index(iou)]) for iou in ("50", "75")},
            **{f"ap_{area}": _mean(precision[..., AREAS.index(area)]) for area in AREAS[1:]},
            **{f"ar{limit}": _mean(recall[limit][..., AREAS.index("all")]) for limit in _AR_LIMITS},
            **{f"ar_{area}": _mean(kept[..., AREAS.index(area)]) for area in AREAS[1:]},
        }

    def _coco(self, recalled: Sequence[int]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Precision [10, 101, K, 4] at max_detections; recall [10, K, 4] also at `recalled`."""
        limits = sorted({*recalled, self.max_detections})
        precision, recall = coco_evaluation(self.state(), self.classes, limits)
        kept = precision[..., limits.index(self.max_detections)]
        return kept, {limit: recall[..., i] for i, limit in enumerate(limits)}

    def _voc(self) -> dict[str, float]:
        """The numbers that rest on VOC's matching."""
        state = {name: column.numpy() for name, column in self.state().items()}
        image, target_image = (
            np.repeat(np.arange(len(state[name])), state[name])
            for name in ("detections", "objects")
        )
        found, bins = [], torch.zeros(3, BINS, dtype=torch.float64)
        for label in range(1, 1 + len(self.classes)):
            mine, wanted = state["labels"] == label, state["target_labels"] == label
            scores, ignore = state["scores"][mine], state["target_ignore"][wanted]
            targets = state["target_boxes"][wanted], target_image[wanted], ignore
            hits = match(scores, state["boxes"][mine], image[mine], *targets)
            found.append(voc_average_precision(scores, hits, int((~ignore).sum())))
            told = (hits >= 0) & (scores >= _D_ECE_FLOOR)
            bins += bin_sums(torch.from_numpy(scores[told]), torch.from_numpy(hits[told] == 1))
        area, points = torch.tensor(found, dtype=torch.float64).reshape(-1, 2).nanmean(0).tolist()
        return {
            "voc_ap50_pct": 100 * area,
            "voc_ap50_11point_pct": 100 * points,
            "d_ece_pct": 100 * calibration_error(bins),
        }


def _flat(
    name: str, given: Sequence[Mapping[str, Tensor]], keys: Mapping[str, str]
) -> dict[str, Tensor]:
    """The tensors of all images in a row, by their names in the state."""
    columns: dict[str, list[Tensor]] = {column: [] for column in keys.values()}
    for index, one in enumerate(given):
        for key, column in keys.items():
            if key not in one and key not in _DEFAULTS:
                raise KeyError(f"{name}[{index}] must hold {key!r}, got {sorted(one)}")
            value = one[key] if key in one else _DEFAULTS[key](one["boxes"])
            shape = [len(one["boxes"]), 4] if key == "boxes" else [len(one["boxes"])]
            if list(value.shape) != shape:
                wanted = "[n, 4]" if key == "boxes" else f"{shape}, one for each box"
                raise ValueError(
                    f"{key} of {name}[{index}] must be {wanted}, got {list(value.shape)}"
                )
            if key == "labels" and value.is_floating_point():
                raise TypeError(f"labels of {name}[{index}] must be integers, got {value.dtype}")
            columns[column].append(value.detach())
    return {
        column: torch.cat(values).to("cpu", _EMPTY[column].dtype) if values else _EMPTY[column]
        for column, values in columns.items()
    }


def _mean(values: np.ndarray) -> float:
    """Percent; of those that COCO does not mark as undefined by -1."""
    defined = values[values > -1]
    return 100 * float(defined.mean()) if defined.size else math.nan
