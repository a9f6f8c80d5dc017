"""Operators: pure functions on tensors, each with a plain PyTorch definition and kernels."""

from ._kernels import info, kernel_report, reference_ops, why_no_kernel
from .content_guided_attention import content_guided_attention
from .conv3x3 import conv3x3
from .detail_conv import detail_conv, fold_detail_conv
from .ibn_norm import ibn_norm
from .lambda_attention import lambda_attention

__all__ = [
    "content_guided_attention",
    "conv3x3",
    "detail_conv",
    "fold_detail_conv",
    "ibn_norm",
    "info",
    "kernel_report",
    "lambda_attention",
    "reference_ops",
    "why_no_kernel",
]
