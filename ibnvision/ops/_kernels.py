"""Loads the compiled kernels, registers operators, and says why a call does not use a kernel."""

import functools
import hashlib
import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ibnvision._build import build_note

lib = torch.library.Library("ibnvision", "DEF")

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_MODE = os.environ.get("IBNVISION_NATIVE", "auto")
if _MODE not in ("auto", "0", "1"):
    raise ValueError(f"IBNVISION_NATIVE must be auto, 0 or 1, got {_MODE!r}")

_names: list[str] = []  # of the registered operators
_dtypes: dict[str, tuple[torch.dtype, ...]] = {}  # that kernel operators take
_bodies: dict[Any, Callable[..., Any]] = {}
_reasons: dict[str, str] = {}  # device type -> why no library serves it
_forced = 0  # depth of reference_ops()
_warned = False


def _load(name: str, device: str) -> ModuleType | None:
    """Import one compiled library; on failure keep the reason for `device`."""
    if _MODE == "0":
        _reasons[device] = "IBNVISION_NATIVE=0"
        return None
    try:
        return importlib.import_module(f"ibnvision.{name}")
    except ImportError as error:
        if _MODE == "1" and name == "_C":
            raise ImportError(f"IBNVISION_NATIVE=1, but ibnvision.{name}: {error}") from error
        missing = isinstance(error, ModuleNotFoundError)
        not_built = f"ibnvision.{name} was not built {build_note()}".strip()
        _reasons[device] = not_built if missing else str(error)
        return None


C = _load("_C", "cpu")
CUDA = _load("_cuda", "cuda") if torch.version.cuda else None
if not torch.version.cuda:
    _reasons["cuda"] = "this torch has no CUDA"


@functools.cache
def _has_kernel(op: str, device: str) -> bool:
    return device in ("cpu", "cuda") and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"ibnvision::{op}", torch._C._dispatch_key_for_device(device)
    )


def why_no_kernel(op: str, x: Tensor) -> str:
    """Why operator `op` (as `ibn_norm_forward`) has no kernel for x; "" when it has one.

    Args:
        op: name of a kernel operator of the namespace `ibnvision`.
        x: the tensor the kernel would work on; only device and dtype are looked at.
    """
    if _forced:
        return "reference_ops() is active"
    if torch._C._functorch.maybe_current_level() is not None:
        return "inside a torch.func transform"
    if torch.autograd.forward_ad._current_level >= 0:
        return "inside forward-mode differentiation"
    device = x.device.type
    if not _has_kernel(op, device):
        return _reasons.get(device, f"no {device} kernel")
    if x.dtype not in _dtypes.get(op, KERNEL_DTYPES):
        return f"no kernel for {x.dtype}"
    return ""


def fall_back(op: str, reason: str) -> None:
    """Say once that `op` runs as plain PyTorch; raise where IBNVISION_NATIVE=1 forbids it."""
    global _warned
    if reason not in _reasons.values() or _MODE == "0":
        return
    if _MODE == "1":
        raise RuntimeError(f"IBNVISION_NATIVE=1, but {op} has no kernel: {reason}")
    if not _warned:
        _warned = True
        warnings.warn(
            f"{op} runs as plain PyTorch, slower than the kernel: {reason}. "
            "`ibnvision info` tells more; IBNVISION_NATIVE=0 accepts this silently.",
            stacklevel=2,
        )


class reference_ops(TorchFunctionMode):
    """Context in which every operator runs its plain PyTorch definition.

    Eager, scripted and FX code read a flag; a compiled model recompiles on entry and on exit. Keep
    the backward inside the `with` too.
    """

    def __enter__(self) -> "reference_ops":
        global _forced
        _forced += 1
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        global _forced
        _forced -= 1
        super().__exit__(*exc)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if torch.compiler.is_dynamo_compiling():  # the body in place of the op gives dynamo a guard
            func = _bodies.get(func, func)
        return func(*args, **(kwargs or {}))


def is_eager() -> bool:
    """Whether calls run at once: no tracer, exporter or dispatch mode watches them."""
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._ops._len_torch_dispatch_stack_pre_dispatch()
        or torch.compiler.is_compiling()
    )


PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer, type(None))


def runs_directly(*tensors: Tensor | None) -> bool:
    """Whether plain tensors come and nobody watches, so that the dispatcher may be spared."""
    return (
        is_eager()
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_function_stack()
        and all(type(t) in PLAIN_TYPES for t in tensors)
    )


