"""Calibration in equal bins of confidence, the same for pixels and for detections."""

import torch
from torch import Tensor

BINS = 15


def bin_sums(confidence: Tensor, hit: Tensor) -> Tensor:
    """Count, confidences and hits of the bins, summed: float64 [3, 15] on the CPU.

    confidence: float [n] in [0, 1]; hit: bool [n].
    """
    sure = confidence.double()
    place = (sure * BINS).long().clamp(0, BINS - 1)
    sums = [torch.bincount(place, w, BINS) for w in (torch.ones_like(sure), sure, hit.double())]
    return torch.stack(sums).cpu()


def calibration_error(bins: Tensor) -> float:
    """Mean distance of accuracy from confidence in [0, 1] over the sums of `bin_sums`; NaN of none.

    Source: Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599.
    """
    count, sure, hits = bins
    return float((sure - hits).abs().sum() / count.sum())
