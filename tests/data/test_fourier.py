import pytest
import torch

from ibnvision.data.fourier import fourier_style

SIZES = [(8, 8), (7, 9), (8, 5), (1, 6), (5, 1), (2, 2)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(n=4, height=8, width=9, dtype=torch.float64):
    """In the middle of [0, 1], so that nothing is cut."""
    x = torch.rand(n, 3, height, width, generator=seeded(9), dtype=torch.float64)
    return (0.45 + 0.1 * x).to(dtype)


def drawn(n, seed):
    """What fourier_style draws: whether, shares of (0, 1), partners."""
    generator = seeded(seed)
    chosen = torch.rand(n, generator=generator)
    return chosen, torch.rand(n, generator=generator), torch.randperm(n, generator=generator)


@pytest.mark.parametrize("size", SIZES)
def test_amplitudes_are_mixed_and_phases_kept(size):
    x = photos(4, *size)
    y = fourier_style(x, seeded(3), p=1)
    _, share, partner = drawn(4, 3)
    assert (partner != torch.arange(4)).any()
    share = share[:, None, None, None].double()
    source, result = torch.fft.fft2(x), torch.fft.fft2(y)
    expected = (1 - share) * source.abs() + share * source[partner].abs()
    torch.testing.assert_close(result.abs(), expected)
    torch.testing.assert_close(result, torch.polar(expected, source.angle()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [0, 0.1, 0.25, 0.5])
def test_a_window_swaps_low_frequencies_alone(size, window):
    x = photos(4, *size)
    y = fourier_style(x, seeded(3), p=1, window=window, strength=(1, 1))
    partner = drawn(4, 3)[2]
    source = torch.fft.fftshift(torch.fft.fft2(x), dim=(2, 3))
    expected = source.abs()
    (height, width), theirs = size, expected[partner]
    for i in range(height):
        for j in range(width):  # zero is at the floor of half the side
            down, across = abs(i - height // 2), abs(j - width // 2)
            if down <= int(window * height) and across <= int(window * width):
                expected[:, :, i, j] = theirs[:, :, i, j]
    result = torch.fft.fftshift(torch.fft.fft2(y), dim=(2, 3))
    torch.testing.assert_close(result, torch.polar(expected, source.angle()))


def test_by_hand():
    """Two flat images swap their means; with two pixels, also the size of the step between them."""
    x = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 3, 4, 5)
    swapped = next(s for s in range(9) if drawn(2, s)[2].tolist() == [1, 0])
    y = fourier_style(x, seeded(swapped), p=1, strength=(1, 1), window=0)
    torch.testing.assert_close(y, x.flip(0))
    y = fourier_style(x, seeded(swapped), p=1, strength=(0.25, 0.25))
    torch.testing.assert_close(y[:, 0, 0, 0], torch.tensor([0.35, 0.65]))
    x = torch.tensor([[0.5, 0.3], [0.6, 0.7]]).view(2, 1, 1, 2)
    y = fourier_style(x, seeded(swapped), p=1, strength=(1, 1))  # means and half steps swapped
    torch.testing.assert_close(y.view(2, 2), torch.tensor([[0.7, 0.6], [0.3, 0.5]]))
    y = fourier_style(x, seeded(swapped), p=1, strength=(1, 1), window=0)
    torch.testing.assert_close(y.view(2, 2), torch.tensor([[0.75, 0.55], [0.35, 0.45]]))


def test_results_are_cut():
    x = torch.zeros(2, 1, 1, 2)
    x[0, 0, 0] = torch.tensor([1.0, 0.8])
    x[1, 0, 0] = torch.tensor([0.0, 0.9])
    swapped = next(s for s in range(9) if drawn(2, s)[2].tolist() == [1, 0])
    y = fourier_style(x, seeded(swapped), p=1, strength=(1, 1))
    torch.testing.assert_close(y.view(2, 2), torch.tensor([[0.9, 0.0], [0.8, 1.0]]))
    y = fourier_style(x, seeded(swapped), p=1, strength=(1, 1), window=0)
    torch.testing.assert_close(y.view(2, 2), torch.tensor([[0.55, 0.35], [0.45, 1.0]]))


def test_strength_and_share_of_the_images():
    x = torch.rand(2000, 1, 1, 1, generator=seeded(1)) * 0.5 + 0.25
    chosen, share, partner = drawn(2000, 4)
    y = fourier_style(x, seeded(4), p=0.3, strength=(0.2, 0.6)).flatten()
    changed = chosen < 0.3
    assert torch.equal(y[~changed], x.flatten()[~changed])
    lam = 0.2 + 0.4 * share
    expected = (1 - lam) * x.flatten() + lam * x.flatten()[partner]
    torch.testing.assert_close(y[changed], expected[changed])
    assert 500 < changed.sum() < 700
    assert fourier_style(x, seeded(), p=0) is x


@pytest.mark.parametrize("window", [None, 0.1])
def test_an_only_image_comes_back(window):
    for size in SIZES:
        x = torch.rand(1, 3, *size)
        torch.testing.assert_close(fourier_style(x, seeded(), p=1, window=window), x)
    black = torch.zeros(1, 3, 4, 4)  # no phase to keep
    assert torch.equal(fourier_style(black, seeded(), p=1), black)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_empty_batches_go_through(shape):
    assert fourier_style(torch.zeros(shape), seeded(), p=1).shape == shape


def test_the_generator_is_the_only_source_of_chance_and_moves_alike_for_any_arguments():
    x, before, after = photos(), torch.get_rng_state(), []
    for kwargs in ({}, {"p": 0}, {"p": 1, "window": 0.1}, {"strength": (1, 1)}):
        generator = seeded(1)
        fourier_style(x, generator, **kwargs)
        after.append(generator.get_state())
    assert all(torch.equal(state, after[0]) for state in after)
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (fourier_style(x, seeded(s), p=1) for s in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_and_channels_last(dtype):
    x = photos(dtype=dtype)
    y = fourier_style(x, seeded(2), p=1)
    assert y.dtype == dtype
    assert torch.equal(y, fourier_style(x.float(), seeded(2), p=1).to(dtype))
    z = fourier_style(x.to(memory_format=torch.channels_last), seeded(2), p=1)
    torch.testing.assert_close(z, y)


def test_the_input_stays():
    x = photos()
    before = x.clone()
    fourier_style(x, seeded(), p=1)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"window": 0.6}, r"window must lie in \[0, 0.5\] or be None, got 0.6"),
        ({"window": -0.1}, r"window must lie in \[0, 0.5\]"),
        ({"strength": (0.5, 0.2)}, r"strength must be .* got \(0.5, 0.2\)"),
        ({"strength": (0, 1.1)}, "strength must be .* 1.1"),
        ({"p": -1}, r"p must lie in \[0, 1\], got -1"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        fourier_style(photos(), seeded(), **kwargs)


def test_bad_images_are_named():
    with pytest.raises(TypeError, match="images must be floating point .* torch.uint8"):
        fourier_style(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), seeded())
    with pytest.raises(ValueError, match=r"images must have shape \[N, C, H, W\], got \[3, 4, 4\]"):
        fourier_style(torch.zeros(3, 4, 4), seeded())
