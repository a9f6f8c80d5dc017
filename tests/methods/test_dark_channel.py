import pytest
import torch

from ibnvision.data.haze import scatter
from ibnvision.methods.dark_channel import (
    airlight,
    dark_channel,
    guided_filter,
    restore,
    transmission,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean()))


def test_dark_channel_by_hand():
    image = torch.full((1, 3, 3, 5), 0.9)
    image[0, 1, 1, 1] = 0.2
    image[0, 2, 0, 4] = 0.4
    expected = [[0.2, 0.2, 0.2, 0.4, 0.4], [0.2, 0.2, 0.2, 0.4, 0.4], [0.2, 0.2, 0.2, 0.9, 0.9]]
    torch.testing.assert_close(dark_channel(image, 3)[0, 0], torch.tensor(expected))
    torch.testing.assert_close(dark_channel(image, 1)[0, 0], image[0].amin(0))
    assert torch.equal(dark_channel(image, 15), torch.full((1, 1, 3, 5), 0.2))  # wider than it


def test_airlight_is_the_brightest_of_the_haziest_pixels():
    image = torch.rand(2, 3, 40, 50, generator=seeded()) * 0.5
    dark = torch.rand(2, 1, 40, 50, generator=seeded(1)) * 0.5
    dark[0, 0, 3, 4], dark[0, 0, 5, 6], dark[1, 0, 7, 8], dark[1, 0, 9, 9] = 0.9, 0.8, 0.9, 0.8
    image[0, :, 3, 4] = torch.tensor([0.7, 0.6, 0.6])
    image[0, :, 5, 6] = torch.tensor([0.7, 0.8, 0.9])  # 0.1 % of 2000 pixels are these two
    image[1, :, 7, 8] = torch.tensor([0.6, 0.7, 0.8])
    image[0, :, 0, 0] = 1.0  # brighter, not hazy
    found = airlight(image, dark)[..., 0, 0]
    torch.testing.assert_close(found, torch.tensor([[0.7, 0.8, 0.9], [0.6, 0.7, 0.8]]))


def test_transmission_of_a_scene_with_a_black_pixel_in_each_patch():
    image = torch.rand(1, 3, 30, 30, generator=seeded(), dtype=torch.float64)
    image[:, 0, ::3, ::3] = 0
    depth = torch.full((1, 30, 30), 0.5, dtype=torch.float64)
    light = torch.tensor([0.8, 0.85, 0.9], dtype=torch.float64)
    t = torch.exp(torch.tensor(-0.6, dtype=torch.float64))
    hazy = scatter(image, depth, 1.2, light)
    found = transmission(hazy, light[None, :, None, None], patch=7, omega=1.0)
    torch.testing.assert_close(found, t.expand_as(found))
    found = transmission(hazy, light[None, :, None, None], patch=7)
    torch.testing.assert_close(found, (1 - 0.95 * (1 - t)).expand_as(found))


def test_guided_filter_is_its_definition():
    radius, eps, h, w = 2, 0.01, 7, 9
    guide = torch.rand(1, 3, h, w, generator=seeded(), dtype=torch.float64)
    x = torch.rand(1, 1, h, w, generator=seeded(1), dtype=torch.float64)

    def window(i, j):
        return (
            slice(max(i - radius, 0), i + radius + 1),
            slice(max(j - radius, 0), j + radius + 1),
        )

    fits = torch.empty(h, w, 4, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            rows, columns = window(i, j)
            colours = guide[0, :, rows, columns].flatten(1)
            values = x[0, 0, rows, columns].flatten()
            centred = colours - colours.mean(1, keepdim=True)
            covariance = centred @ centred.T / len(values) + eps * torch.eye(3)
            slope = torch.linalg.inv(covariance) @ (centred @ values / len(values))
            fits[i, j, :3], fits[i, j, 3] = slope, values.mean() - slope @ colours.mean(1)
    expected = torch.empty(h, w, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            mean = fits[window(i, j)].flatten(0, 1).mean(0)
            expected[i, j] = mean[:3] @ guide[0, :, i, j] + mean[3]
    torch.testing.assert_close(guided_filter(guide, x, radius, eps)[0, 0], expected)


def test_guided_filter_keeps_a_linear_function_of_the_guide():
    guide = torch.rand(2, 3, 30, 40, generator=seeded(), dtype=torch.float64)
    x = 0.3 + (guide * torch.tensor([0.5, -0.2, 0.1])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(guided_filter(guide, x, 5, 1e-12), x, atol=1e-8, rtol=0)


def outdoors(height=120, width=160):
    """Coloured blocks in perspective under a bright sky, with its depth, far = 1."""
    clear = torch.rand(1, 3, height // 6, width // 8, generator=seeded(4)) ** 2 * 0.8
    clear[:, 0, ::2] *= 0.1
    clear = clear.repeat_interleave(6, 2).repeat_interleave(8, 3)
    depth = (1 - torch.arange(height) / height)[:, None].expand(height, width).clone()
    clear[:, :, : height // 5], depth[: height // 5] = 0.85, 2.5
    return clear, depth[None]


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_restores_a_hazy_outdoor_scene(beta):
    clear, depth = outdoors()
    hazy = scatter(clear, depth, beta, 0.9)
    ground = restore(hazy)[:, :, 24:]
    assert psnr(ground, clear[:, :, 24:]) > psnr(hazy[:, :, 24:], clear[:, :, 24:]) + 5


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (16, 24)])
def test_any_size_type_and_batch(size):
    image = torch.rand(2, 3, *size, generator=seeded(), dtype=torch.float64)
    both = restore(image)
    assert both.shape == image.shape and both.dtype == torch.float64
    assert torch.isfinite(both).all() and 0 <= both.min() and both.max() <= 1
    torch.testing.assert_close(both[1:], restore(image[1:]))


def test_a_black_image_stays_black():
    assert restore(torch.zeros(1, 3, 20, 20)).abs().max() < 1e-5


def test_bad_input():
    image = torch.rand(1, 3, 8, 8)
    with pytest.raises(TypeError, match="image must be floating point.*got dtype torch.uint8"):
        restore((image * 255).byte())
    with pytest.raises(ValueError, match=r"image must have shape \[N, 3, H, W\].*got \[3, 8, 8\]"):
        restore(image[0])
    with pytest.raises(ValueError, match="patch must be odd and at least 1, got 4"):
        restore(image, patch=4)
