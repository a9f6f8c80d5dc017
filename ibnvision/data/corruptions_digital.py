"""Digital corruption of `corruptions`: contrast, elastic transform, pixelation and JPEG.

x is one image, [C, H, W] in [0, 1], float32 or float64; chance is drawn on the CPU, in float32.
Constants are indexed by severity - 1. Source: Hendrycks and Dietterich, ICLR 2019,
https://arxiv.org/abs/1903.12261, with the rules of imagecorruptions (Michaelis et al., 2019,
https://arxiv.org/abs/1907.07484) for pictures of any size.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .corruptions_blur import gaussian_filter
from .opencv import cv2

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
ELASTIC = (12.5, 16.25, 21.25, 25.0, 30.0)  # factor of the smoothed field
ELASTIC_SHARE = 0.005  # greatest draw, of the height
ELASTIC_SIGMA = 0.01  # of the smoothing, of either side
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)  # sides of the small picture
QUALITY = (25, 18, 15, 10, 7)


def contrast(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Every channel drawn towards its mean; nothing is drawn by chance."""
    return torch.lerp(x.mean((-2, -1), keepdim=True), x, CONTRAST[severity - 1]).clamp_(0, 1)


def elastic_field(height: int, width: int, severity: int, generator: Generator) -> Tensor:
    """How far from its own place each pixel is read, float32 [2, height, width]: down, right."""
    noise = torch.rand(2, height, width, generator=generator).mul_(2).sub_(1)
    sigma = (ELASTIC_SIGMA * height, ELASTIC_SIGMA * width)
    smooth = gaussian_filter(noise, sigma, truncate=3, mode="reflect")
    return smooth.mul_(ELASTIC_SHARE * height * ELASTIC[severity - 1])


def warp(x: Tensor, field: Tensor) -> Tensor:
    """x, [C, H, W], read bilinearly at the places that `field` names, mirrored at the border."""
    height, width = x.shape[-2:]
    rows, columns = _places(field.to(x))
    grid = torch.stack(((2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1), -1)
    return F.grid_sample(
        x[None], grid[None], mode="bilinear", padding_mode="reflection", align_corners=False
    )[0].clamp_(0, 1)


def warp_mask(mask: Tensor, field: Tensor) -> Tensor:
    """mask, [..., H, W] of any type, read at the nearest pixels, mirrored at the border."""
    sides, found = mask.shape[-2:], []
    for places, side in zip(_places(field), sides, strict=True):
        index = (places + 0.5).floor().long().to(mask.device)
        index = torch.where(index < 0, -1 - index, index)
        index = torch.where(index >= side, 2 * side - 1 - index, index)
        found.append(index.clamp_(0, side - 1))
    return mask[..., found[0], found[1]]


def warp_boxes(boxes: Tensor, field: Tensor) -> Tensor:
    """Hulls in whole pixels of what the insides of `boxes`, [n, 4], became.

    A pixel belongs to a box that holds the place it is read from. A box that no pixel reads from
    stays as it is.
    """
    rows, columns = (places + 0.5 for places in _places(field.to(boxes.device)))
    moved = boxes.clone()
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        inside = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
        down, across = (inside.any(axis).nonzero().flatten() for axis in (1, 0))
        if len(down):
            ends = [across[0], down[0], across[-1] + 1, down[-1] + 1]
            moved[i] = torch.stack(ends).to(boxes)
    return moved


def _places(field: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns that are read, [H, W] each, in whole numbers at pixel centres."""
    height, width = field.shape[-2:]
    rows = torch.arange(height, dtype=field.dtype, device=field.device)[:, None]
    columns = torch.arange(width, dtype=field.dtype, device=field.device)
    return field[0] + rows, field[1] + columns


def pixelate(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Means of the cells of a small picture, each shown over its cell; nothing is drawn."""
    height, width = (int(side * PIXELATE[severity - 1]) for side in x.shape[-2:])
    whole = x.shape[-2:]
    small = _mean_rows(_mean_rows(x, height).mT.contiguous(), width)
    wide = _repeat_rows(small, whole[1]).mT.contiguous()  # whole rows are copied fastest
    return _repeat_rows(wide, whole[0])


def _mean_rows(x: Tensor, count: int) -> Tensor:
    """x, [C, H, W], as means of its rows in `count` cells, [C, count, W].

    A cell holds the rows whose centres lie in it, its end included, as in Pillow's box.
    """
    side = x.shape[-2]
    cell = ((2 * torch.arange(side) + 1) * count - 1) // (2 * side)
    sizes = torch.bincount(cell, minlength=count)
    first = sizes.cumsum(0) - sizes
    total = x.index_select(-2, first.to(x.device))
    for i in range(1, int(sizes.max())):
        there = i < sizes
        row = torch.where(there, first + i, first).to(x.device)
        total.addcmul_(x.index_select(-2, row), there.to(x)[:, None])
    return total.div_(sizes.to(x)[:, None])


def _repeat_rows(x: Tensor, side: int) -> Tensor:
    """Rows of x, [C, count, W], as [C, side, W], each at the places nearest to it.

    Places are added up as in Pillow, whose rounding decides where a cell ends on a row's centre.
    """
    steps = torch.full((side,), x.shape[-2] / side, dtype=torch.float64)
    steps[0] /= 2
    return x.index_select(-2, steps.cumsum(0).long().to(x.device))


def jpeg_compression(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """A JPEG file of low quality, written and read on the CPU, through which x passes as bytes."""
    rows = x.flatten(0, 1).float().cpu().numpy()
    planes = cv2.convertScaleAbs(rows, alpha=255).reshape(x.shape)  # rounds, in one pass
    quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY[severity - 1]]
    done, data = cv2.imencode(".jpg", cv2.merge([planes[2], planes[1], planes[0]]), quality)
    shown = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    assert shown is not None
    bytes_ = torch.stack([torch.from_numpy(plane) for plane in cv2.split(shown)[::-1]])
    return bytes_.to(x).div_(255)
