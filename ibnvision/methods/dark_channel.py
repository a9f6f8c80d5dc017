"""The dark channel prior: dehazing without training, the baseline of every dehazing network.

In clear outdoor pictures some channel of some pixel of nearly every patch is dark; in haze that
minimum is the air light that was added, so it gives the transmission t of I = J t + A (1 - t).

Sources: He, Sun, Tang, CVPR 2009 and PAMI 2011; the transmission is refined by the guided filter
of He, Sun, Tang, ECCV 2010, in place of soft matting. Their parameters are the defaults: patch 15,
omega 0.95, t0 0.1, the brightest 0.1 % of the dark channel; radius 20 and eps 0.001.

Images are [N, 3, H, W] RGB in [0, 1], floating point, of any size and on any device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BRIGHTEST = 0.001  # share of the pixels among which the air light is looked for


def dark_channel(image: Tensor, patch: int = 15) -> Tensor:
    """Smallest value of any channel in the patch around each pixel; [N, 1, H, W].

    At the border the patch is what lies inside of the image. patch: side in pixels, odd.
    """
    _check_image(image)
    if patch < 1 or patch % 2 == 0:
        raise ValueError(f"patch must be odd and at least 1, got {patch}")
    darkest = image.amin(1, keepdim=True)
    for window in ((patch, 1), (1, patch)):
        pad = (window[0] // 2, window[1] // 2)
        darkest = -F.max_pool2d(-darkest, window, 1, pad)
    return darkest


def airlight(image: Tensor, dark: Tensor) -> Tensor:
    """Air light of each image, [N, 3, 1, 1].

    Of the 0.1 % of the pixels (one at least) with the brightest dark channel `dark`, [N, 1, H, W],
    the colour of the one that is brightest in the image.
    """
    count = max(1, round(BRIGHTEST * dark[0].numel()))
    hazy = dark.flatten(1).topk(count, 1).indices
    colours = image.flatten(2).gather(2, hazy[:, None].expand(-1, 3, -1))
    best = colours.sum(1).argmax(1)
    return colours[torch.arange(len(image)), :, best][..., None, None]


def transmission(image: Tensor, light: Tensor, patch: int = 15, omega: float = 0.95) -> Tensor:
    """t = 1 - omega * dark channel of image / light, [N, 1, H, W]; light: [N, 3, 1, 1]."""
    return 1 - omega * dark_channel(image / light.clamp_min(1e-3), patch)


def _box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the part of the window of side 2 radius + 1 that lies inside of the image."""
    side = 2 * radius + 1
    x = F.avg_pool2d(x, (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, radius), count_include_pad=False)


def guided_filter(guide: Tensor, x: Tensor, radius: int = 20, eps: float = 1e-3) -> Tensor:
    """x, [N, 1, H, W], smoothed along the edges of a colour guide, [N, 3, H, W].

    In each window x is fitted as a linear function of the guide, a = (cov(guide) + eps I)^-1
    cov(guide, x) and b = mean(x) - a . mean(guide); each pixel averages the fits of the windows
    that hold it. Windows are cut at the border.
    """
    n, c, h, w = guide.shape
    mean_guide, mean_x = _box_mean(guide, radius), _box_mean(x, radius)
    products = (guide[:, :, None] * guide[:, None]).reshape(n, c * c, h, w)
    covariance = _box_mean(products, radius).reshape(n, c, c, h, w)
    covariance = covariance - mean_guide[:, :, None] * mean_guide[:, None]
    cross = _box_mean(guide * x, radius) - mean_guide * mean_x
    ridge = eps * torch.eye(c, dtype=guide.dtype, device=guide.device)
    matrix = covariance.permute(0, 3, 4, 1, 2) + ridge
    slope = torch.linalg.solve(matrix, cross.permute(0, 2, 3, 1)[..., None])[..., 0]
    slope = slope.permute(0, 3, 1, 2)
    offset = mean_x - (slope * mean_guide).sum(1, keepdim=True)
    return (_box_mean(slope, radius) * guide).sum(1, keepdim=True) + _box_mean(offset, radius)


def restore(
    image: Tensor,
    *,
    patch: int = 15,
    omega: float = 0.95,
    t0: float = 0.1,
    radius: int = 20,
    eps: float = 1e-3,
) -> Tensor:
    """J = (I - A) / max(t, t0) + A, clamped to [0, 1]; the shape, type and device of image.

    Raises:
        TypeError: image is not of a floating-point type.
        ValueError: image is not [N, 3, H, W], or patch is even.
    """
    light = airlight(image, dark_channel(image, patch))
    t = guided_filter(image, transmission(image, light, patch, omega), radius, eps)
    return ((image - light) / t.clamp_min(t0) + light).clamp(0, 1)


def _check_image(image: Tensor) -> None:
    if not image.is_floating_point():
        raise TypeError(f"image must be floating point in [0, 1], got dtype {image.dtype}")
    if image.dim() != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise ValueError(
            f"image must have shape [N, 3, H, W], none of them 0, got {list(image.shape)}"
        )
