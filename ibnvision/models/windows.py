"""Scores of a dense model by sliding windows: any size, in the memory of one window's rows.

Windows stand where the published evaluations put them: a stride apart from the top left corner, the
last of a row or column moved back into the image.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
Bands = Iterator[tuple[int, Tensor]]

_CHUNK = 2**24  # scores of a resized band: 64 MiB


@torch.no_grad()
def slide(
    model: Model,
    images: Tensor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    blend: bool = False,
    batch: int = 1,
) -> Tensor:
    """Mean logits of a model over windows of images: what `slide_rows` gives, in one tensor.

    Args: as of `slide_rows`; images: [N, 3, H, W].

    Returns: float32 [N, K, H, W] on the device of the model.
    """
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(f"images must be [N, C, H, W], none of them 0, got {list(images.shape)}")
    made: list[Tensor] = []
    for i, image in enumerate(images):
        bands = slide_rows(model, image, window=window, stride=stride, blend=blend, batch=batch)
        for top, scores in bands:
            if not made:  # the first scores tell the number of classes
                made.append(
                    scores.new_empty((len(images), len(scores), *images.shape[2:])),
                )
            made[0][i, :, top : top + scores.shape[1]] = scores
    return made[0]


@torch.no_grad()
def slide_rows(
    model: Model,
    image: Tensor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    blend: bool = False,
    batch: int = 1,
) -> Bands:
    """Mean logits of a model over windows of an image, finished rows first, without gradients.

    At no time are more rows of scores held than a window is high, and the band that was given last.

    Args:
        model: [n, C, h, w] to logits [n, K, h, w]; run as it is, in training or evaluation mode.
        image: [C, H, W] on any device; windows of it go to the device and dtype of the model.
        window: height and width in pixels; a side that exceeds the image's is the image's.
        stride: pixels from one window to the next, down and across, at most `window`.
        blend: False: a pixel's mean over the windows that see it, as the published protocols have
            it. True: windows fade over the width of their overlap, so that no seam is seen.
        batch: windows of one row that go through the model together.

    Yields:
        (top, scores): float32 [K, rows, W], the rows from `top` on, from the first to the last row
        without gap.

    Raises:
        TypeError, ValueError: an argument, or what the model gives, is not as above.
    """
    _check(image, window, stride, batch)
    parameter = next(model.parameters(), image) if isinstance(model, nn.Module) else image
    down, across = (
        _Axis(*sizes, blend) for sizes in zip(image.shape[1:], window, stride, strict=True)
    )
    edges = sorted({edge for top in down.starts for edge in (top, top + down.window)})
    held: dict[int, Tensor] = {}  # sums of the rows from one edge to the next, by the first row
    for index, top in enumerate(down.starts):
        bottom = top + down.window
        bands = [(a, b) for a, b in pairwise(edges) if top <= a and b <= bottom]
        weights = down.weight(index)[:, None].to(parameter.device)
        for column, scores in _windows(model, image[:, top:bottom], across, batch, parameter):
            left = across.starts[column]
            weight = weights * across.weight(column).to(weights) if blend else None
            for a, b in bands:
                if a not in held:
                    held[a] = scores.new_zeros((len(scores), b - a, across.side))
                sums, rows = held[a][:, :, left : left + across.window], slice(a - top, b - top)
                if weight is None:
                    sums += scores[:, rows]
                else:
                    sums.addcmul_(scores[:, rows], weight[rows])
        last = index + 1 == len(down.starts)
        for a, b in bands:
            if last or b <= down.starts[index + 1]:
                total = down.total[a:b, None] * across.total
                yield a, held.pop(a).div_(total.to(weights))


def resize_rows(bands: Bands, height: int, size: tuple[int, int]) -> Bands:
    """Bands of scores, as `slide_rows` yields them, brought to another size by interpolation.

    The whole equals F.interpolate(scores, size, mode="bilinear", align_corners=False).

    Args:
        bands: the rows of scores, float [K, rows, w], in order and without gap.
        height: the number of rows of all bands.
        size: height and width in pixels of the result.

    Yields: (top, scores [K, rows, W]), as many rows at a time as 64 MiB hold.
    """
    if min(height, *size) < 1:
        raise ValueError(f"height and size must be at least 1, got {height} and {size}")
    place = ((torch.arange(size[0]) + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
    above = place.floor().long()
    below, share = (above + 1).clamp(max=height - 1), place - above
    first, rows, done = 0, torch.empty(0), 0  # rows: those of the image from `first` on
    for top, scores in bands:
        rows = torch.cat((rows, scores), 1) if rows.numel() else scores
        ready = int((below < top + scores.shape[1]).sum())
        most = max(1, _CHUNK // (len(rows) * size[1]))
        while done < ready:
            stop = min(done + most, ready)
            part = share[done:stop, None].to(rows)
            low, high = (at[done:stop].to(rows.device) - first for at in (above, below))
            mixed = torch.lerp(rows[:, low], rows[:, high], part)
            wide = (stop - done, size[1])
            yield done, F.interpolate(mixed[None], wide, mode="bilinear", align_corners=False)[0]
            done = stop
        if done < size[0]:
            keep = min(int(above[done]), first + rows.shape[1])
            rows, first = rows[:, keep - first :].clone(), keep


class _Axis:
    """Windows along one side of the image: where they start and how much each pixel counts."""

    def __init__(self, side: int, window: int, stride: int, blend: bool) -> None:
        self.side, self.window = side, min(side, window)
        count = -(-(side - self.window) // stride) + 1
        self.starts = [min(i * stride, side - self.window) for i in range(count)]
        self.fade = window - stride if blend else 0
        self.total = torch.zeros(side)
        for i, start in enumerate(self.starts):
            self.total[start : start + self.window] += self.weight(i)

    def weight(self, index: int) -> Tensor:
        """Weights [window] of a window: 1, falling as a raised cosine where a neighbour overlaps.

        It is never 0, so that their sum is not either.
        """
        weight = torch.ones(self.window)
        if self.fade:
            steps = (torch.arange(self.window) + 0.5).clamp(max=self.fade)
            ramp = torch.sin(steps * (torch.pi / 2 / self.fade)).square()
            if index > 0:
                weight = weight * ramp
            if index + 1 < len(self.starts):
                weight = weight * ramp.flip(0)
        return weight


def _windows(
    model: Model, rows: Tensor, across: _Axis, batch: int, parameter: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """(index, float32 scores [K, h, w]) of every window of the rows [C, h, W]."""
    kind = parameter.dtype if parameter.is_floating_point() else rows.dtype
    for begin in range(0, len(across.starts), batch):
        starts = across.starts[begin : begin + batch]
        parts = torch.stack([rows[..., left : left + across.window] for left in starts])
        scores = model(parts.to(parameter.device, kind))
        if not isinstance(scores, Tensor):
            raise TypeError(f"model must give a tensor of logits, got {type(scores).__name__}")
        if scores.dim() != 4 or (len(scores), *scores.shape[2:]) != (len(parts), *parts.shape[2:]):
            raise ValueError(
                f"model must give logits [{len(parts)}, K, {parts.shape[2]}, {parts.shape[3]}] for "
                f"images {list(parts.shape)}, got {list(scores.shape)}"
            )
        for i, one in enumerate(scores.float()):
            yield begin + i, one


def _check(image: Tensor, window: tuple[int, int], stride: tuple[int, int], batch: int) -> None:
    if image.dim() != 3 or 0 in image.shape:
        raise ValueError(f"image must be [C, H, W], none of them 0, got {list(image.shape)}")
    if not image.is_floating_point():
        raise TypeError(f"image must be a floating-point tensor, got {image.dtype}")
    for name, pair in (("window", window), ("stride", stride)):
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"{name} must be (height, width), each at least 1, got {pair}")
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(f"stride must be at most window, {tuple(window)}, got {tuple(stride)}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
