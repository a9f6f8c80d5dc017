"""Operators: pure functions on tensors, each with a plain PyTorch definition and kernels."""

from ._kernels import info, kernel_report, reference_ops, why_no_kernel
from .content_guided_attention import content_guided_attention
from .detail_conv import detail_conv, fold_detail_conv
from .ibn_norm import ibn_norm

__all__ = [
    "content_guided_attention",
    "detail_conv",
    "fold_detail_conv",
    "ibn_norm",
    "info",
    "kernel_report",
    "reference_ops",
    "why_no_kernel",
]
