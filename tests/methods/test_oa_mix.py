import pytest
import torch

from ibnvision.methods import oa_mix as module
from ibnvision.methods.oa_mix import GEOMETRIC, OPERATIONS, oa_mix, saliency

NONE = torch.zeros(0, 4)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photo(height=40, width=56):
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    x = torch.stack(
        [rows / height + 0 * columns, columns / width + 0 * rows, 0 * rows + 0.4 + 0 * columns]
    )
    x[:, 10:20, 30:44] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    return 0.9 * x + 0.05


def test_every_operation_changes_the_image_and_stays_in_range():
    x = photo()
    for name, operation in OPERATIONS.items():
        y = operation(x, 0.9, 1).clamp(0, 1)
        assert y.shape == x.shape and torch.isfinite(y).all()
        assert (y - x).abs().max() > 0.02, name
        assert torch.equal(y, operation(x, 0.9, -1).clamp(0, 1)) == (
            name in ("autocontrast", "equalize", "posterize", "solarize")
        )
        if name in GEOMETRIC:
            torch.testing.assert_close(operation(x, 0.0, 1), x, atol=1e-5, rtol=0)
    moved = OPERATIONS["translate_x"](x, 1.0, 1)  # a tenth of 56 pixels, in from the left
    torch.testing.assert_close(moved[:, :, 6:], x[:, :, :-6])
    assert moved[:, :, :6].eq(0.5).all()


def test_the_generator_decides_and_nothing_else():
    x, kept, before = photo(), photo(), torch.get_rng_state()
    y = oa_mix(x, NONE, seeded(1))
    assert torch.equal(y, oa_mix(x, NONE, seeded(1)))
    assert not torch.equal(y, oa_mix(x, NONE, seeded(2)))
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), before)
    states = []
    for boxes in (NONE, torch.tensor([[30.0, 10.0, 44.0, 20.0]])):
        generator = seeded(3)
        oa_mix(x, boxes, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_mixing_by_hand(monkeypatch):
    """Copies all 1: the result is x + m (1 - x), with m drawn evenly and less in the object."""
    monkeypatch.setattr(module, "_copy", lambda x, *_: torch.ones_like(x))
    x, boxes, shares = torch.full((3, 40, 56), 0.25), torch.tensor([[10.2, 5.0, 19.5, 12.0]]), []
    for k in range(200):
        y = oa_mix(x, boxes, seeded(k), saliency_below=float("inf"), protection=0.25)
        m = (y - 0.25) / 0.75
        share = m[0, 0, 0].item()
        inside = m[:, 5:12, 10:20]
        torch.testing.assert_close(inside, torch.full_like(inside, share / 4), atol=1e-6, rtol=0)
        m[:, 5:12, 10:20] = share
        torch.testing.assert_close(m, torch.full_like(m, share), atol=1e-6, rtol=0)
        shares.append(share)
    shares = torch.tensor(shares)
    assert shares.min() < 0.03 and shares.max() > 0.97  # even draws: mean 1/2, deviation 0.29
    assert shares.mean().item() == pytest.approx(0.5, abs=0.07)
    assert shares.std().item() == pytest.approx(0.289, abs=0.03)


def test_weights_are_even_on_the_simplex(monkeypatch):
    """One hot copies: the weights can be read off the channels; each has mean 1/3, sd 0.236."""
    calls = []

    def one_hot(x, *_):
        y = torch.zeros_like(x)
        y[len(calls) % 3] = 1
        calls.append(1)
        return y

    monkeypatch.setattr(module, "_copy", one_hot)
    found = []
    for k in range(300):
        y = oa_mix(torch.zeros(3, 8, 8), NONE, seeded(k))[:, 0, 0]
        found.append(y / y.sum())
    found = torch.stack(found)
    torch.testing.assert_close(found.mean(0), torch.full((3,), 1 / 3), atol=0.05, rtol=0)
    torch.testing.assert_close(found.std(0), torch.full((3,), 0.2357), atol=0.03, rtol=0)


def test_protection_keeps_more_of_a_dull_object():
    x, boxes = photo(), torch.tensor([[4.0, 24.0, 20.0, 36.0]])
    box = (slice(None), slice(24, 36), slice(4, 20))
    options = {"saliency_below": float("inf")}
    off = {
        p: sum(
            (oa_mix(x, boxes, seeded(k), protection=p, **options) - x)[box].abs().mean()
            for k in range(10)
        )
        for p in (0.0, 0.5, 1.0)
    }
    assert off[0.0] == 0 < off[0.5] < 0.6 * off[1.0]
    same = [oa_mix(x, b, seeded(4), saliency_below=0) for b in (boxes, NONE)]
    assert torch.equal(*same)


def test_saliency_finds_what_stands_out():
    x = torch.full((3, 60, 80), 0.5) + 0.02 * torch.rand(3, 60, 80, generator=seeded())
    x[:, 20:30, 50:60] = 1.0
    boxes = torch.tensor([[50, 20, 60, 30], [5, 40, 15, 50], [90, 70, 95, 75], [0, 0, 80, 60.0]])
    found = saliency(x, boxes)
    assert found[0] > 3 and found[1] < 0.7 and found[2] == 0
    assert found[3].item() == pytest.approx(1, abs=1e-5)
    assert saliency(x, NONE).shape == (0,)


def test_regions_are_a_level_of_their_own(monkeypatch):
    """Chains that fill: the whole copy first, then boxes within it, of half a side at most."""
    sizes = []

    def fill(x, *_):
        sizes.append(tuple(x.shape[1:]))
        return torch.full_like(x, len(sizes) / 10)

    monkeypatch.setattr(module, "_chain", fill)
    y = module._copy(photo(), seeded(), depth=3, regions=4, strength=1.0)
    assert sizes[0] == (40, 56) and len(sizes) == 5
    assert all(1 <= h <= 21 and 1 <= w <= 29 for h, w in sizes[1:])
    assert (y == 0.1).any() and (y == 0.5).sum() == 3 * sizes[4][0] * sizes[4][1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    x = photo().to(dtype)
    y = oa_mix(x, torch.tensor([[4.0, 24.0, 20.0, 36.0]]), seeded())
    assert y.dtype == dtype and 0 <= y.min() and y.max() <= 1
    if dtype.itemsize == 2:
        single = oa_mix(x.float(), torch.tensor([[4.0, 24.0, 20.0, 36.0]]), seeded())
        assert torch.equal(y, single.to(dtype))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"image": torch.zeros(3, 8, 8).byte()}, TypeError, "floating point .* torch.uint8"),
        ({"image": torch.zeros(1, 3, 8, 8)}, ValueError, r"image must have shape \[3, H, W\]"),
        ({"boxes": torch.zeros(4)}, ValueError, r"boxes must have shape \[n, 4\], got \[4\]"),
        ({"width": 0}, ValueError, "width must be at least 1, got 0"),
        ({"depth": 0}, ValueError, "depth must be at least 1, got 0"),
        ({"regions": -1}, ValueError, "regions must be at least 0, got -1"),
        ({"strength": 1.5}, ValueError, r"strength must lie in \[0, 1\], got 1.5"),
        ({"protection": -0.1}, ValueError, r"protection must lie in \[0, 1\], got -0.1"),
    ],
)
def test_bad_arguments_are_named(changed, error, message):
    given = {"image": torch.zeros(3, 8, 8), "boxes": NONE, "generator": seeded(), **changed}
    with pytest.raises(error, match=message):
        oa_mix(**given)
