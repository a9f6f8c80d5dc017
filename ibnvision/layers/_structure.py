"""How a CNN is built: its norms, its residual and dense blocks, its stages.

Nothing here looks at names. One forward pass on a small image tells what runs inside what.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import timm.layers
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .ibn_norm import IBN, BatchNormAct2d

_BATCH_NORM_FORWARDS = (
    nn.BatchNorm2d.forward,
    timm.layers.BatchNormAct2d.forward,
    BatchNormAct2d.forward,
)


def is_batch_norm(module: nn.Module) -> bool:
    """BatchNorm2d or a BatchNormAct2d; a subclass that computes something else is none."""
    known = isinstance(module, nn.BatchNorm2d) and type(module).forward in _BATCH_NORM_FORWARDS
    return known and not isinstance(module, nn.modules.lazy.LazyModuleMixin)


def is_norm(module: nn.Module) -> bool:
    """A batch norm, an instance norm or an IBN: what the fused op can stand for."""
    return is_batch_norm(module) or isinstance(module, IBN | nn.InstanceNorm2d)


def named_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> norm; IBN counts as one, the two norms inside it do not."""
    norms = {name: m for name, m in model.named_modules() if is_norm(m)}
    inner = {id(c) for m in norms.values() for c in m.modules() if c is not m}
    return {name: m for name, m in norms.items() if id(m) not in inner}


def holds_norm(module: nn.Module) -> bool:
    """Whether a norm sits somewhere below module, which is not a norm itself."""
    return not is_norm(module) and any(is_norm(m) for m in module.modules())


@dataclass
class Probe:
    """What one forward pass in eval mode showed; every key is a module name."""

    order: list[str] = field(default_factory=list)  # by first call
    inputs: dict[str, Tensor] = field(default_factory=dict)  # of modules called on one [N, C, H, W]
    lists: set[str] = field(default_factory=set)  # called on a list of tensors
    outputs: dict[str, Tensor] = field(default_factory=dict)  # [N, C, H, W]
    sums: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    joins: set[str] = field(default_factory=set)  # concatenate channels in their own code


class _Watch(TorchDispatchMode):
    """Notes sums of two equal shapes and concatenations under the module that computes them."""

    def __init__(self, probe: Probe, stack: list[str]) -> None:
        super().__init__()
        self.probe, self.stack = probe, stack

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, here = func.overloadpacket, self.stack[-1]
        if packet in (torch.ops.aten.add, torch.ops.aten.add_):
            a, b = args[:2]
            if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape:
                self.probe.sums.setdefault(here, []).append((a, b))
        elif packet is torch.ops.aten.cat:
            self.probe.joins.add(here)
        return func(*args, **(kwargs or {}))


@contextmanager
def keep_modes(module: nn.Module) -> Iterator[None]:
    """Restore the training flag of every module below module on exit."""
    flags = [(m, m.training) for m in module.modules()]
    try:
        yield
    finally:
        for m, flag in flags:
            m.training = flag


def _examples(model: nn.Module) -> Iterator[Tensor]:
    conv = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if conv is None:
        raise ValueError("model must hold a Conv2d, found none")
    for side, channels in itertools.product((64, 224, 320), dict.fromkeys((conv.in_channels, 3))):
        yield conv.weight.new_zeros(1, channels, side, side)


def _run(model: nn.Module, example: Tensor) -> Probe:
    probe, stack, handles = Probe(), [""], []

    def before(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stack.append(name)
        if name not in probe.order:
            probe.order.append(name)
        if len(args) == 1 and not kwargs:
            if isinstance(args[0], Tensor) and args[0].dim() == 4:
                probe.inputs.setdefault(name, args[0])
            elif isinstance(args[0], list | tuple):
                probe.lists.add(name)

    def after(name: str, output: Any) -> None:
        stack.pop()
        if isinstance(output, Tensor) and output.dim() == 4:
            probe.outputs[name] = output

    try:
        for name, module in model.named_modules():
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: before(name, args, kwargs), with_kwargs=True
                )
            )
            handles.append(module.register_forward_hook(lambda *a, name=name: after(name, a[2])))
        with keep_modes(model), torch.no_grad(), _Watch(probe, stack):
            model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    return probe


