"""The record of a conversion: a table, and the way back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from .ibn_norm import IBN


@dataclass(frozen=True)
class Row:
    """One changed norm. name is its place in the model; the channel counts are those of `now`."""

    HEAD: ClassVar[tuple[str, ...]] = ("name", "was", "is", "IN", "BN", "note")
    name: str
    was: str
    now: str
    instance_channels: int
    batch_channels: int
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        counts = (str(self.instance_channels), str(self.batch_channels))
        return (self.name, self.was, self.now, *counts, self.note)


@dataclass(frozen=True)
class _Step:
    """`new` stands for `old` at some (parent, key)."""

    sites: list[tuple[nn.Module, str]]
    old: nn.Module
    new: nn.Module
    restore: Callable[[], None]

    def replaced(self) -> list[str]:
        return [key for parent, key in self.sites if parent._modules.get(key) is not self.new]

    def undo(self) -> None:
        self.restore()
        self.old.training = self.new.training
        for parent, key in self.sites:
            parent._modules[key] = self.old


@dataclass
class Conversion:
    """What was changed in a model, as a table (`str`, `rows`), and the way back (`undo`)."""

    model: nn.Module
    rows: list[Any] = field(default_factory=list)  # of one class with HEAD and cells()
    _steps: list[_Step] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        if not self.rows:
            return "nothing was changed"
        head, body = self.rows[0].HEAD, [row.cells() for row in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *body))
        return "\n".join(lines)

    def undo(self) -> None:
        """Put the original modules back.

        What was trained meanwhile stays: weight, bias, and the running statistics of the channels
        that kept them. Instance channels get the running statistics they had before the
        conversion, which no longer fit the weights around them if those moved. An added norm of
        variant b is dropped. The training flags stay as they are now.

        Raises:
            RuntimeError: a converted module was replaced by another one since.
        """
        lost = [key for step in self._steps for key in step.replaced()]
        if lost:
            raise RuntimeError(f"undo needs the converted modules; replaced since: {lost}")
        self.back_to(0, 0)

    def mark(self) -> tuple[int, int]:
        """The present state, for back_to."""
        return len(self._steps), len(self.rows)

    def back_to(self, steps: int, rows: int) -> None:
        """Undo down to an earlier mark."""
        while len(self._steps) > steps:
            self._steps.pop().undo()
        del self.rows[rows:]

    def swap(self, old: nn.Module, new: nn.Module, restore: Callable[[], None]) -> None:
        """Put new wherever old stands; restore brings state from new to old on the way back."""
        sites = [
            (parent, key)
            for parent in self.model.modules()
            for key, child in parent._modules.items()
            if child is old
        ]
        for parent, key in sites:
            parent._modules[key] = new
        self._steps.append(_Step(sites, old, new, restore))


def describe(norm: nn.Module) -> str:
    act = getattr(norm, "act", None)
    plain = act is None or type(act) is nn.Identity
    return type(norm).__name__ if plain else f"{type(norm).__name__}({type(act).__name__})"


def channels(norm: Any) -> tuple[int, int]:
    if isinstance(norm, IBN):
        return norm.instance_channels, norm.num_features - norm.instance_channels
    instance = isinstance(norm, nn.InstanceNorm2d)
    return (norm.num_features, 0) if instance else (0, norm.num_features)
