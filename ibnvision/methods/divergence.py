"""Feature divergence: how far the features of a layer move from one domain to another.

The mean of a channel over space is one number an image; over the images of a domain it is taken as
Gaussian. Between domains A and B a channel then has the symmetric divergence

    D(A || B) = KL(A || B) + KL(B || A),
    KL(A || B) = log(sB / sA) + (sA^2 + (mA - mB)^2) / (2 sB^2) - 1 / 2,

and a layer the mean of D over its channels. In the sum the logarithms cancel:

    D(A || B) = ((sA^2 - sB^2)^2 + (mA - mB)^2 (sA^2 + sB^2)) / (2 sA^2 sB^2).

Source: Pan et al., "Two at Once", ECCV 2018, https://arxiv.org/abs/1807.09441, where appearance
moves the features of shallow layers and instance normalization takes that away. Differs: channels
that are constant are left out and counted, and D between halves of one domain stands beside it,
since D of estimated Gaussians is above 0 without any difference: by about 2 / nA + 2 / nB.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GROUPS = 8  # of the images of a domain; its halves are 4 of them against the other 4
QUANTILES = {"q05": 0.05, "median": 0.5, "q95": 0.95}  # that a summary holds
ROUNDING = 1e-5  # a spread below this share of the features' own size is float32 rounding


class ImageMoments(NamedTuple):
    """Mean and mean square over space, float64 [N, C], of each image and channel."""

    mean: Tensor
    square: Tensor


class ChannelStatistics(NamedTuple):
    """Channels over the images of a domain, float64 [C]; any parts of a domain can be merged."""

    images: int
    mean: Tensor
    scatter: Tensor  # sum of the squared deviations from the mean
    square: Tensor  # mean square of the features themselves, over images and space

    @property
    def variance(self) -> Tensor:
        """Unbiased, [C]; ValueError for fewer than 2 images."""
        if self.images < 2:
            raise ValueError(f"a variance needs at least 2 images, got {self.images}")
        return self.scatter / (self.images - 1)

    @property
    def constant(self) -> Tensor:
        """Whether a channel is the same in all images up to rounding, bool [C].

        So is a channel that no image excites, and the output of an instance norm, whose mean over
        space is its bias.
        """
        return self.variance <= ROUNDING**2 * self.square


def image_moments(features: Tensor) -> ImageMoments:
    """The moments of features [N, C, H, W], of tokens [N, T, C], or of vectors [N, C].

    All tokens count alike, those of the class and registers too.

    Raises:
        TypeError: features are not of a floating-point type.
        ValueError: another number of dimensions, an empty one, or values that are not finite.
    """
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got dtype {features.dtype}")
    if features.dim() not in (2, 3, 4) or 0 in features.shape:
        raise ValueError(
            "features must have shape [N, C, H, W], [N, T, C] or [N, C], none of them 0, got "
            f"{list(features.shape)}"
        )
    if features.dim() == 2:
        features = features[..., None, None]
    tokens = features.dim() == 3
    rows = []
    for image in features:  # one by one: a double copy of large maps in a batch may not fit
        x = (image.T if tokens else image.flatten(1)).double()
        rows.append((x.mean(1), x.square().mean(1)))
    mean, square = (torch.stack(column) for column in zip(*rows, strict=True))
    if not torch.isfinite(square).all():
        raise ValueError("features must be finite, got inf or NaN")
    return ImageMoments(mean, square)


def statistics_of(images: ImageMoments) -> ChannelStatistics:
    """The statistics of the images of a batch, at least 1."""
    mean = images.mean.mean(0)
    scatter = (images.mean - mean).square().sum(0)
    return ChannelStatistics(len(images.mean), mean, scatter, images.square.mean(0))


def merge(parts: Iterable[ChannelStatistics]) -> ChannelStatistics:
    """The statistics of all images of the parts together; ValueError where there is no part."""
    rows = list(parts)
    if not rows:
        raise ValueError("parts must hold at least one, got none")
    count = sum(row.images for row in rows)
    mean = torch.stack([row.images * row.mean for row in rows]).sum(0) / count
    scatter = sum(row.scatter + row.images * (row.mean - mean).square() for row in rows)
    square = torch.stack([row.images * row.square for row in rows]).sum(0) / count
    return ChannelStatistics(count, mean, torch.as_tensor(scatter), square)


def divergence(a: ChannelStatistics, b: ChannelStatistics) -> Tensor:
    """D of each channel, float64 [C], in nats.

    NaN for a channel that is constant in both domains at one value, which says nothing; inf for one
    that is constant in one of them, or in both at two values.

    Raises: ValueError where a or b has fewer than 2 images, or their channels differ.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            "a and b must have the same channels, got "
            f"{list(a.mean.shape)} and {list(b.mean.shape)}"
        )
    distance = (a.mean - b.mean).square()
    product = 2 * a.variance * b.variance
    value = ((a.variance - b.variance).square() + distance * (a.variance + b.variance)) / product
    one_value = distance <= ROUNDING**2 * torch.maximum(a.square, b.square)
    value = torch.where(a.constant | b.constant, torch.inf, value)
    return torch.where(a.constant & b.constant & one_value, torch.nan, value)


def null(groups: Sequence[ChannelStatistics]) -> Tensor | None:
    """D between halves of one domain, float64 [35, C]: what no difference looks like.

    groups: GROUPS parts of the images, at random and of about one size; each way to halve them is a
    row. A half has half of the images, so D is about twice that of two such whole domains; where
    images are frames of one video, which are no independent draws, it says too little. None where
    there are fewer groups, since halves would have fewer than 4 images.
    """
    if len(groups) < GROUPS:
        return None
    rows = []
    for others in itertools.combinations(range(1, GROUPS), GROUPS // 2 - 1):
        half = {0, *others}
        sides = ([row for i, row in enumerate(groups) if (i in half) == side] for side in (1, 0))
        rows.append(divergence(*map(merge, sides)))
    return torch.stack(rows)


def quantiles(values: Tensor) -> dict[str, float | None]:
    """Mean, q05, median and q95 of the finite values of `divergence`; None where there are none."""
    finite = values[torch.isfinite(values)]
    if not len(finite):
        return dict.fromkeys(("mean", *QUANTILES))
    levels = finite.quantile(finite.new_tensor([*QUANTILES.values()])).tolist()
    return {"mean": finite.mean().item(), **dict(zip(QUANTILES, levels, strict=True))}


def summary(values: Tensor) -> dict[str, float | None]:
    """The quantiles of `divergence`, [C], the channels, and how many are not finite, by reason."""
    return {
        **quantiles(values),
        "channels": values.numel(),
        "constant_in_both": int(values.isnan().sum()),
        "constant_in_one": int(values.isinf().sum()),
    }
