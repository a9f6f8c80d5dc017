"""Checks of arguments that operators share; every message names the argument and what came."""

import difflib
from collections.abc import Sequence

from torch import Tensor

from ._kernels import KERNEL_DTYPES


def check_image(x: Tensor) -> None:
    """x is [N, C, *spatial] with 1 to 3 spatial axes in a dtype that kernels have."""
    if not 3 <= x.dim() <= 5:
        raise ValueError(
            f"x must be [N, C, *spatial] with 1 to 3 spatial axes, got shape {tuple(x.shape)}"
        )
    if x.dtype not in KERNEL_DTYPES:
        raise TypeError(f"x must be float32, float16, bfloat16 or float64, got {x.dtype}")


def check_vector(name: str, value: Tensor | None, size: int, x: Tensor, like: str = "x") -> None:
    """value is None or [size], floating-point, on the device of x, which messages call `like`."""
    if value is not None:
        check_parameter(name, value, (size,), x, like)


def check_parameter(
    name: str, value: Tensor, shape: tuple[int, ...], x: Tensor, like: str = "x"
) -> None:
    """value has the shape, is floating-point and on the device of x, which messages call `like`."""
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}")
    check_device(name, value, x, like)


def check_like(name: str, value: Tensor | None, x: Tensor, like: str = "x") -> None:
    """value is None or has the shape and device of x, which messages call `like`."""
    if value is None:
        return
    if value.shape != x.shape:
        raise ValueError(
            f"{name} must have the shape of {like}, {tuple(x.shape)}, got {tuple(value.shape)}"
        )
    check_device(name, value, x, like)


def check_device(name: str, value: Tensor, x: Tensor, like: str) -> None:
    """value is on the device of x, which messages call `like`."""
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of {like}, {x.device}, got {value.device}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """value is one of choices; the nearest is offered."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, 1, 0.0)[0]
        raise KeyError(
            f"{name} must be one of {', '.join(choices)}; got {value!r}, nearest {near!r}"
        )
