"""Augmentation of batches of images [N, 3, H, W] in [0, 1] with labels [N, H, W]."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as transform

from ibnvision.data.fourier import fourier_style
from ibnvision.data.photometric import photometric

ZOOM = 4.0  # at most, of "zoom"
AUGMENTS = ("none", "flip", "jitter", "zoom", "photometric", "fourier")


def augment(batch: dict[str, Any], mode: str, generator: Generator) -> dict[str, Any]:
    """Change a batch of {image [N, 3, H, W], target [N, H, W]}, each image by its own draw.

    mode: "none": nothing; else "flip": horizontal, one in two, and with it the named ones, joined
    by "+", in this order:
        jitter: strong colours, image * channel gain in [0.4, 1.6] * gain in [0.5, 1.3] + offset in
            [-0.15, 0.15], cut to [0, 1].
        zoom: for one in two a part as high and wide as 1 / z of the image, in its place, z in [1,
            ZOOM] with equal chance for equal ratios.
        photometric: RobustNet's, see `data.photometric`.
        fourier: amplitudes mixed among the batch, see `data.fourier`.
    `generator` lives on the CPU; all kinds draw the same numbers first, so that rows of a
    comparison see the same flips.
    """
    image, target = batch["image"], batch["target"]
    count = len(image)
    parts = mode.split("+")
    chance = torch.rand(count, 6, generator=generator).to(image.device)
    if mode == "none":
        return batch
    flip = chance[:, 0] < 0.5
    image, target = image.clone(), target.clone()
    image[flip] = transform.horizontal_flip(tv_tensors.Image(image[flip])).as_subclass(Tensor)
    target[flip] = transform.horizontal_flip(tv_tensors.Mask(target[flip])).as_subclass(Tensor)
    if "jitter" in parts:
        image = jitter(image, chance[:, 1:])
    if "zoom" in parts:
        for i, draw in enumerate(torch.rand(count, 4, generator=generator).tolist()):
            if draw[0] < 0.5:
                image[i], target[i] = _part(image[i], target[i], *draw[1:])
    if "photometric" in parts:
        image = photometric(image, generator)
    if "fourier" in parts:
        image = fourier_style(image, generator)
    return batch | {"image": image, "target": target}


def jitter(image: Tensor, chance: Tensor) -> Tensor:
    """Images [N, 3, H, W] in strong colours, see `augment`; chance: [N, 5] in [0, 1)."""
    gain = (0.4 + 1.2 * chance[:, :3]) * (0.5 + 0.8 * chance[:, 3:4])
    offset = 0.3 * chance[:, 4] - 0.15
    return (image * gain[..., None, None] + offset[:, None, None, None]).clamp(0, 1)


def _part(
    image: Tensor, target: Tensor, zoom: float, top: float, left: float
) -> tuple[Tensor, Tensor]:
    """A part of image [3, H, W] and target [H, W] at their size; the draws lie in [0, 1)."""
    sides = image.shape[1:]
    h, w = (max(1, round(side / ZOOM**zoom)) for side in sides)
    y, x = int(top * (sides[0] - h + 1)), int(left * (sides[1] - w + 1))
    part, labels = image[None, :, y : y + h, x : x + w], target[None, None, y : y + h, x : x + w]
    larger = F.interpolate(part, sides, mode="bilinear", align_corners=False)
    return larger[0], F.interpolate(labels.double(), sides, mode="nearest")[0, 0].to(target.dtype)
