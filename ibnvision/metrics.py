"""Measures over a whole set: update() per batch, compute() at the end; counted by torchmetrics."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

IGNORE = 255
ABSENT_RULE = (
    "a class without a labelled pixel in the set has no IoU (NaN, null in JSON) "
    "and is left out of the mean"
)


class SegmentationMetric:
    """Per-class IoU, its mean and pixel accuracy in percent, from one confusion matrix of the set.

    A class without a labelled pixel in the set has IoU NaN and is left out of the mean, even where
    it was predicted: those pixels already count against the classes that they belong to.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._matrix = MulticlassConfusionMatrix(
            len(self.classes), ignore_index=IGNORE, validate_args=False, sync_on_compute=False
        )
        self._filled = False

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch of class ids, both int64 [N, H, W]; in the target 255 is ignored.

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

    @property
    def confusion(self) -> Tensor:
        """Pixel counts, int64 [K, K] on the CPU: row = labelled class, column = predicted class."""
        if not self._filled:
            return torch.zeros(2 * [len(self.classes)], dtype=torch.int64)
        return self._matrix.compute().cpu()

    def compute(self) -> dict[str, Any]:
        """`miou_pct`, `pixel_accuracy_pct` and `iou_pct`, per class; NaN where undefined."""
        counts = self.confusion.double()
        hits, labelled = counts.diag(), counts.sum(1)
        iou = hits / (labelled + counts.sum(0) - hits)
        iou[labelled == 0] = math.nan
        return {
            "miou_pct": 100 * iou.nanmean().item(),
            "pixel_accuracy_pct": 100 * (hits.sum() / labelled.sum()).item(),
            "iou_pct": {name: 100 * v for name, v in zip(self.classes, iou.tolist(), strict=True)},
        }
