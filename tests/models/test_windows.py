"""Sliding windows: the published mean, seams that blend away, and few rows held at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.benchmark.live_bytes import LiveBytes
from ibnvision.models.windows import resize_rows, slide, slide_rows


class Pointwise(nn.Module):
    """Three classes from the colours of each pixel alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Wide(nn.Module):
    """Zero padding and a mean over the window: its logits depend on where the window lies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x.mean((1, 2, 3), keepdim=True)


def mean_of_windows(model, image, window, stride):
    """The published procedure, pixel counts and all, on the whole canvas."""
    height, width = image.shape[1:]
    total, count = torch.zeros(5, height, width), torch.zeros(height, width)
    for row in range(max(height - window[0] + stride[0] - 1, 0) // stride[0] + 1):
        for column in range(max(width - window[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom = min(row * stride[0] + window[0], height)
            right = min(column * stride[1] + window[1], width)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            part = image[None, :, top:bottom, left:right].contiguous()
            total[:, top:bottom, left:right] += model(part)[0]
            count[top:bottom, left:right] += 1
    assert count.min() > 0
    return total / count


SIZES = [(41, 47), (16, 20), (7, 9), (33, 20), (17, 21)]
PLANS = [((16, 20), (11, 13)), ((16, 20), (16, 20)), ((16, 20), (3, 9))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("window", "stride"), PLANS)
@torch.no_grad()
def test_is_the_mean_over_windows_to_the_bit(size, window, stride):
    model, images = Wide(), torch.rand(2, 3, *size)
    found = slide(model, images, window=window, stride=stride)
    expected = torch.stack([mean_of_windows(model, image, window, stride) for image in images])
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    together = slide(model, images, window=window, stride=stride, batch=3)
    torch.testing.assert_close(together, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("window", "stride"), PLANS)
@pytest.mark.parametrize("blend", [False, True])
def test_a_pointwise_model_gives_what_the_whole_image_gives(size, window, stride, blend):
    model, images = Pointwise(), torch.rand(1, 3, *size)
    found = slide(model, images, window=window, stride=stride, blend=blend)
    torch.testing.assert_close(found, model(images).detach())


def test_one_window_is_the_model_itself():
    model, images = Wide(), torch.rand(1, 3, 13, 17)
    for blend in (False, True):
        found = slide(model, images, window=(13, 99), stride=(9, 50), blend=blend)
        assert torch.equal(found, model(images))


class Steps(nn.Module):
    """A constant that differs from window to window, as a network's opinion does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.full_like(x[:, :1], float(self.calls % 2))


@pytest.mark.parametrize("side", [96, 101])
def test_blending_leaves_no_seam(side):
    image = torch.rand(1, 3, side, 32)
    sides = {"window": (32, 32), "stride": (20, 32)}

    def steepest(blend):
        return slide(Steps(), image, blend=blend, **sides).diff(dim=2).abs().max().item()

    assert steepest(False) == 0.5
    assert steepest(True) < 0.15  # a raised cosine over 12 pixels rises by at most pi / 24


def test_blended_weights_are_those_of_a_raised_cosine():
    found = slide(Steps(), torch.rand(1, 3, 8, 44), window=(8, 32), stride=(8, 12), blend=True)
    at = torch.arange(44) + 0.5
    ramp = torch.sin(at.clamp(max=20) * torch.pi / 40) ** 2
    first = ramp.flip(0)[12:]  # falls to the right from pixel 12 on
    second = ramp[:32]
    expected = torch.ones(44)
    expected[12:32] = first[12:32] / (first[12:32] + second[:20])
    expected[32:] = 0
    assert torch.equal(found[0, 0, 0], found[0, 0, 7])
    torch.testing.assert_close(found[0, 0, 0], expected)


@pytest.mark.parametrize("blend", [False, True])
def test_bands_are_in_order_and_few_rows_are_held(blend):
    model, image = Pointwise(), torch.rand(3, 400, 300)
    row, done = 3 * 300 * 4, 0
    with LiveBytes() as live:
        bands = slide_rows(model, image, window=(40, 8), stride=(27, 6), blend=blend, batch=2)
        for top, scores in bands:
            assert top == done and scores.shape[::2] == (3, 300)
            done += scores.shape[1]
    assert done == 400
    counts, windows = 27 * 300 * 4, 5 * 2 * 3 * 40 * 8 * 4
    assert 40 * row < live.peak < (40 + 27) * row + counts + windows


def test_runs_without_gradients_in_the_dtype_of_the_model():
    images = torch.rand(1, 3, 30, 30)
    sides = {"window": (16, 16), "stride": (8, 8)}
    model = Pointwise().double()
    found = slide(model, images, **sides)
    assert found.dtype == torch.float32 and not found.requires_grad
    assert torch.equal(slide(lambda x: x.bfloat16(), images, **sides), images.bfloat16().float())


@pytest.mark.parametrize("size", [(90, 130), (33, 47), (31, 50), (12, 20), (1, 3), (64, 33)])
@pytest.mark.parametrize("chunk", [1, 600, 2**24])
def test_resized_bands_are_the_resized_whole(size, chunk, monkeypatch):
    monkeypatch.setattr("ibnvision.models.windows._CHUNK", chunk)
    scores = torch.rand(4, 33, 47)
    sides = {"window": (10, 47), "stride": (6, 47)}
    rows, done = [], 0
    for top, band in resize_rows(slide_rows(nn.Identity(), scores, **sides), 33, size):
        assert top == done and band[0].numel() <= max(size[1], chunk)
        done += band.shape[1]
        rows.append(band)
    whole = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(torch.cat(rows, 1), whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": (17, 8)}, r"stride must be at most window, \(16, 16\), got \(17, 8\)"),
        ({"stride": (0, 8)}, r"stride must be \(height, width\), each at least 1, got \(0, 8\)"),
        ({"window": (16, 0)}, r"window must be \(height, width\), each at least 1, got \(16, 0\)"),
        ({"window": (16,)}, r"window must be \(height, width\)"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"images": torch.rand(3, 20, 20)}, r"images must be \[N, C, H, W\].*got \[3, 20, 20\]"),
        ({"images": torch.rand(1, 3, 0, 20)}, "none of them 0"),
        ({"images": torch.rand(0, 3, 20, 20)}, "none of them 0"),
        (
            {"model": nn.AvgPool2d(2)},
            r"model must give logits \[1, K, 16, 16\].*got \[1, 3, 8, 8\]",
        ),
    ],
)
def test_says_what_is_wrong(arguments, message):
    images = torch.rand(1, 3, 20, 20)
    given = {"model": nn.Identity(), "images": images, "window": (16, 16), "stride": (8, 8)}
    given |= arguments
    with pytest.raises(ValueError, match=message):
        slide(given.pop("model"), given.pop("images"), **given)


def test_types_are_named():
    sides = {"window": (16, 16), "stride": (8, 8)}
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.uint8"):
        slide(nn.Identity(), torch.zeros(1, 3, 20, 20, dtype=torch.uint8), **sides)
    with pytest.raises(TypeError, match="model must give a tensor of logits, got dict"):
        slide(lambda x: {"out": x}, torch.rand(1, 3, 20, 20), **sides)
    with pytest.raises(ValueError, match="height and size must be at least 1"):
        next(resize_rows(iter(()), 4, (0, 5)))
