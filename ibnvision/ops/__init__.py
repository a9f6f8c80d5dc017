"""Operators: pure functions on tensors, each with a plain PyTorch definition and kernels."""

from ._kernels import info, kernel_report, reference_ops, why_no_kernel
from .ibn_norm import ibn_norm

__all__ = ["ibn_norm", "info", "kernel_report", "reference_ops", "why_no_kernel"]
