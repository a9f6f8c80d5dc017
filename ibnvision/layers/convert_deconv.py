"""DEConv in place of the convolutions of any CNN, and back: convert_to_deconv, reparameterize.

Both work in place and return a Conversion: a table that can be undone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ._conversion import Conversion
from .detail_conv import DEConv


@dataclass(frozen=True)
class ConvRow:
    """One changed convolution; name is its place in the model."""

    HEAD: ClassVar[tuple[str, ...]] = ("name", "was", "is", "in", "out", "groups")
    name: str
    was: str
    now: str
    in_channels: int
    out_channels: int
    groups: int

    def cells(self) -> tuple[str, ...]:
        counts = (self.in_channels, self.out_channels, self.groups)
        return (self.name, self.was, self.now, *map(str, counts))


def _record(conversion: Conversion, name: str, old: nn.Conv2d | DEConv, new: nn.Module) -> None:
    sizes = (old.in_channels, old.out_channels, old.groups)
    row = ConvRow(name, type(old).__name__, type(new).__name__, *sizes)
    conversion.rows.append(row)


def _is_convertible(module: nn.Module) -> bool:
    """A 3x3 convolution of stride 1 that computes what nn.Conv2d does, from its own parameters."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and type(module)._conv_forward is nn.Conv2d._conv_forward
        and not isinstance(module, nn.modules.lazy.LazyModuleMixin)
        and not parametrize.is_parametrized(module)
        and isinstance(module.weight, nn.Parameter)
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
    )


def _parts(conv: nn.Conv2d) -> list[Tensor]:
    return [conv.weight] if conv.bias is None else [conv.weight, conv.bias]


def _folded_parts(deconv: DEConv) -> list[Tensor]:
    return [part for part in deconv.fold() if part is not None]


def _like(old: nn.Module, new: nn.Module) -> None:
    """Bring old to where new is by now."""
    parameter = next(new.parameters())
    old.to(parameter.device, parameter.dtype)


def _make_deconv(conv: nn.Conv2d, theta: float | tuple[float, float]) -> DEConv:
    """A DEConv whose vanilla branch has the parameters of conv, the others zeros."""
    new = DEConv(
        conv.in_channels,
        conv.out_channels,
        3,
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        theta,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    for parameter in new.parameters():
        parameter.zero_()
        own = conv.weight if parameter.dim() > 1 else conv.bias
        assert own is not None
        parameter.requires_grad_(own.requires_grad)
        if parameter.dim() == 4 and not conv.weight.is_contiguous():
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    for source, target in zip(_parts(conv), _parts(new.conv1_5), strict=True):
        target.copy_(source)
    return new.train(conv.training)


@torch.no_grad()
def convert_to_deconv(
    model: nn.Module,
    choose: Callable[[str, nn.Conv2d], bool] | None = None,
    theta: float | tuple[float, float] = 1.0,
) -> Conversion:
    """Put DEConv in place of the 3x3 convolutions of stride 1, in place; the output stays.

    The weight becomes the vanilla branch and the difference branches start at zero, so that the
    model computes the same until it is trained; make the optimizer after this. Convolutions of a
    class with a forward of its own, and parametrized ones, are left.

    Args:
        model: any CNN, such as one of timm or torchvision.
        choose: choose(name, conv) says whether to convert one; default all.
        theta: of every new DEConv.

    Returns:
        The table of changes; its undo() puts the original modules back, with the folded weights.

    Raises:
        ValueError: there is nothing to convert, or model is a convolution itself.
        TypeError: model is no Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, nn.Conv2d | DEConv):
        raise ValueError(f"model must hold convolutions inside, got {type(model).__name__} itself")
    inner = {id(c) for m in model.modules() if isinstance(m, DEConv) for c in m.modules()}
    found = {n: m for n, m in model.named_modules() if _is_convertible(m) and id(m) not in inner}
    if choose is not None:
        found = {name: m for name, m in found.items() if choose(name, m)}
    if not found:
        raise ValueError(
            f"model must hold 3x3 convolutions of stride 1, and choose must take one; "
            f"{type(model).__name__} has none to convert"
        )
    conversion = Conversion(model)
    for name, conv in found.items():
        assert isinstance(conv, nn.Conv2d)
        new = _make_deconv(conv, theta)

        def restore(old: nn.Conv2d = conv, new: DEConv = new) -> None:
            _like(old, new)
            for target, source in zip(_parts(old), _folded_parts(new), strict=True):
                target.copy_(source)

        conversion.swap(conv, new, torch.no_grad()(restore))
        _record(conversion, name, conv, new)
    return conversion


@torch.no_grad()
def reparameterize(model: nn.Module) -> Conversion:
    """Fold every DEConv of model into one nn.Conv2d, in place, for inference or to save it.

    The names of the folded convolutions are those of the DEConvs, as in the official folded
    weights. A model without DEConv is left as it is.

    Returns:
        The table of changes; its undo() puts the DEConvs back. What a folded convolution has
        learned meanwhile is added to the vanilla branch.

    Raises:
        ValueError: model is a DEConv itself; use its fuse().
        TypeError: model is no Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, DEConv):
        raise ValueError("model must hold DEConv layers inside, got a DEConv itself; use .fuse()")
    conversion = Conversion(model)
    found = {name: m for name, m in model.named_modules() if isinstance(m, DEConv)}
    for name, deconv in found.items():
        new = deconv.fuse()

        def restore(old: DEConv = deconv, new: nn.Conv2d = new) -> None:
            _like(old, new)
            own, folded = _parts(old.conv1_5), _folded_parts(old)
            for target, before, now in zip(own, folded, _parts(new), strict=True):
                target.add_(now - before)

        conversion.swap(deconv, new, torch.no_grad()(restore))
        _record(conversion, name, deconv, new)
    return conversion
