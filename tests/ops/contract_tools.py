"""What a row of contract_rows.py says, and what the shared tests do with one."""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ibnvision.ops._kernels import KERNEL_DTYPES
from ibnvision.testing import TOLERANCE

REFERENCE_ONLY = os.environ.get("IBNVISION_NATIVE") == "0"
Arguments = dict[str, Any]  # of a call, by name


@dataclass(frozen=True)
class Format:
    """A memory format: what asks `inputs` for the same numbers in it, and how a tensor gets it."""

    inputs: Mapping[str, Any]
    lay_out: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A way of its own through an operator: more arguments of `inputs`, and of the call."""

    inputs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


IMAGES = {
    "contiguous": Format({}, Tensor.contiguous),
    "channels_last": Format(
        {"channels_last": True}, lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1)
    ),
}


@dataclass(frozen=True, eq=False)  # hashed by identity
class Row:
    """What differs between operators; a size is the positional arguments of `inputs`.

    Every floating-point tensor but a buffer takes a gradient.
    """

    name: str  # of the composite operator
    call: Callable[..., Any]  # the public function
    inputs: Callable[..., tuple[Any, ...]]  # its first arguments in their order
    cases: Mapping[str, Case]  # all are held to the definition
    brief: tuple[str, ...]  # the cases that also go through the slower promises
    sizes: tuple[tuple[int, ...], ...]  # least, odd, more than a vector, a tile or a block
    small: tuple[int, ...]  # for finite differences
    lanes: tuple[int, ...]  # full vectors and a tail of every instruction set
    large: tuple[int, ...]  # several threads work
    empty: tuple[tuple[int, ...], ...]
    dynamic: tuple[tuple[int, ...], tuple[int, ...]]  # what may change does; the second is small
    compiled: tuple[str, ...] = ()  # cases for the slow compiler; else the first brief one
    owned: tuple[str, ...] = ()  # the parameters of a layer; other tensors come from outside
    buffers: tuple[str, ...] = ()  # take no gradient; the call may move them
    vmapped: tuple[str, ...] = ()  # cases for vmap, which cannot move a buffer; else all brief ones
    formats: Mapping[str, Format] = field(default_factory=lambda: IMAGES)
    follows: str | None = "x"  # whose format the result has, where formats are mixed
    kernel: str = ""  # prefix of its kernel operators, where it is not the name
    dtypes: tuple[torch.dtype, ...] = KERNEL_DTYPES  # of the kernels; else the definition runs
    scripts: bool = True  # TorchScript can read the public function
    twice: bool = False  # the kernels have second derivatives
    recompiles: bool = False  # for new sizes
    part_of: str = ""  # the row that stands for it before derivatives, compilers and exporters

    def draw(self, size: tuple[int, ...], case: str, form: str = "", **wanted: Any) -> Arguments:
        """The arguments of a call, in the first format unless one is named."""
        layout = self.formats[form or next(iter(self.formats))]
        made = self.inputs(*size, **layout.inputs, **self.cases[case].inputs, **wanted)
        names = inspect.signature(self.call).parameters
        return dict(zip(names, made, strict=False)) | self.cases[case].options

    def leaves(self, arguments: Arguments) -> list[str]:
        """Names of the arguments that take gradients."""
        return [
            name
            for name, value in arguments.items()
            if torch.is_tensor(value) and value.is_floating_point() and name not in self.buffers
        ]

    def copies(self, arguments: Arguments) -> Arguments:
        """The buffers, to be moved without a trace."""
        return {n: arguments[n].clone() for n in self.buffers if arguments[n] is not None}

    def fresh(self, arguments: Arguments) -> Arguments:
        """The arguments with leaves that require gradients and copies of the buffers."""
        leaves = {n: arguments[n].detach().requires_grad_() for n in self.leaves(arguments)}
        return arguments | leaves | self.copies(arguments)

    def function(self, arguments: Arguments) -> tuple[Callable[..., Any], list[Tensor]]:
        """The call as a function of its leaves, and the leaves."""
        names = self.leaves(arguments)

        def function(*values: Tensor) -> tuple[Tensor, ...]:
            given = dict(zip(names, values, strict=True))
            return outputs(self.call(**arguments | self.copies(arguments) | given))

        made = self.fresh(arguments)
        return function, [made[name] for name in names]


def outputs(result: Any) -> tuple[Tensor, ...]:
    """The tensors of a result."""
    return tuple(y for y in (result if isinstance(result, tuple) else [result]) if y is not None)


def noise(y: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A gradient for y, of numbers that `dtype` (default: that of y) holds exactly."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return drawn.to(dtype or y.dtype).to(y)


def results(
    row: Row,
    arguments: Arguments,
    dtype: torch.dtype | None = None,
    change: Callable[[Tensor], Tensor] = lambda dy: dy,
) -> dict[str, Tensor]:
    """Outputs, every gradient and the buffers after the call, by name.

    The gradients of the outputs are noise that `dtype` holds, changed.
    """
    made = row.fresh(arguments)
    ys, names = outputs(row.call(**made)), row.leaves(made)
    dys = [change(noise(y, dtype)) for y in ys]
    gradients = torch.autograd.grad(ys, [made[n] for n in names], dys)
    return (
        {f"output {i}": y.detach() for i, y in enumerate(ys)}
        | {f"d {name}": g for name, g in zip(names, gradients, strict=True)}
        | {name: made[name] for name in row.buffers if made[name] is not None}
    )


def assert_results_close(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Of float32, each within the tolerance of its greatest number, or of 1; integers equal."""
    scales = {name: max(1.0, value.abs().max().item()) for name, value in want.items()}
    found, wanted = ({n: t.double() / scales[n] for n, t in r.items()} for r in (got, want))
    rtol, atol = TOLERANCE[torch.float32]
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)