def run_probe(model: nn.Module, example: Tensor | None = None) -> Probe:
    """Run model once, in eval mode and without gradients, on example or on a small zero image.

    Raises:
        ValueError: the model runs on no image that was tried.
    """
    error: Exception | None = None
    for image in [example] if example is not None else _examples(model):
        try:
            return _run(model, image)
        except Exception as problem:  # a model may fail in any way on a wrong size
            error, shape = problem, tuple(image.shape)
    raise ValueError(
        f"model must run on one image to show its structure; at {shape} it failed with "
        f"{type(error).__name__}: {error}. Pass example=, or convert its backbone"
    ) from error


@dataclass
class Block:
    """A residual block or dense layer. stage counts from 1; index is the place in the stage."""

    name: str
    module: nn.Module
    dense: bool
    stage: int = 0
    index: int = 0


def _inside(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.")


def _dilation(module: nn.Module) -> int:
    return max([max(m.dilation) for m in module.modules() if isinstance(m, nn.Conv2d)], default=1)


def _find(model: nn.Module, probe: Probe) -> list[Block]:
    modules = dict(model.named_modules())
    with_norm = [name for name in probe.order if name and holds_norm(modules[name])]

    def is_residual(name: str) -> bool:
        output = probe.outputs.get(name)
        sums = probe.sums.get(name, [])
        return name in probe.inputs and any(output.shape == a.shape for a, _ in sums)  # type: ignore[union-attr]

    def is_dense(name: str) -> bool:
        first = next((n for n in probe.order if _inside(n, name)), None)
        return name in probe.lists & probe.joins and first is not None and is_norm(modules[first])

    residual = [name for name in with_norm if is_residual(name)]
    residual = [n for n in residual if not any(_inside(other, n) for other in residual)]
    # a strided block of the same class has no sum but belongs to the same chain
    kinds = {type(modules[name]) for name in residual} - {nn.Sequential}
    chosen = set(residual)
    for name in with_norm:
        if type(modules[name]) in kinds and not any(_inside(n, name) for n in residual):
            chosen.add(name)
    return [
        Block(name, modules[name], dense=name not in chosen)
        for name in with_norm
        if name in chosen or is_dense(name)
    ]


def find_blocks(model: nn.Module, probe: Probe) -> list[Block]:
    """Blocks in running order, numbered by stage.

    A residual block is the innermost module that sums two equal shapes into its output, or another
    of its class. A dense layer joins a list of tensors and begins with a norm. A stage begins where
    the spatial size changes, or, in a dilated network, where the dilation rises instead.
    """
    blocks = _find(model, probe)

    def size(block: Block) -> int:
        return probe.outputs[block.name][0, 0].numel()

    def parent(block: Block) -> str:
        return block.name.rpartition(".")[0]

    def level(block: Block) -> int:
        peers = [b for b in blocks if parent(b) == parent(block)]
        alike = len({size(b) for b in peers}) == 1  # else one flat list holds all stages
        return max(_dilation(b.module) for b in (peers if alike else [block]))

    for last, block in zip([None, *blocks], blocks, strict=False):
        if last is None:
            block.stage = 1
        else:
            new = size(block) != size(last) or level(block) > level(last)
            block.stage, block.index = last.stage + new, 0 if new else last.index + 1
    return blocks


def first_norm(block: Block, probe: Probe) -> str:
    """The first norm to run in block whose result is not an addend of its sum (a shortcut's is)."""
    modules = dict(block.module.named_modules(prefix=block.name))
    names = [n for n in probe.order if _inside(n, block.name) and is_norm(modules[n])]
    names = [n for n in names if not any(_inside(n, outer) for outer in names)]
    addends = {id(t) for pair in probe.sums.get(block.name, []) for t in pair}
    inner = [n for n in names if id(probe.outputs[n]) not in addends]
    return (inner or names)[0]
