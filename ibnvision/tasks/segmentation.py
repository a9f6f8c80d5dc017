"""Semantic segmentation: images [N, 3, H, W] in [0, 1] to class ids [N, H, W], 255 ignored."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as transform
from torchvision.utils import draw_segmentation_masks

from ibnvision.metrics import IGNORE, SegmentationMetric

from .panels import enlarge, in_a_row, labelled, to_bytes

score = "miou_pct"
EVALUATION_BATCH = 0
ZOOM = 4.0  # at most, of augment "zoom"


def check(cfg: Any) -> None:
    """ValueError for a key of `loss_args`: this task has none."""
    if cfg.loss_args:
        raise ValueError(f"loss_args must be empty in segmentation, got {sorted(cfg.loss_args)}")


class Normalized(nn.Module):
    """A network behind the normalization of its input, so that a checkpoint knows it."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def build_model(
    name: str,
    *,
    num_classes: int,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    **args: Any,
) -> nn.Module:
    """A segmenter on a timm backbone: images [N, 3, H, W] in [0, 1] to logits [N, K, H, W].

    `args` go to `ibnvision.models.create_segmenter`; unknown names are its errors.
    """
    from ibnvision.models import create_segmenter

    return Normalized(create_segmenter(name, num_classes, **args), mean, std)


def augment(batch: dict[str, Any], mode: str, generator: Generator) -> dict[str, Any]:
    """Change a batch of {image [N, 3, H, W], target [N, H, W]}, each image by its own draw.

    "none": nothing. "flip": horizontal, one in two. "jitter": flip, then strong colour jitter,
    image * channel gain in [0.4, 1.6] * gain in [0.5, 1.3] + offset in [-0.15, 0.15], cut to [0,
    1]. "zoom": flip, then for one in two a part as high and wide as 1 / z of the image, in its
    place, z in [1, ZOOM] with equal chance for equal ratios. `generator` lives on the CPU; all
    kinds draw the same numbers first, so that rows of a comparison see the same flips.
    """
    image, target = batch["image"], batch["target"]
    count = len(image)
    chance = torch.rand(count, 6, generator=generator).to(image.device)
    if mode == "none":
        return batch
    flip = chance[:, 0] < 0.5
    image, target = image.clone(), target.clone()
    image[flip] = transform.horizontal_flip(tv_tensors.Image(image[flip])).as_subclass(Tensor)
    target[flip] = transform.horizontal_flip(tv_tensors.Mask(target[flip])).as_subclass(Tensor)
    if mode == "jitter":
        gain = (0.4 + 1.2 * chance[:, 1:4]) * (0.5 + 0.8 * chance[:, 4:5])
        offset = 0.3 * chance[:, 5] - 0.15
        image = image * gain.view(count, 3, 1, 1) + offset.view(count, 1, 1, 1)
        image = image.clamp(0, 1)
    if mode == "zoom":
        for i, draw in enumerate(torch.rand(count, 4, generator=generator).tolist()):
            if draw[0] < 0.5:
                image[i], target[i] = _part(image[i], target[i], *draw[1:])
    return batch | {"image": image, "target": target}


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


def compute_loss(model: nn.Module, batch: dict[str, Any], cfg: Any) -> Tensor:
    """Mean cross entropy over the labelled pixels, in float32; 0 where a batch has none."""
    logits, target = model(batch["image"]).float(), batch["target"]
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Class ids, int64 [N, H, W], of images [N, 3, H, W] in [0, 1]."""
    return model(images).argmax(1)


def new_metric(classes: Sequence[str]) -> SegmentationMetric:
    """Per-class IoU, mean IoU and pixel accuracy over a set."""
    return SegmentationMetric(classes)


def draw(
    image: Tensor,
    target: Tensor | None,
    prediction: Tensor,
    *,
    classes: Sequence[str],
    palette: Tensor,
) -> Tensor:
    """Input, target if any, and prediction side by side above a legend: uint8 [3, h, w].

    image: float [3, H, W] in [0, 1]; target, prediction: class ids [H, W]; palette: uint8, at least
    K rows of 3. Small images are enlarged by a whole factor.
    """
    picture = enlarge(to_bytes(image))
    colours = [tuple(row) for row in palette[: len(classes)].tolist()]

    def painted(ids: Tensor) -> Tensor:
        masks = torch.stack([ids.cpu() == k for k in range(len(classes))])
        return draw_segmentation_masks(picture, enlarge(masks), alpha=0.7, colors=colours)

    panels = {"input": picture}
    if target is not None:
        panels["target"] = painted(target)
    panels["prediction"] = painted(prediction)
    row = in_a_row(panels)
    return torch.cat([row, _legend(classes, colours, row)], 1)


def _legend(classes: Sequence[str], colours: list[tuple], row: Tensor) -> Tensor:
    """One filled box with its name per class, in as many lines as the width needs."""
    width, cell = row.shape[2], 96
    columns = max(1, width // cell)
    lines = -(-len(classes) // columns)
    strip = torch.full((3, 22 * lines + 4, width), 255, dtype=torch.uint8)
    boxes = torch.tensor(
        [
            [i % columns * cell, 4 + i // columns * 22, i % columns * cell + cell - 4]
            + [i // columns * 22 + 22]
            for i in range(len(classes))
        ]
    )
    inks = ["black" if 3 * r + 6 * g + b > 1270 else "white" for r, g, b in colours]
    return labelled(strip, boxes, list(classes), colours, inks)
