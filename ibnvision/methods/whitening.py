"""Instance whitening as a loss: channels of one image that vary together carry its style.

    loss = mean over images and layers of max(sum |S * mask| - margin, 0) / entries of the mask
    S = X X^T / (HW - 1),   X: a standardized map (instance norm without affine) as [C, HW]

IRW (relaxed) takes every pair of channels; the margin leaves a share of their sum in peace. ISW
(selective) takes the pairs whose covariance changes when only the colours of the image do; the
margin is 0. Both look at pairs once, in the strict upper triangle, so the 1e-5 I that the released
code adds to S changes nothing and is left out.

ISW learns its mask from pairs of an image and a photometric copy. With v the variance of each
covariance over the two, averaged over images, 1-D k-means splits the entries of the whole matrix,
zeros on and below the diagonal included, and all above the lowest cluster are sensitive. As in the
released code k-means is exact, so nothing hangs on a start. That code draws new images and copies
ten times and keeps what is sensitive each time; here the mean over all collected forwards is used.

Source: Choi et al., "RobustNet", CVPR 2021, https://arxiv.org/abs/2103.15597. The margin of IRW,
pairs // 64, and of which matrix k-means is taken are read from its released code and scripts.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

RELAX = 64  # IRW's margin is one 64th of the number of pairs


class InstanceWhitening(nn.Module):
    """forward(maps) -> scalar loss, float32 (float64 for float64 maps); all state is in buffers.

    It counts its forwards in training, from 0. IRW's loss starts with forward `begin`. ISW collects
    in forwards `begin - collect` to `begin - 1`, where `wants_pairs` is true and `copies` must be
    given, and its loss starts with forward `begin`. Before that the loss is 0. In evaluation it is
    what training would see next, and nothing is counted.

    Images with a covariance that is not finite (float16 overflows) are not collected. Under
    torch.distributed each collected forward is summed over the processes, so every process holds
    the same state at any time; all must call it alike.

    Args:
        channels: C of each map, in the order in which `forward` gets them.
        selective: ISW if true, else IRW.
        begin: first forward with a loss.
        collect: number of forwards that collect, ISW only; 1 to begin.
        clusters: of k-means, at least 2; the paper has 3 for GTAV and 2 for Cityscapes.

    Raises:
        ValueError: an argument outside of its range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        selective: bool,
        begin: int,
        collect: int = 0,
        clusters: int = 3,
    ) -> None:
        super().__init__()
        channels = tuple(channels)
        if not channels or min(channels) < 1:
            raise ValueError(f"channels must hold the width of each map, got {list(channels)}")
        if begin < 0:
            raise ValueError(f"begin must be at least 0, got {begin}")
        if selective and not 1 <= collect <= begin:
            raise ValueError(f"collect must lie in [1, begin={begin}], got {collect}")
        if selective and clusters < 2:
            raise ValueError(f"clusters must be at least 2, got {clusters}")
        self.channels, self.selective = channels, selective
        self.begin, self.collect, self.clusters = begin, collect, clusters
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.step: Tensor
        self.count: Tensor
        for i, c in enumerate(channels):
            pairs = torch.ones(c, c, dtype=torch.bool).triu(1)
            self.register_buffer(f"mask_{i}", torch.zeros_like(pairs) if selective else pairs)
            if selective:
                self.register_buffer(f"variance_{i}", torch.zeros(c, c))

    @property
    def wants_pairs(self) -> bool:
        """Whether the next forward collects, and so needs `copies`."""
        return self.selective and self.training and self._collects(int(self.step))

    def forward(self, maps: Sequence[Tensor], copies: Sequence[Tensor] | None = None) -> Tensor:
        """The loss of a batch; its gradient goes to `maps`.

        Args:
            maps: the standardized maps of each layer, [N, C, H, W] with H W >= 2.
            copies: those of the photometric copies, of the same shapes. Needed where `wants_pairs`
                is true, else not read. Give them without gradient; nothing else is done with them.

        Raises:
            ValueError: maps that do not fit `channels`, or copies that are missing or do not fit.
        """
        self._check(maps)
        step = int(self.step)
        if step < self.begin:
            loss = _zero(maps)
        else:
            terms = [self._term(i, x) for i, x in enumerate(maps)]
            loss = torch.stack(terms).mean()
        if self.training:
            if self.selective and self._collects(step):
                self._add(maps, copies)
                if step == self.begin - 1:
                    self._choose()
            self.step += 1
        return loss

    def _collects(self, step: int) -> bool:
        return self.begin - self.collect <= step < self.begin

    def _term(self, i: int, x: Tensor) -> Tensor:
        mask = self.get_buffer(f"mask_{i}")
        entries = mask.sum()
        margin = 0 if self.selective else entries // RELAX
        total = (covariance(x).abs() * mask).sum((1, 2))
        return ((total - margin).clamp_min(0) / entries.clamp_min(1)).mean()

    @torch.no_grad()
    def _add(self, maps: Sequence[Tensor], copies: Sequence[Tensor] | None) -> None:
        if copies is None or [c.shape for c in copies] != [x.shape for x in maps]:
            got = None if copies is None else [list(c.shape) for c in copies]
            raise ValueError(
                f"copies must be given for forwards {self.begin - self.collect} to "
                f"{self.begin - 1} in the shapes of maps, {[list(x.shape) for x in maps]}, "
                f"got {got}"
            )
        pairs = zip(maps, copies, strict=True)  # the variance of two values:
        spread = [((covariance(x) - covariance(copy)) / 2).square() for x, copy in pairs]
        usable = torch.stack([v.isfinite().all(2).all(1) for v in spread]).all(0)
        names = ["count", *(f"variance_{i}" for i in range(len(spread)))]
        terms = [usable.sum(), *(v[usable].sum(0).float() for v in spread)]
        for name, term in zip(names, terms, strict=True):
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(term)
            self.get_buffer(name).add_(term)

    @torch.no_grad()
    def _choose(self) -> None:
        """Builds the masks."""
        for i in range(len(self.channels)):
            variance = self.get_buffer(f"variance_{i}").triu(1) / self.count.clamp_min(1)
            top = lowest_cluster(variance, self.clusters)
            self.get_buffer(f"mask_{i}").copy_(variance.double() > top)

    def _check(self, maps: Sequence[Tensor]) -> None:
        shapes = [list(x.shape) for x in maps]
        fit = len(maps) == len(self.channels) and all(
            len(s) == 4 and s[0] == shapes[0][0] and s[1] == c and s[2] * s[3] >= 2
            for s, c in zip(shapes, self.channels, strict=True)
        )
        if not fit:
            raise ValueError(
                "maps must be [N, C, H, W] with H W >= 2 for each C of channels="
                f"{list(self.channels)}, got {shapes}"
            )


