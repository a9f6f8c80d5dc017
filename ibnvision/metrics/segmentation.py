"""Segmentation: classes, accuracy and calibration over pixels, counted by torchmetrics."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from .calibration import BINS, bin_sums, calibration_error

IGNORE = 255
ABSENT_RULE = (
    "a class without a labelled pixel in the set has no IoU (NaN, null in JSON) "
    "and is left out of the mean"
)
STRICT_RULE = (
    "the mean that RobustNet and mmsegmentation print: a class without a labelled pixel counts as "
    "0 once a pixel is predicted as it; equal to miou where every class is labelled"
)
ECE_RULE = (
    "expected calibration error over the labelled pixels: 15 equal bins of the largest class "
    "probability, distance of accuracy from confidence; lower is better"
)


class SegmentationMetric:
    """Per-class IoU, its mean, pixel accuracy and calibration in percent, counted over the set.

    A class without a labelled pixel in the set has IoU NaN and is left out of the mean, even where
    it was predicted: those pixels already count against the classes that they belong to. The
    published evaluations count it as 0 then: `miou_strict_pct` is their mean.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._matrix = MulticlassConfusionMatrix(
            len(self.classes), ignore_index=IGNORE, validate_args=False, sync_on_compute=False
        )
        self._filled = False
        self._merged = torch.zeros(2 * [len(self.classes)], dtype=torch.int64)  # by others
        self._bins = torch.zeros(3, BINS, dtype=torch.float64)  # pixels, confidence, hits

    def update(self, prediction: Tensor, target: Tensor, confidence: Tensor | None = None) -> None:
        """Count a batch of class ids, both int64 [N, H, W]; in the target 255 is ignored.

        confidence: float [N, H, W], the probability of the predicted class; for the calibration.

        Raises: ValueError for unequal shapes or an id that is no class.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction must have the shape of target, {list(target.shape)}, "
                f"got {list(prediction.shape)}"
            )
        for name, ids in (("prediction", prediction), ("target", target)):
            used = ids if name == "prediction" else ids[ids != IGNORE]
            if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < len(self.classes):
                raise ValueError(
                    f"{name} must hold class ids below {len(self.classes)}"
                    f"{' or 255' if name == 'target' else ''}, "
                    f"got values from {int(used.min())} to {int(used.max())}"
                )
        self._matrix = self._matrix.to(target.device)
        self._matrix.update(prediction, target)
        self._filled = True
        if confidence is not None:
            self._count(prediction, target, confidence)

    def _count(self, prediction: Tensor, target: Tensor, confidence: Tensor) -> None:
        if confidence.shape != target.shape:
            raise ValueError(
                f"confidence must have the shape of target, {list(target.shape)}, "
                f"got {list(confidence.shape)}"
            )
        labelled = target != IGNORE
        self._bins += bin_sums(confidence[labelled], (prediction == target)[labelled])

    @property
    def reliability(self) -> Tensor:
        """Pixels, mean confidence and accuracy of the calibration's bins, float64 [3, 15]."""
        pixels, sure, hits = self._bins
        return torch.stack([pixels, sure / pixels, hits / pixels])

    @property
    def confusion(self) -> Tensor:
        """Pixel counts, int64 [K, K] on the CPU: row = labelled class, column = predicted class."""
        if not self._filled:
            return self._merged
        return self._matrix.compute().cpu() + self._merged

    def state(self) -> tuple[Tensor, Tensor]:
        """All that was counted, CPU tensors: what a process gives to another's `merge`."""
        return self.confusion, self._bins

    def merge(self, state: tuple[Tensor, Tensor]) -> None:
        """Count what another metric of the same classes has counted."""
        self._merged = self._merged + state[0]
        self._bins = self._bins + state[1]

    def compute(self) -> dict[str, Any]:
        """`miou_pct`, `miou_strict_pct`, `pixel_accuracy_pct`, `ece_pct` and, by class, `iou_pct`.

        NaN where undefined, as `ece_pct` is where no confidence was given.
        """
        counts = self.confusion.double()
        hits, labelled = counts.diag(), counts.sum(1)
        iou = hits / (labelled + counts.sum(0) - hits)
        strict = iou.nanmean().item()
        iou[labelled == 0] = math.nan
        return {
            "miou_pct": 100 * iou.nanmean().item(),
            "miou_strict_pct": 100 * strict,
            "pixel_accuracy_pct": 100 * (hits.sum() / labelled.sum()).item(),
            "ece_pct": 100 * calibration_error(self._bins),
            "iou_pct": {name: 100 * v for name, v in zip(self.classes, iou.tolist(), strict=True)},
        }
