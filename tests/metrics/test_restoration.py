import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from ibnvision import metrics
from ibnvision.metrics import PROTOCOLS, RestorationMetric


def measured(prediction, target):
    metric = RestorationMetric()
    metric.update(prediction, target)
    return metric.compute()


def noisy(seed, height, width, sigma):
    """The pairs of the published numbers: uniform noise, and the same with gaussian noise."""
    target = np.random.RandomState(seed).rand(1, 3, height, width).astype(np.float32)
    noise = np.random.RandomState(seed + 1).randn(1, 3, height, width).astype(np.float32)
    return torch.from_numpy(target + np.float32(sigma) * noise), torch.from_numpy(target)


@pytest.mark.parametrize(
    ("pair", "psnr", "ssim"),  # of the published evaluation code of DEA-Net, in float32
    [
        ((31, 48, 56, 0.05), 26.186245881766194, 0.986125648021698),
        ((33, 37, 41, 0.2), 14.921450167886865, 0.8342766761779785),
        ((35, 20, 24, 0.0), 100, 1.0),
    ],
)
def test_published_psnr_and_ssim(pair, psnr, ssim):
    result = measured(*noisy(*pair))
    assert result["psnr_rgb_db"] == pytest.approx(psnr, abs=1e-5)
    assert result["ssim_zero_padded"] == pytest.approx(ssim, abs=1e-6)


def ssim_by_windows(x, y, padding):
    """SSIM written out window by window for one channel [H, W]."""
    offset = np.arange(11) - 5
    window = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    x, y = (np.pad(image, padding) for image in (x, y))
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * a * a).sum() - ma**2, (window * b * b).sum() - mb**2
            cov = (window * a * b).sum() - ma * mb
            top = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
            found.append(top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(found)


def test_ssim_is_its_definition_under_both_paddings():
    prediction, target = noisy(5, 13, 17, 0.1)
    result, x, y = measured(prediction, target), prediction.clamp(0, 1)[0].double(), target[0]
    for key, padding in (("ssim_zero_padded", 5), ("ssim_valid", 0)):
        channels = [ssim_by_windows(x[c].numpy(), y[c].double().numpy(), padding) for c in range(3)]
        assert result[key] == pytest.approx(np.mean(channels), abs=1e-12)
    assert abs(result["ssim_zero_padded"] - result["ssim_valid"]) > 1e-3


def test_valid_ssim_is_torchmetrics_map_without_its_reflected_edge():
    prediction, target = noisy(7, 30, 40, 0.1)
    x = prediction.clamp(0, 1).double()
    reflected, whole = structural_similarity_index_measure(
        x, target.double(), data_range=1.0, return_full_image=True
    )
    found = measured(prediction, target)["ssim_valid"]
    assert found == pytest.approx(whole[..., 5:-5, 5:-5].mean().item(), abs=1e-9)
    assert found != pytest.approx(reflected.item(), abs=1e-5)  # so torchmetrics' own number is not


def test_pooled_ssim_sees_the_picture_at_about_256_rows():
    small_x, small_y = noisy(9, 193, 200, 0.1)
    small_x = small_x.clamp(0, 1)
    large = [image.repeat_interleave(2, 2).repeat_interleave(2, 3) for image in (small_x, small_y)]
    small, result = measured(small_x, small_y), measured(*large)  # 386 rows: round(1.51) is 2
    assert small["ssim_pooled"] == small["ssim_valid"]
    assert result["ssim_pooled"] == pytest.approx(small["ssim_valid"], abs=1e-6)
    assert abs(result["ssim_valid"] - small["ssim_valid"]) > 0.005
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(193, 200)
    grey = torch.full_like(large[1], 0.5)
    fine = measured(grey + 0.1 * signs, grey)  # gone after the pooling
    assert fine["ssim_pooled"] == pytest.approx(1, abs=1e-6) and fine["ssim_valid"] < 0.2


def test_psnr_of_rgb_and_y_by_hand():
    black = torch.zeros(1, 3, 12, 12)
    red = black.clone()
    red[:, 0] = 0.5
    result = measured(red, black)
    assert result["psnr_rgb_db"] == pytest.approx(10 * math.log10(3 / 0.25))
    assert result["psnr_y_db"] == pytest.approx(20 * math.log10(255 / (0.5 * 65.481)))
    white = torch.ones(1, 3, 12, 12)
    assert metrics.luma(torch.cat([black, white]))[:, 0, 0, 0].tolist() == pytest.approx(
        [16 / 255, 235 / 255]
    )
    assert measured(1.7 * white, white)["psnr_rgb_db"] == 100  # the prediction is clamped


def test_the_mean_is_over_images_of_any_size():
    metric = RestorationMetric()
    assert all(math.isnan(v) for v in metric.compute().values())
    parts = [noisy(1, 20, 30, 0.05), noisy(2, 25, 15, 0.2), noisy(3, 20, 30, 0.3)]
    metric.update(*(torch.cat(images) for images in zip(parts[0], parts[2], strict=True)))
    metric.update(*parts[1])
    each = [measured(*pair) for pair in parts]
    assert list(metric.compute()) == list(PROTOCOLS)
    for key, value in metric.compute().items():
        assert value == pytest.approx(np.mean([row[key] for row in each]))


def test_images_that_do_not_fit_are_named():
    metric, image = RestorationMetric(), torch.zeros(1, 3, 12, 12)
    with pytest.raises(ValueError, match="prediction must have the shape of target"):
        metric.update(image[..., :11], image)
    for wrong in (image[:, :1], image[..., :10], image[0]):
        with pytest.raises(ValueError, match=r"\[N, 3, H, W\] with sides of at least 11, got"):
            metric.update(wrong, wrong)


def test_what_several_processes_measured_adds_up():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(2, 3, 3, 16, 16, generator=generator)
    whole, merged = RestorationMetric(), RestorationMetric()
    whole.update(*pairs)
    for mine in (slice(0, 2), slice(2, 3)):
        part = RestorationMetric()
        part.update(*pairs[:, mine])
        merged.merge(part.state())
    merged.merge(RestorationMetric().state())
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)