def covariance(x: Tensor) -> Tensor:
    """X X^T / (HW - 1) of each image of x, [N, C, H, W] standardized: [N, C, C].

    At least float32, under autocast too.
    """
    x = x.flatten(2).to(torch.promote_types(x.dtype, torch.float32))
    with torch.autocast(x.device.type, enabled=False):
        return x @ x.mT / (x.shape[2] - 1)


def _zero(maps: Sequence[Tensor]) -> Tensor:
    """0 with a gradient of zeros to every map, whatever is in them."""
    parts = [x[:0].sum().to(torch.promote_types(x.dtype, torch.float32)) for x in maps]
    return torch.stack(parts).sum()


def lowest_cluster(values: Tensor, clusters: int) -> float:
    """The greatest value in the lowest of the k-means clusters of values, any shape, not empty.

    The optimum, not a local one: in one dimension clusters are intervals, and the least sum of
    squares of the first b values in k of them follows from that in k - 1. Repeated values count
    as often as they occur. With no more distinct values than clusters, each is a cluster.
    """
    x, weight = values.detach().double().cpu().unique(return_counts=True)
    n = len(x)
    if n <= clusters:
        return x[0].item()
    z = x - (x * weight).sum() / weight.sum()  # centred: fewer digits cancel in the costs
    sums = torch.stack([weight, weight * z, weight * z * z])
    sums = torch.cat([sums.new_zeros(3, 1), sums.cumsum(1)], 1)

    def cost(a: Tensor, b: Tensor) -> Tensor:
        """Sum of squared distances to their mean of the values a to b - 1."""
        w, s, q = sums[:, b] - sums[:, a]
        return (q - s * s / w).clamp_min(0)

    ends = torch.arange(n + 1)
    best = torch.full((n + 1,), torch.inf, dtype=torch.float64)
    best[1:] = cost(torch.zeros_like(ends[1:]), ends[1:])
    first = ends  # number of values in the lowest cluster
    for k in range(2, clusters + 1):
        best, split = _split(best, cost, k)
        first = first[split]
    return x[first[n] - 1].item()


def _split(best: Tensor, cost: Callable[[Tensor, Tensor], Tensor], k: int) -> tuple[Tensor, Tensor]:
    """min over a of best[a] + cost(a, b), and that a, for every b from k on.

    The best a never falls as b grows, so each b halves the search of those on its two sides: all
    of one depth are solved together, with about n candidates.
    """
    n = len(best) - 1
    least, split = torch.full_like(best, torch.inf), torch.zeros(n + 1, dtype=torch.long)
    low, high, a_low, a_high = (torch.tensor([i]) for i in (k, n, k - 1, n - 1))
    while len(low):
        middle = (low + high) // 2
        count = torch.minimum(middle - 1, a_high) - a_low + 1
        row = torch.arange(len(low)).repeat_interleave(count)
        a = a_low[row] + torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        totals = best[a] + cost(a, middle[row])
        least[middle] = least[middle].scatter_reduce(0, row, totals, "amin")
        a = torch.where(totals == least[middle][row], a, n)
        split[middle] = torch.full_like(middle, n).scatter_reduce(0, row, a, "amin")
        found = split[middle]
        low, high = torch.cat([low, middle + 1]), torch.cat([middle - 1, high])
        a_low, a_high = torch.cat([a_low, found]), torch.cat([found, a_high])
        kept = low <= high
        low, high, a_low, a_high = low[kept], high[kept], a_low[kept], a_high[kept]
    return least, split
