"""DEConv, the detail-enhanced convolution: five parallel 3x3 kernels that act as one.

Source: Chen et al., IEEE TIP 2024, https://arxiv.org/abs/2301.04805; parameter names of the
official code. Differs: any sizes, stride, groups, dilation and padding, on every device and dtype.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ibnvision.ops import detail_conv, fold_detail_conv

SAMPLES = 16  # of a parameter; every tap is among them


class _Branch(nn.Module):
    """Holds the convolution whose parameters a branch has; the official names are <branch>.conv."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv


@dataclass(frozen=True)
class _Folded:
    """A kernel, a bias, and the state of the parameters that they were folded from."""

    weight: Tensor
    bias: Tensor | None
    parameters: list[Tensor | None]
    state: list[tuple[int, int] | None]
    thetas: tuple[float, float]
    samples: list[tuple[Tensor, Tensor]]  # views, which also keep the addresses in use, and copies

    def is_of(self, parameters: Sequence[Tensor | None], thetas: tuple[float, float]) -> bool:
        """Whether these parameters would fold into it."""
        return (
            self.thetas == thetas
            and all(a is b for a, b in zip(self.parameters, parameters, strict=True))
            and self.state == _state(parameters)
            and all(torch.equal(now, before) for now, before in self.samples if now.is_cpu)
        )


def _state(parameters: Sequence[Tensor | None]) -> list[tuple[int, int] | None]:
    return [None if p is None else (p._version, p.data_ptr()) for p in parameters]


