"""Restoration: PSNR and SSIM under the rules of the dehazing papers.

SSIM is our own, since torchmetrics pads by reflection, which is none of those rules.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOAT = "on the clamped float images, not rounded to 8 bits; mean over images"
_SSIM = "11x11 gaussian window of sigma 1.5, per RGB channel"
PROTOCOLS = {  # key of a result -> how the number comes about
    "psnr_rgb_db": f"20 log10(1 / RMSE) over all RGB values {_FLOAT}; an equal pair is 100 dB",
    "psnr_y_db": "the same on Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255, ITU-R BT.601 in "
    "studio range with peak 1, as the papers compute it (rgb2ycbcr)",
    "ssim_zero_padded": f"{_SSIM}, zero padding, mean over the whole image (DEA-Net)",
    "ssim_valid": f"{_SSIM}, mean over the pixels whose window lies inside the image",
    "ssim_pooled": "ssim_valid after adaptive average pooling by max(1, round(min(H, W) / 256)) "
    "(DehazeFormer, gUNet, MixDehazeNet)",
}
_EQUAL_DB = 100.0
_WINDOW = 11
_SIGMA = 1.5


class RestorationMetric:
    """PSNR and SSIM of restored images under the rules of PROTOCOLS, means over the images."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Measure a batch, both float [N, 3, H, W] in [0, 1]; the prediction is clamped to it.

        Raises: ValueError for unequal shapes, other than three channels or a side below 11.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction must have the shape of target, {list(target.shape)}, "
                f"got {list(prediction.shape)}"
            )
        if target.dim() != 4 or target.shape[1] != 3 or min(target.shape[2:]) < _WINDOW:
            raise ValueError(
                f"prediction and target must be [N, 3, H, W] with sides of at least {_WINDOW}, "
                f"got {list(target.shape)}"
            )
        x, y = prediction.detach().double().clamp(0, 1), target.detach().double()
        down = max(1, round(min(y.shape[2:]) / 256))
        size = (y.shape[2] // down, y.shape[3] // down)
        whole, inside = _ssim(x, y)
        if down > 1:
            _, pooled = _ssim(*(F.adaptive_avg_pool2d(image, size) for image in (x, y)))
        else:
            pooled = inside
        row = [psnr(x, y), psnr(luma(x), luma(y)), whole, inside, pooled]
        self._rows.append(torch.stack(row, 1).cpu())

    def state(self) -> Tensor:
        """The rows of all images, float64 on the CPU: what a process gives to another's `merge`."""
        return torch.cat(self._rows) if self._rows else torch.zeros(0, len(PROTOCOLS)).double()

    def merge(self, state: Tensor) -> None:
        """Count what another metric has measured; its images come after."""
        self._rows.append(state)

    def compute(self) -> dict[str, Any]:
        """The keys of PROTOCOLS; NaN where no image was measured."""
        rows = self.state()
        rows = rows if len(rows) else torch.full((1, len(PROTOCOLS)), math.nan)
        return dict(zip(PROTOCOLS, rows.mean(0).tolist(), strict=True))


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """PSNR in dB of each image of [N, C, H, W] in [0, 1], [N]; 100 where both are equal."""
    error = (x - y).square().mean((1, 2, 3))
    return torch.where(error == 0, _EQUAL_DB, -10 * torch.log10(error))


def luma(image: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in studio range, [N, 1, H, W] in [16, 235] / 255, of RGB in [0, 1]."""
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return ((image * weights).sum(1, keepdim=True) + 16) / 255


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM of each image, [N]: over the zero-padded map, and over its part without padding."""
    c1, c2 = 0.01**2, 0.03**2
    mx, my, xx, yy, xy = (_blur(image) for image in (x, y, x * x, y * y, x * y))
    top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    ssim = top / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))
    edge = _WINDOW // 2
    inside = ssim[..., edge : ssim.shape[2] - edge, edge : ssim.shape[3] - edge]
    return ssim.mean((1, 2, 3)), inside.mean((1, 2, 3))


def _blur(image: Tensor) -> Tensor:
    """The gaussian window on zero padding; sums of shifted maps are faster than convolutions."""
    offset = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-offset.square() / (2 * _SIGMA**2))
    edge = _WINDOW // 2
    for dim, padding in ((3, (edge, edge)), (2, (0, 0, edge, edge))):
        padded, count = F.pad(image, padding), image.shape[dim]
        image = torch.zeros_like(image)
        for i, share in enumerate((window / window.sum()).tolist()):
            image.add_(padded.narrow(dim, i, count), alpha=share)
    return image
