"""What `ibnvision benchmark scaling` times: calls, base points, and sizes around them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import timm
from torch import nn

from ibnvision.ops import why_no_kernel

from . import attention_calls, models, ops
from .measure import Call
from .op_rows import OPS, Case

BATCH, RESOLUTION, CHANNELS, THREADS = "batch", "resolution", "channels", "threads"
BACKENDS = ("kernel", "fallback", "eager", "dense")  # in the order of tables
FORMAT, DTYPE = "nchw", "fp32"
NETWORK = "resnet50_ibn_a"

Point = Mapping[str, int]  # variable -> value; resolution: a side
Calls = tuple[dict[str, Call], dict[str, str]]  # by backend, and why a missing one is missing


@dataclass(frozen=True)
class Row:
    """What is timed at `base` and, one variable at a time, at the values of `sizes`.

    calls: (point, device, quick) -> Calls. shape: point -> that of the tensor. cells: what the
    square of the resolution counts. pairs: point -> pairs of tokens that see each other.
    """

    part: str
    calls: Callable[[Point, str, bool], Calls]
    shape: Callable[[Point], list[int]]
    base: Point
    sizes: Mapping[str, tuple[int, ...]]
    quick_base: Point
    quick_sizes: Mapping[str, tuple[int, ...]]
    cells: str = "pixels"
    pairs: Callable[[Point], int] | None = None

    def at(self, variable: str, size: int, *, quick: bool) -> Point:
        """The base point with one variable changed; threads are none of its variables."""
        base = self.quick_base if quick else self.base
        return {**base, variable: size} if variable in base else base


def _image(at: Point) -> list[int]:
    return [at[BATCH], at[CHANNELS], at[RESOLUTION], at[RESOLUTION]]


def _op_calls(name: str) -> Callable[[Point, str, bool], Calls]:
    def calls(at: Point, device: str, quick: bool) -> Calls:
        case = Case(name, tuple(_image(at)), DTYPE, FORMAT, device)
        x, dy, row = case.tensor(0).requires_grad_(), case.tensor(1), OPS[name]
        layer, official = (make(case.shape).to(device) for make in (row.layer, row.official))
        ours = ops.pass_call(layer, x, dy, attention_calls.BOTH)
        made = {"kernel": ours, "fallback": ops.in_reference(ours)}
        made["eager"] = ops.pass_call(official, x, dy, attention_calls.BOTH)
        return _without_kernel(made, why_no_kernel(f"{name}_forward", x))

    return calls


def _without_kernel(made: dict[str, Call], reason: str) -> Calls:
    if not reason:
        return made, {}
    return {name: call for name, call in made.items() if name != "kernel"}, {"kernel": reason}


def _attention(at: Point, device: str = "cpu", quick: bool = False) -> attention_calls.Case:
    part, heads = attention_calls.FORWARD, at[CHANNELS] // attention_calls.SIZE
    return attention_calls.Case(part, at[RESOLUTION], at[BATCH], heads, DTYPE, device, quick)


def _attention_calls(at: Point, device: str, quick: bool) -> Calls:
    made, skipped = attention_calls.operator_calls(_attention(at, device, quick), compiled=False)
    names = {"kernel": "kernel", "halo": "fallback", "dense": "dense"}
    found = {names[name]: call for name, call in made.items() if name in names}
    return found, {name: reason for name, reason in skipped.items() if name in names}


@lru_cache(maxsize=1)
def _network(width: int) -> nn.Module:
    """The same for every size: a network of its own for each would fill the memory."""
    return timm.create_model(NETWORK, base_width=width)


def _network_calls(at: Point, device: str, quick: bool) -> Calls:
    setup = models.Setup(
        model=NETWORK,
        plain=NETWORK.removesuffix("_ibn_a"),
        size=at[RESOLUTION],
        batch=at[BATCH],
        device=device,
        format=FORMAT,
        dtype=DTYPE,
    )
    network = _network(at[CHANNELS])
    made = {
        backend: models.step_call(network, setup, reference=backend == "fallback")
        for backend in ("kernel", "fallback")
    }
    return _without_kernel(made, why_no_kernel("ibn_norm_forward", next(network.parameters())))


def _picture(at: Point) -> list[int]:
    return [at[BATCH], 3, at[RESOLUTION], at[RESOLUTION]]


def _at(batch: int, resolution: int, channels: int) -> Point:
    return {BATCH: batch, RESOLUTION: resolution, CHANNELS: channels}


def _doubled(at: Point) -> dict[str, tuple[int, ...]]:
    """A point and its double in each variable, for quick runs."""
    return {variable: (value, 2 * value) for variable, value in at.items()}


_TINY, _FEW = _at(1, 8, 8), _at(1, 4, 64)
# the network's channels: base_width of its blocks, 64 in the published ones
ROWS = {
    "ibn_norm": Row(
        part=attention_calls.BOTH,
        calls=_op_calls("ibn_norm"),
        shape=_image,
        base=_at(8, 56, 64),
        sizes={
            BATCH: (1, 2, 4, 8, 16, 32),
            RESOLUTION: (14, 28, 56, 112),
            CHANNELS: (16, 32, 64, 128, 256),
        },
        quick_base=_TINY,
        quick_sizes=_doubled(_TINY),
    ),
    "content_guided_attention": Row(
        part=attention_calls.BOTH,
        calls=_op_calls("content_guided_attention"),
        shape=_image,
        base=_at(1, 64, 64),
        sizes={BATCH: (1, 2, 4, 8), RESOLUTION: (16, 32, 64, 128), CHANNELS: (16, 32, 64, 128)},
        quick_base=_TINY,
        quick_sizes=_doubled(_TINY),
    ),
    "lambda_attention": Row(
        part=attention_calls.FORWARD,
        calls=_attention_calls,
        shape=lambda at: _attention(at).shape,
        base=_at(1, 32, 128),
        sizes={BATCH: (1, 2, 4, 8), RESOLUTION: (16, 32, 64, 96, 128), CHANNELS: (64, 128, 256)},
        quick_base=_FEW,
        quick_sizes=_doubled(_FEW),
        cells="patches",
        pairs=lambda at: _attention(at).pairs,
    ),
    NETWORK: Row(
        part="training step",
        calls=_network_calls,
        shape=_picture,
        base=_at(2, 96, 64),
        sizes={BATCH: (1, 2, 4, 8), RESOLUTION: (64, 96, 128, 192), CHANNELS: (32, 64, 128)},
        quick_base=_at(1, 32, 64),
        quick_sizes={RESOLUTION: (32, 64)},
    ),
}