def _sample(parameter: Tensor) -> Tensor:
    """Some values of a parameter, as a view; all of one that is small or not dense."""
    values = parameter.detach()
    step = values.numel() // SAMPLES
    step += step % 3 == 0  # steps through the taps too
    last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
    if step < 2 or not (values.is_contiguous() or last):
        return values
    return values.as_strided((1 + (values.numel() - 1) // step,), (step,))


def _is_plain(x: Tensor) -> bool:
    """Whether x is a tensor with values, seen by no tracer, and no mode replaces functions."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_function_stack()
        and not torch._ops._len_torch_dispatch_stack_pre_dispatch()
        and not any(mode.is_infra_mode() for mode in _get_current_dispatch_mode_stack())
    )


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) for v in pair):
        raise ValueError(f"{name} must be a whole number or a pair of them, got {value!r}")
    return pair


class DEConv(nn.Module):
    """A 3x3 convolution learned as the sum of four difference branches and a vanilla one.

    Drop-in for `nn.Conv2d(in_channels, out_channels, 3, ...)`: the same arguments, input, output
    and cost, at five times the parameters (the convolution runs once, on the folded kernel). The
    modules conv1_1 (central), conv1_2 (horizontal), conv1_3 (vertical), conv1_4 (angular) and
    conv1_5 (vanilla) hold the parameters under the official names; they are not called.

    In eval mode, where no parameter wants a gradient, the folded kernel is kept until a parameter
    changes, moves or is replaced. Writes that PyTorch itself does not count (through `.data`, NumPy
    or a CUDA graph) are seen after the next call of `train` or `eval`; on the CPU those of whole
    parameters at once.

    Args:
        in_channels, out_channels, stride, dilation, groups, bias, padding_mode: as in nn.Conv2d.
        kernel_size: 3.
        padding: as in nn.Conv2d, "same" and "valid" included; the official layer has 1.
        theta: share of the neighbours that the central and the angular branch take off; one number
            is the angular branch's, as in the official code, whose central branch ignores it.

    Raises:
        ValueError: another kernel size; what nn.Conv2d refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        theta: float | tuple[float, float] = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if _pair("kernel_size", kernel_size) != (3, 3):
            raise ValueError(f"kernel_size must be 3, got {kernel_size!r}")
        thetas = (1.0, theta) if isinstance(theta, int | float) else tuple(theta)
        if len(thetas) != 2:
            raise ValueError(f"theta must be a number or (central, angular), got {theta!r}")
        options: dict[str, Any] = {"groups": groups, "bias": bias, "device": device, "dtype": dtype}

        def square(**more: Any) -> nn.Conv2d:
            return nn.Conv2d(in_channels, out_channels, 3, **more, **options)

        def line() -> nn.Conv1d:
            return nn.Conv1d(in_channels, out_channels, 3, **options)

        self.conv1_1 = _Branch(square())
        self.conv1_2 = _Branch(line())
        self.conv1_3 = _Branch(line())
        self.conv1_4 = _Branch(square())
        # the vanilla branch knows the geometry, checked and in nn.Conv2d's form
        self.conv1_5 = square(
            stride=stride, padding=padding, dilation=dilation, padding_mode=padding_mode
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.groups = (3, 3), groups
        self.stride = _pair("stride", stride)
        self.dilation = _pair("dilation", dilation)
        if isinstance(padding, str):  # Conv2d has checked the word
            padding = self.dilation if padding == "same" else 0
        self.padding = _pair("padding", padding)
        self.padding_mode = padding_mode
        self.central_theta, self.angular_theta = float(thetas[0]), float(thetas[1])
        self._folded: _Folded | None = None

    def _branches(self) -> list[Any]:
        lines = (self.conv1_2.conv, self.conv1_3.conv)
        return [self.conv1_1.conv, *lines, self.conv1_4.conv, self.conv1_5]

    def _parameters_in_order(self) -> list[Tensor | None]:
        """Weights, then biases, central to vanilla."""
        branches = self._branches()
        return [b.weight for b in branches] + [b.bias for b in branches]

    def fold(self) -> tuple[Tensor, Tensor | None]:
        """The kernel [O, I / groups, 3, 3] and the bias [O], differentiable."""
        parameters = self._parameters_in_order()
        return fold_detail_conv(
            parameters[:5],  # type: ignore[arg-type]
            parameters[5:],
            self.central_theta,
            self.angular_theta,
        )

    def fuse(self) -> nn.Conv2d:
        """A new convolution that computes the same, in the same dtype, format, place and mode.

        Its parameters require gradients if the vanilla branch's do.
        """
        vanilla = self.conv1_5
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            3,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            vanilla.bias is not None,
            self.padding_mode,  # type: ignore[arg-type]
            device="meta",
            dtype=vanilla.weight.dtype,
        )
        with torch.no_grad():
            weight, bias = self.fold()
        conv.weight = nn.Parameter(weight, vanilla.weight.requires_grad)
        if bias is not None and vanilla.bias is not None:
            conv.bias = nn.Parameter(bias, vanilla.bias.requires_grad)
        return conv.train(self.training)

    def _keep_folded(self, x: Tensor) -> _Folded | None:
        """The folded kernel where it may be kept between calls, else None."""
        parameters = self._parameters_in_order()
        if not _is_plain(x):
            return None
        recording = torch.is_grad_enabled()
        for p in parameters:
            if p is None:
                continue
            # a parametrization or functional_call puts plain tensors here, new ones at every call
            if type(p) is not nn.Parameter or p.is_inference() or (recording and p.requires_grad):
                return None
        kept, thetas = self._folded, (self.central_theta, self.angular_theta)
        if kept is None or not kept.is_of(parameters, thetas):
            with torch.inference_mode(False), torch.no_grad():
                views = [_sample(p) for p in parameters if p is not None]
                samples = [(view, view.clone()) for view in views]
                kept = _Folded(*self.fold(), parameters, _state(parameters), thetas, samples)
            self._folded = kept
        return kept

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] or [C, H, W]; as nn.Conv2d with the folded kernel."""
        padding = self.padding
        if self.padding_mode != "zeros":
            down, across = padding
            x = F.pad(x, [across, across, down, down], self.padding_mode)
            padding = (0, 0)
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():
            kept = None if self.training else self._keep_folded(x)
            if kept is not None:
                return F.conv2d(
                    x, kept.weight, kept.bias, self.stride, padding, self.dilation, self.groups
                )
        central, horizontal = self.conv1_1.conv, self.conv1_2.conv
        vertical, angular, vanilla = self.conv1_3.conv, self.conv1_4.conv, self.conv1_5
        return detail_conv(
            x, central.weight, horizontal.weight, vertical.weight, angular.weight, vanilla.weight,
            central.bias, horizontal.bias, vertical.bias, angular.bias, vanilla.bias,
            self.stride, padding, self.dilation, self.groups,
            self.central_theta, self.angular_theta,
        )  # fmt: skip

    @torch.jit.ignore
    def train(self, mode: bool = True) -> "DEConv":
        """As nn.Module's; the kept kernel is dropped."""
        self._folded = None
        return super().train(mode)

    @torch.jit.ignore
    def _apply(self, fn: Any, recurse: bool = True) -> "DEConv":
        self._folded = None
        return super()._apply(fn, recurse)

    @torch.jit.ignore
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folded": None}

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, stride={self.stride}"
        text += f", padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        return f"{text}, theta={self.central_theta, self.angular_theta}"