def below_autograd(op: Any) -> Callable[..., Any]:
    """`op` past the autograd keys, where its Python formula would be called."""

    def call(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return call


def backward_function(name: str) -> Callable[..., Any]:
    """Operator `name` for a backward: past autograd, unless a graph of the backward is wanted."""
    op = getattr(torch.ops.ibnvision, name)
    below = below_autograd(op.default)

    def call(*args: Any) -> Any:
        quick = is_eager() and not torch.is_grad_enabled()
        return (below if quick else op)(*args)

    return call


def eager_function(
    name: str, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """f(needs_grad, *args): operator `name` by the formula `register` gives it, at less cost.

    torch.library.register_autograd makes compilers and opcheck happy but costs 70 us a call.
    """
    op = below_autograd(getattr(torch.ops.ibnvision, name).default)

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = op(*args)
            setup_context(ctx, args, output)
            return output

    Eager.backward = staticmethod(backward)  # type: ignore[method-assign]
    return lambda needs_grad, *args: Eager.apply(*args) if needs_grad else op(*args)


def _no_double_backward(ctx: Any, *grads: Any) -> None:
    raise RuntimeError("the kernels have no double backward; use ibnvision.ops.reference_ops()")


def _no_backward(ctx: Any, *grads: Any) -> None:
    raise RuntimeError("the kernel is for inference; the operator itself has gradients")


def register_entry(name: str, entry: Callable[..., Any]) -> None:
    """Register the Python body of the composite operator `name`."""
    lib.impl(name, entry, "CompositeImplicitAutograd")
    lib.impl(name, entry, "FuncTorchBatched")  # else vmap fails
    packet = getattr(torch.ops.ibnvision, name)
    _bodies[packet] = _bodies[packet.default] = entry


def register(
    name: str,
    *,
    entry: Callable[..., Any],
    fake_forward: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
    fake_backward: Callable[..., Any] | None = None,
    double_backward: Callable[..., Any] = _no_double_backward,
    setup_double: Callable[..., None] | None = None,
    kernel_dtypes: tuple[torch.dtype, ...] = KERNEL_DTYPES,
) -> None:
    """Register the composite `name` and the kernel operators `name_forward`, `name_backward`.

    Without a backward the kernel serves inference alone, and there is no `name_backward`.
    `kernel_dtypes` are those that the kernels take.
    """
    register_entry(name, entry)
    _names.append(name)
    _dtypes[f"{name}_forward"] = _dtypes[f"{name}_backward"] = kernel_dtypes
    forward_op, backward_op = f"ibnvision::{name}_forward", f"ibnvision::{name}_backward"
    torch.library.register_fake(forward_op, fake_forward, lib=lib)
    if backward is None:
        torch.library.register_autograd(forward_op, _no_backward, lib=lib)
        return
    torch.library.register_fake(backward_op, fake_backward, lib=lib)
    torch.library.register_autograd(forward_op, backward, setup_context=setup_context, lib=lib)
    torch.library.register_autograd(
        backward_op, double_backward, setup_context=setup_double, lib=lib
    )


def _digest() -> str:
    """Hash of the operator files and libraries: an edit or a build must miss the compile cache."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    files += [Path(str(library.__file__)) for library in (C, CUDA) if library]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


torch.compiler.config.cache_key_tag += f" ibnvision:{_digest()}"


def kernel_report() -> dict[str, str]:
    """What each operator runs as: {"ibn_norm cpu": "kernel (avx512)", "ibn_norm cuda": reason}."""
    report = {}
    for name in sorted(_names):
        for device, library in (("cpu", C), ("cuda", CUDA)):
            if device == "cuda" and not torch.cuda.is_available():
                built = _has_kernel(f"{name}_forward", device)
                text = "kernel built, but no CUDA device is present" if built else "no cuda kernel"
                report[f"{name} cuda"] = _reasons.get("cuda", text)
                continue
            reason = why_no_kernel(f"{name}_forward", torch.empty(0, device=device))
            kind = f"kernel ({library.build_info()['capability']})" if library else "kernel"
            report[f"{name} {device}"] = f"fallback: {reason}" if reason else kind
    return report


def info() -> list[str]:
    """Lines for `ibnvision info`: what was built, what is active, and why."""
    lines = [f"package folder: {Path(__file__).parents[1]}", f"torch: {torch.__version__}"]
    for label, library, device in (("_C", C, "cpu"), ("_cuda", CUDA, "cuda")):
        if library is None:
            lines.append(f"{label}: not loaded ({_reasons[device]})")
        else:
            facts = ", ".join(f"{key}={value}" for key, value in library.build_info().items())
            lines.append(f"{label}: loaded ({facts})")
    lines += [f"{key}: {value}" for key, value in kernel_report().items()]
    present = torch.cuda.is_available()
    lines.append(f"CUDA device: {torch.cuda.get_device_name() if present else 'none present'}")
    return lines
