"""The divergence of Gaussians by hand, its statistics in parts, and the level of no difference."""

import math

import pytest
import torch
from torch.testing import assert_close

from ibnvision.layers import IBN
from ibnvision.methods.divergence import (
    GROUPS,
    ChannelStatistics,
    divergence,
    image_moments,
    merge,
    null,
    statistics_of,
    summary,
)


def gaussian(mean: list[float], std: list[float], count: int = 50) -> ChannelStatistics:
    """Statistics with exactly these means and standard deviations."""
    m, s = (torch.tensor(row, dtype=torch.float64) for row in (mean, std))
    return ChannelStatistics(count, m, s.square() * (count - 1), m.square() + s.square())


def of(features: torch.Tensor) -> ChannelStatistics:
    return statistics_of(image_moments(features))


def in_groups(features: torch.Tensor) -> list[ChannelStatistics]:
    return [of(part) for part in features.chunk(GROUPS)]


def test_two_gaussians_by_hand():
    """KL(A || B) = log 2 + (1 + 9) / 8 - 1 / 2, KL(B || A) = -log 2 + (4 + 9) / 2 - 1 / 2."""
    found = divergence(gaussian([1.0, 5.0], [1.0, 3.0]), gaussian([4.0, 5.0], [2.0, 3.0]))
    there, back = math.log(2) + 10 / 8 - 0.5, -math.log(2) + 13 / 2 - 0.5
    assert_close(found, torch.tensor([there + back, 0.0], dtype=torch.float64))


def test_agrees_with_the_distributions_of_torch():
    mean, std = torch.randn(2, 40, dtype=torch.float64), 0.1 + torch.rand(2, 40).double()
    a, b = (torch.distributions.Normal(m, s) for m, s in zip(mean, std, strict=True))
    kl = torch.distributions.kl_divergence
    found = divergence(*(gaussian(m, s) for m, s in zip(mean.tolist(), std.tolist(), strict=True)))
    assert_close(found, kl(a, b) + kl(b, a))


def test_is_symmetric_and_knows_neither_scale_nor_offset():
    """So an affine map behind a layer, as of a norm in evaluation, does not change its number."""
    a, b = torch.randn(30, 6, 4, 5).double(), 2 + 3 * torch.randn(30, 6, 4, 5).double()
    found = divergence(of(a), of(b))
    assert_close(divergence(of(b), of(a)), found)
    assert_close(divergence(of(5 - 7 * a), of(5 - 7 * b)), found)
    assert (found > 1).all()


@pytest.mark.parametrize("shape", [(23, 4, 5, 3), (23, 7, 4), (23, 4)])
def test_parts_make_the_whole(shape):
    """The mean is a thousand times the spread, where sums of squares would lose their digits."""
    features = 1000 + torch.randn(shape)
    whole = features.double()
    means = {4: lambda x: x.mean((2, 3)), 3: lambda x: x.mean(1), 2: lambda x: x}[len(shape)](whole)
    found = merge(of(part) for part in features.split(5))
    assert found.images == 23
    assert_close(found.mean, means.mean(0), rtol=1e-13, atol=0)
    assert_close(found.variance, means.var(0), rtol=1e-9, atol=0)
    squares = whole.square().movedim(1 if len(shape) != 3 else 2, -1).reshape(-1, 4).mean(0)
    assert_close(found.square, squares, rtol=1e-13, atol=0)
    nested = merge([merge(of(part) for part in features[:9].split(2)), of(features[9:])])
    assert_close(nested.scatter, found.scatter, rtol=1e-9, atol=0)


def test_constant_channels_are_told_apart():
    """Dead in both; alive in one only; constant in both at two values; a usual one."""
    a = gaussian([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0])
    b = gaussian([0.0, 2.0, 3.0, 2.0], [0.0, 1.0, 0.0, 1.0])
    found = divergence(a, b)
    assert found.tolist() == pytest.approx([math.nan, math.inf, math.inf, 1.0], nan_ok=True)
    facts = summary(found)
    assert (facts["constant_in_both"], facts["constant_in_one"], facts["channels"]) == (1, 2, 4)
    assert facts["mean"] == facts["q05"] == pytest.approx(1)
    assert summary(found[:3])["mean"] is None


def test_rounding_is_no_spread():
    """Behind an instance norm the mean over space is the bias, up to float32."""
    norm = IBN(4).eval()
    features = norm(3 + torch.rand(60, 4, 16, 16))
    assert of(features).constant.tolist() == [True, True, False, False]
    found = divergence(of(features[:30]), of(features[30:]))
    assert found.isnan().tolist() == [True, True, False, False]


def test_summary_has_the_quantiles_of_the_channels():
    facts = summary(torch.arange(101.0).double())
    assert [facts[k] for k in ("q05", "median", "q95", "mean")] == pytest.approx([5, 50, 95, 50])


def test_halves_of_one_domain_differ_as_much_as_their_size_says():
    """About 2 / n + 2 / n of n = 100 images in each half; a real difference stands out."""
    features = torch.randn(200, 2000)
    found = null(in_groups(features))
    assert found.shape == (35, 2000)
    assert found.mean().item() == pytest.approx(4 / 100, rel=0.1)
    two = divergence(of(features), of(torch.randn(200, 2000)))
    assert two.mean().item() == pytest.approx(4 / 200, rel=0.1)
    moved = divergence(of(features), of(torch.randn(200, 2000) + 1))
    assert moved.mean().item() > 20 * found.mean().item()


def test_every_split_into_halves_is_one_row():
    groups = in_groups(torch.arange(8.0).repeat_interleave(2)[:, None].square() + torch.rand(16, 1))
    found = null(groups)
    assert len(set(found[:, 0].tolist())) == 35
    first = divergence(merge(groups[:4]), merge(groups[4:]))
    assert_close(found[0], first)
    assert null(groups[:7]) is None


def test_wrong_features_are_named():
    with pytest.raises(TypeError, match=r"floating point, got dtype torch\.int64"):
        image_moments(torch.ones(2, 3, dtype=torch.int64))
    for shape in ((3,), (2, 3, 0, 4), (2, 3, 4, 5, 6), (0, 3)):
        with pytest.raises(ValueError, match="features must have shape"):
            image_moments(torch.ones(shape))
    with pytest.raises(ValueError, match="finite"):
        image_moments(torch.tensor([[1.0, math.inf]]))
    with pytest.raises(ValueError, match="finite"):
        image_moments(torch.full((1, 2, 3, 3), math.nan))


def test_statistics_that_do_not_fit_are_named():
    one, a, b = of(torch.rand(1, 3)), of(torch.rand(5, 3)), of(torch.rand(5, 4))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        divergence(one, a)
    with pytest.raises(ValueError, match=r"same channels, got \[3\] and \[4\]"):
        divergence(a, b)
    with pytest.raises(ValueError, match="at least one"):
        merge([])
