"""Augmentation of batches of images of different size, with their boxes."""

from typing import Any

import torch
from torch import Generator, Tensor

from ibnvision.data.photometric import photometric
from ibnvision.methods.oa_mix import oa_mix

from .segmentation_augment import jitter

AUGMENTS = ("none", "flip", "jitter", "photometric", "oa_mix")


def augment(batch: dict[str, Any], mode: str, generator: Generator) -> dict[str, Any]:
    """Change a batch of lists of images [3, H, W] and targets, each image by its own draw.

    mode: "none": nothing; else "flip": horizontal, one in two, and with it the named ones, joined
    by "+", in this order:
        jitter: strong colours, as in segmentation.
        photometric: RobustNet's, see `data.photometric`.
        oa_mix: mixed with changed copies of itself, objects protected, see `methods.oa_mix`.
    `generator` lives on the CPU; all kinds draw the same numbers first, so that rows of a
    comparison see the same flips.
    """
    chance = torch.rand(len(batch["image"]), 6, generator=generator)
    if mode == "none":
        return batch
    parts = mode.split("+")
    images, targets = [], []
    for image, target, row in zip(batch["image"], batch["target"], chance, strict=True):
        if row[0] < 0.5:
            image, target = image.flip(-1), target | {"boxes": _mirror(target["boxes"], image)}
        if "jitter" in parts:
            image = jitter(image[None], row[None, 1:].to(image.device))[0]
        if "photometric" in parts:
            image = photometric(image[None], generator)[0]
        if "oa_mix" in parts:
            image = oa_mix(image, target["boxes"], generator)
        images.append(image)
        targets.append(target)
    return batch | {"image": images, "target": targets}


def _mirror(boxes: Tensor, image: Tensor) -> Tensor:
    x0, y0, x1, y1 = boxes.unbind(1)
    width = image.shape[-1]
    return torch.stack([width - x1, y0, width - x0, y1], 1)
