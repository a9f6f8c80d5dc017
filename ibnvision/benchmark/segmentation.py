"""What do norms, activations and residual adds cost a segmenter?   ibnvision benchmark segmentation

ResNet-50 with IBN-b under DeepLabV3+ with its auxiliary head, output stride 16: a training step
(forward, both cross entropies, backward, SGD with momentum at learning rate 0) and inference. Four
networks with the same convolutions: ours with kernels, ours in plain PyTorch (fallback), timm's and
smp's modules with plain batch norm (plain), and the bare one, without norms, activations and
residual adds. Recovered is the share of what those cost the fallback.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ibnvision.config import Config
from ibnvision.models import create_segmenter
from ibnvision.tasks import TASKS

from . import network_cost
from .network_cost import Setup
from .op_rows import FORMATS

CLASSES = 19
SETTINGS = Config(task="segmentation")  # of the loss: its published weights


def network(backbone: str, setup: Setup, **options: Any) -> nn.Module:
    """With fresh weights, on the CPU."""
    return create_segmenter(
        backbone, CLASSES, head="deeplabv3plus", output_stride=16, auxiliary=True, **options
    )


def batch(setup: Setup) -> dict[str, Any]:
    """Noise with a random class for each pixel."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(setup.shape, generator=generator)
    images = images.to(setup.device, memory_format=FORMATS[setup.format])
    size = setup.shape[0], *setup.shape[2:]
    labels = torch.randint(0, CLASSES, size, generator=generator)
    return {"image": images, "target": labels.to(setup.device)}


SUBJECT = network_cost.Subject(
    "segmentation",
    "DeepLabV3+",
    make=network,
    batch=batch,
    loss=lambda model, given: TASKS["segmentation"].compute_loss(model, given, SETTINGS),
    infer=lambda model, given: model(given["image"]),
    sizes=((64, 2), (768, 8), (256, 4)),
)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where --compare-with shows a regression."""
    return network_cost.main(SUBJECT, __doc__, argv)
