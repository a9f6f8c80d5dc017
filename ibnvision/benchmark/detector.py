"""What do norms, activations and residual adds cost a detector?   ibnvision benchmark detector

Faster R-CNN on ResNet-50-FPN with IBN-b from scratch: a training step (forward with the search for
boxes, all four losses, backward, SGD with momentum at learning rate 0) and inference, both whole,
as users pay for them. Four networks with the same convolutions: ours with kernels, ours in plain
PyTorch (fallback), timm's modules with plain batch norm (plain), and the bare one, whose backbone
has no norms, activations and residual adds. Recovered is the share of what those cost the fallback;
heads and the sums of the pyramid are the same in all.

Which boxes a network proposes, and so how many pass non-maximum suppression, hangs on its numbers.
Here the heads compute theirs, which are then replaced by drawn ones, the same in all variants: as
many boxes are suppressed, sampled, pooled and reported in each. On a CPU a picture has 128 sampled
and in inference 300 proposals (torchvision: 512 and 1000), else the heads hide the backbone.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ibnvision.config import Config
from ibnvision.models import create_detector
from ibnvision.tasks import TASKS

from . import network_cost
from .network_cost import Setup

CLASSES = 80
SETTINGS = Config(task="detection")  # of the loss: each part counts once
OBJECTS = 8  # in each picture
LIGHT = {"box_batch_size_per_image": 128, "rpn_post_nms_top_n_test": 300}  # on a CPU
BACKGROUND = 5.0  # added to its drawn logit, so that some hundred boxes pass the threshold


def network(backbone: str, setup: Setup, **options: Any) -> nn.Module:
    """With fresh weights and drawn results of the heads, on the CPU."""
    light: dict[str, Any] = LIGHT if setup.device == "cpu" else {}
    made: Any = create_detector(
        backbone, "faster_rcnn", num_classes=CLASSES, min_size=None, **light, **options
    )
    made.rpn.head.register_forward_hook(_draw_proposals)
    made.roi_heads.box_predictor.register_forward_hook(_draw_classes)
    return made


@lru_cache
def _drawn(shape: torch.Size, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def _draw_proposals(
    head: nn.Module, given: Any, made: tuple[list[Tensor], list[Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Drawn scores of the anchors, which stay where they are; the backward runs on."""
    scores, shifts = made
    return [_drawn(s.shape, s.device) + 0 * s for s in scores], [0 * s for s in shifts]


def _draw_classes(
    predictor: nn.Module, given: Any, made: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The same for the classes of the proposals."""
    logits, shifts = made
    drawn = _drawn(logits.shape, logits.device).clone()
    drawn[:, 0] += BACKGROUND
    return drawn + 0 * logits, 0 * shifts


def batch(setup: Setup) -> dict[str, Any]:
    """Noise with random boxes of 16 pixels to half the picture."""
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for _ in range(setup.batch):
        images.append(torch.rand(setup.shape[1:], generator=generator).to(setup.device))
        sides = 16 + (setup.size / 2 - 16) * torch.rand(OBJECTS, 2, generator=generator)
        start = (setup.size - sides) * torch.rand(OBJECTS, 2, generator=generator)
        target = {"boxes": torch.cat([start, start + sides], 1)}
        target["labels"] = torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator)
        target["ignore"] = torch.zeros(OBJECTS, dtype=torch.bool)
        targets.append({key: value.to(setup.device) for key, value in target.items()})
    return {"image": images, "target": targets}


SUBJECT = network_cost.Subject(
    "detector",
    "Faster R-CNN",
    make=network,
    batch=batch,
    loss=lambda model, given: TASKS["detection"].compute_loss(model, given, SETTINGS),
    infer=lambda model, given: model(given["image"]),
    sizes=((32, 2), (640, 8), (160, 2)),
    core=lambda model: model.backbone,
)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where --compare-with shows a regression."""
    return network_cost.main(SUBJECT, __doc__, argv)
