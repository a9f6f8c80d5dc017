"""Memory formats of [N, C, *spatial] tensors, and the dtype that statistics have."""

import torch
from torch import Tensor


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Statistics and parameters are float64 for float64 x, float32 for all else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def is_channels_last(x: Tensor) -> bool:
    """Whether x is dense with the channels innermost and not also contiguous."""
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def dense(x: Tensor) -> Tensor:
    """x itself where it is contiguous or channels_last, else a contiguous copy."""
    return x if x.is_contiguous() or is_channels_last(x) else x.contiguous()


def dense_like(x: Tensor, like: Tensor) -> Tensor:
    """x with the strides of `like`, a contiguous or channels_last tensor of the same shape."""
    if x.stride() == like.stride():
        return x
    if like.is_contiguous():
        return x.contiguous()
    return x.movedim(1, -1).contiguous().movedim(-1, 1)
