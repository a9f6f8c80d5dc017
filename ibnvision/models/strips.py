"""DEA-Net in bounded memory with the result of the whole image.

The network is run step by step. A step reads its maps in strips of rows with a margin as wide as
its convolutions reach, and writes the strips of one map; the rows of the margin, wrong at a cut,
are dropped. What stays whole: the skip at half size, the maps at a quarter of it, the map that the
second fusion mixes in. The channel means, which see the whole image, are taken between steps.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ATTENTION = 6  # rows that reach into a pixel weight: two convolutions of 7 rows in a row


class Step(NamedTuple):
    """One pass over the rows of a map."""

    stage: str
    rows: int  # of the map it reads
    margin: int  # rows beyond a strip that it reads on either side
    unit: int  # strips are multiples of so many rows
    resident: int  # bytes of the maps that are alive all along
    row: int  # bytes that each row of a strip, margin included, takes at most


class Windows(NamedTuple):
    """Rows start to stop of a strip, and low to high with its margin."""

    low: int
    start: int
    stop: int
    high: int


def plan(model: Any, height: int, width: int, dtype: torch.dtype, image: int) -> list[Step]:
    """The steps of a [1, in_chans, height, width] image.

    Args:
        model: a DEANet.
        height, width: in pixels, as its forward takes them.
        dtype: of the weights and maps.
        image: bytes of the image, and of the result, on the device of the maps.
    """
    first, second, third, fourth, fifth = model.stages
    # one row of a map at full, half or quarter size: channels double where the width halves
    line = model.width * width * dtype.itemsize
    # the attention without a kernel pads a map of twice the channels by 3 at a quarter of the size
    attention = 16 * model.width * (width + 24) * dtype.itemsize
    half, quarter = line * height // 2, line * height // 4
    pixels = 2 * model.in_chans * width * max(dtype.itemsize, 4)
    deep = image + half + 2 * quarter
    return [
        Step("down_level1", height, _reach(first), 2, image + half, 3 * line + pixels),
        Step("down_level2", height // 2, _reach(second), 2, image + half + quarter, 4 * line),
        Step("level3", height // 4, _ATTENTION, 1, deep + quarter, attention),
        Step("up_level2", height // 4, _up(fourth), 1, deep + half, attention),
        Step("up_level1", height // 2, _up(fifth), 1, 2 * (image + half), attention + 2 * pixels),
    ]


def _reach(stage: tuple[str, ...]) -> int:
    """Rows that the two convolutions around the blocks and the two of each block reach."""
    return 2 + 2 * (len(stage) - 2)


def _up(stage: tuple[str, ...]) -> int:
    """Rows before the doubling: fusion, transposed convolution, and half the reach after it."""
    after = sum(2 if "_block" in name else 1 for name in stage[2:])
    return _ATTENTION + 1 + (after + 1) // 2


def run_in_strips(model: Any, x: Tensor, max_memory: int) -> Tensor:
    """model(x) clamped to [0, 1], computed with at most max_memory bytes of live tensors.

    x: [N, C, H, W] as the forward takes it, on any device; the result has its type and device.

    Raises: ValueError naming the smallest budget and the stage that needs it.
    """
    weight = next(model.parameters())
    image = x[:1].nbytes if x.device == weight.device else 0
    height, width = x.shape[2:]
    steps = plan(model, height, width, weight.dtype, image)
    others = (2 * len(x) - 1) * image if len(x) > 1 else 0  # the steps count one of each
    spare = max_memory - others
    needs = {
        step.stage: step.resident + step.row * min(step.unit + 2 * step.margin, step.rows)
        for step in steps
    }
    stage = max(needs, key=needs.__getitem__)
    if spare < needs[stage]:
        smallest = needs[stage] + others
        raise ValueError(
            f"max_memory must be at least {smallest} bytes ({smallest / 2**20:.0f} MiB) for "
            f"{len(x)} images of {width}x{height}, which stage {stage} needs; got {max_memory}"
        )
    made: list[Tensor] = []

    def result(index: int) -> Tensor:  # made when the first image gets there
        if not made:
            made.append(torch.empty_like(x))
        return made[0][index : index + 1]

    for i in range(len(x)):
        _run(model, x[i : i + 1], partial(result, i), steps, spare)
    return made[0] if made else torch.empty_like(x)


def windows(step: Step, budget: int) -> Iterator[Windows]:
    """The strips of a step, equally high, that keep it within the budget of bytes."""
    most = max(step.unit, (budget - step.resident) // step.row - 2 * step.margin)
    if (budget - step.resident) // step.row >= step.rows:
        most = step.rows
    units = -(-step.rows // step.unit)
    count = -(-units // (most // step.unit))
    height = -(-units // count) * step.unit
    for start in range(0, step.rows, height):
        stop = min(start + height, step.rows)
        low, high = max(0, start - step.margin), min(step.rows, stop + step.margin)
        yield Windows(low, start, stop, high)


def _fill(
    target: Tensor, step: Step, budget: int, function: Callable[[int, int], Tensor]
) -> Tensor:
    """Write target strip by strip; function takes rows low to high of what the step reads."""
    for low, start, stop, high in windows(step, budget):
        part = function(low, high)
        scaled = target.shape[2]
        begin, end, skip = (r * scaled // step.rows for r in (start, stop, start - low))
        target[:, :, begin:end] = part[:, :, skip : skip + end - begin]
        del part
    return target


def _run(
    model: Any, x: Tensor, result: Callable[[], Tensor], steps: list[Step], budget: int
) -> None:
    """Write what the network makes of the one image x, clamped, into the tensor of result()."""
    half, rising = _to_half(model, x, steps, budget)
    pooled = _means(half) + _means(rising)

    def rows(a: int, b: int) -> Tensor:
        mixed = model.mix2(half[:, :, a:b], rising[:, :, a:b], pooled)
        return _chain(model, 4, mixed).clamp_(0, 1)

    _fill(result(), steps[4], budget, rows)


def _to_half(model: Any, x: Tensor, steps: list[Step], budget: int) -> tuple[Tensor, Tensor]:
    """The two maps at half size that the second fusion takes."""
    weight = next(model.parameters())
    form = torch.channels_last if weight.device.type == "cpu" else torch.contiguous_format
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype, "memory_format": form}

    def empty(channels: int, shrink: int) -> Tensor:
        sides = (side // shrink for side in x.shape[2:])
        return torch.empty((1, channels * model.width, *sides), **place)

    def image(a: int, b: int) -> Tensor:
        return _chain(model, 0, x[:, :, a:b].to(**place))

    half = _fill(empty(2, 2), steps[0], budget, image)
    quarter = _fill(empty(4, 4), steps[1], budget, lambda a, b: _chain(model, 1, half[:, :, a:b]))
    first, *blocks = model.stages[2]
    convolved = model.get_submodule(first)
    maps: tuple[Tensor, ...] = (empty(4, 4), empty(4, 4))
    _fill(maps[0], steps[2], budget, lambda a, b: convolved(quarter[:, :, a:b]))
    for name in blocks:
        maps = _block(model.get_submodule(name), maps, steps[2], budget)
    deep, maps = maps[0], ()
    pooled = _means(quarter) + _means(deep)

    def mixed(a: int, b: int) -> Tensor:
        return _chain(model, 3, model.mix1(quarter[:, :, a:b], deep[:, :, a:b], pooled))

    return half, _fill(empty(2, 2), steps[3], budget, mixed)


def _chain(model: Any, stage: int, x: Tensor) -> Tensor:
    """The modules of a stage one after another, but for the fusion that it may start with."""
    for name in model.stages[stage]:
        if name not in ("mix1", "mix2"):
            x = model.get_submodule(name)(x)
    return x


def _block(block: Any, maps: tuple[Tensor, ...], step: Step, budget: int) -> tuple[Tensor, ...]:
    """One block at a quarter of the size: maps hold its input and room; its result and room."""
    x, room = maps
    if not hasattr(block, "attend"):
        return _fill(room, step, budget, lambda a, b: block(x[:, :, a:b])), x
    r = _fill(room, step, budget, lambda a, b: block.body(x[:, :, a:b]))
    pooled = _means(r)
    # in place: of x, a strip needs only the rows that it writes
    _fill(x, step, budget, lambda a, b: block.attend(r[:, :, a:b], x[:, :, a:b], pooled))
    return x, room


def _means(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)
