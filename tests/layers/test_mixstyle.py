import pytest
import torch

from ibnvision.layers import MixStyle
from ibnvision.testing import assert_close


def image(*shape, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(*shape[:2], 1, 1, generator=generator) * 3 + 0.5
    x = torch.randn(*shape, generator=generator) * spread + 5 * torch.randn(
        *shape[:2], 1, 1, generator=generator
    )
    return x.to(dtype)


def styles(x):
    var, mean = torch.var_mean(x, (2, 3), correction=0)
    return mean, (var + 1e-6).sqrt()


def test_each_image_gets_the_mixed_style_of_two_and_keeps_its_content():
    x = image(5, 3, 6, 7)
    torch.manual_seed(4)
    y = MixStyle(p=1, alpha=0.5)(x)
    torch.manual_seed(4)  # the same chance: whether, shares, partners
    torch.rand(())
    share = torch.distributions.Beta(*(torch.full((5, 1, 1, 1), 0.5).double(),) * 2).sample()
    share, partner = share[:, :, 0, 0], torch.randperm(5)
    assert (share > 0.05).any() and (share < 0.95).any() and (partner != torch.arange(5)).any()
    (mean, std), (mean_y, _) = styles(x), styles(y)
    assert_close(mean_y, share * mean + (1 - share) * mean[partner])
    std_mix = share * std + (1 - share) * std[partner]
    std_y = y.var((2, 3), correction=0).sqrt()
    assert_close(std_y, std_mix * x.var((2, 3), correction=0).sqrt() / std)
    assert_close(
        (y - mean_y[..., None, None]) / std_mix[..., None, None],
        (x - mean[..., None, None]) / std[..., None, None],
    )


def test_by_hand(monkeypatch):
    """Images -1, 1 and 8, 12: means 0 and 10, deviations 1 and 2; shares 1/4 and 1; swapped."""
    share = torch.tensor([0.25, 1.0]).double()[:, None, None, None]
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: share)
    monkeypatch.setattr(torch, "randperm", lambda n, device: torch.tensor([1, 0]))
    x = torch.tensor([[-1.0, 1.0], [8.0, 12.0]]).double().view(2, 1, 1, 2)
    y = MixStyle(p=1, eps=1e-12)(x)
    assert_close(y.flatten(), torch.tensor([7.5 - 1.75, 7.5 + 1.75, 8, 12]))


def test_one_draw_decides_for_the_batch_with_probability_p():
    x, layer = image(5, 2, 4, 4), MixStyle(p=0.25, alpha=2)
    changed = sum(not torch.equal(layer(x), x) for _ in range(400))
    assert 70 < changed < 130  # 100 expected, deviation 9; 305 if each image drew for itself
    assert MixStyle(p=0)(x) is x


def test_evaluation_is_the_identity_and_draws_nothing():
    x, layer = image(3, 2, 4, 4), MixStyle(p=1).eval()
    before = torch.get_rng_state()
    assert layer(x) is x
    assert torch.equal(torch.get_rng_state(), before)
    assert not layer.state_dict() and not list(layer.parameters())


def test_what_follows_does_not_depend_on_whether_a_batch_was_mixed():
    x, after = image(3, 2, 4, 4), []
    for p in (1e-9, 1):
        torch.manual_seed(2)
        MixStyle(p=p)(x)
        after.append(torch.rand(3))
    assert torch.equal(*after)


@pytest.mark.parametrize("shape", [(1, 4, 5, 6), (3, 4, 1, 1), (2, 3, 2, 2)])
def test_one_image_flat_channels_and_single_pixels_stay_finite(shape):
    x = image(*shape)
    x[0, 0] = 3  # flat
    x.requires_grad_()
    y = MixStyle(p=1)(x)
    y.sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()
    if shape[0] == 1:
        assert_close(y, x)


def test_statistics_are_constants_to_the_gradient():
    x = image(4, 3, 5, 5).requires_grad_()
    torch.manual_seed(3)
    y = MixStyle(p=1, alpha=1)(x)
    dy = torch.randn(y.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(y, x, dy)
    factor = (y - y.mean((2, 3), True)) / (x - x.mean((2, 3), True))  # std_mix / std
    assert_close(gradient, dy * factor.detach())
    (gradient,) = torch.autograd.grad(MixStyle(p=1e-9)(x), x, dy)
    assert torch.equal(gradient, dy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_its_statistics_in_float32(dtype):
    x = (image(4, 3, 32, 32) * 20 + 100).to(dtype)  # a float16 sum of squares would overflow
    results = []
    for z in (x, x.float()):
        torch.manual_seed(5)
        results.append(MixStyle(p=1, alpha=1)(z))
    assert results[0].dtype == dtype
    assert torch.equal(results[0], results[1].to(dtype))


def test_channels_last_goes_through():
    x = image(4, 3, 5, 6)
    results = []
    for z in (x, x.to(memory_format=torch.channels_last)):
        torch.manual_seed(5)
        results.append(MixStyle(p=1)(z))
    assert results[1].is_contiguous(memory_format=torch.channels_last)
    assert_close(*results)


def test_one_graph_holds_mixed_and_unmixed_batches():
    layer = MixStyle(p=0.5)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x, changed = image(4, 3, 5, 6), set()
    for seed in range(6):
        torch.manual_seed(seed)
        expected = layer(x)
        torch.manual_seed(seed)
        assert_close(compiled(x), expected)
        changed.add(torch.equal(expected, x))
    assert changed == {True, False}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"p": 1.5}, r"p must lie in \[0, 1\], got 1.5"),
        ({"p": float("nan")}, r"p must lie in \[0, 1\], got nan"),
        ({"alpha": 0}, "alpha must be above 0, got 0"),
        ({"eps": 0.0}, "eps must be above 0, got 0.0"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MixStyle(**kwargs)
