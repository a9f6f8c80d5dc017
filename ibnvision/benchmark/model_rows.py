"""The networks of `ibnvision benchmark models --what table`, each beside its counterpart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.models import DEANet

from .model_tables import TRAINING
from .network_cost import Setup, Subject
from .official_dea_net import official
from .op_rows import FORMATS

Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Row:
    """A network of ours and what stands in its place elsewhere.

    subject: makes both by name, and their batch and loss. plain, rival: name of the counterpart,
    and the backend that its times go by. kernel: the operator whose absence is explained.
    reference: whether its products are counted in plain PyTorch, which computes no more than ours.
    norms: whether its batch norms can be folded into its convolutions for inference.
    """

    subject: Subject
    plain: str
    rival: str
    kernel: str
    reference: bool
    norms: bool


def noise(setup: Setup) -> Tensor:
    """Images of a setup."""
    images = torch.randn(setup.shape, generator=torch.Generator().manual_seed(0))
    return images.to(setup.device, memory_format=FORMATS[setup.format])


def _labelled(setup: Setup) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 1000, (setup.batch,), generator=generator)
    return {"image": noise(setup), "target": labels.to(setup.device)}


def _clear(setup: Setup) -> dict[str, Tensor]:
    images = noise(setup)
    return {"image": images, "target": images.flip(0)}


def _classifier(name: str, setup: Setup, **options: Any) -> nn.Module:
    return timm.create_model(name, **options)


def _transformer(name: str, setup: Setup, **options: Any) -> nn.Module:
    """Ours, trained at 224 px, or timm's with as many registers, for the size of the setup."""
    if "lambda" not in name:
        options |= {"img_size": setup.size, "reg_tokens": 4, "no_embed_class": True}
    return timm.create_model(name, **options)


def _dehazer(name: str, setup: Setup, **options: Any) -> nn.Module:
    """DEA-Net, folded for inference; under its counterpart's name computing as published."""
    small: dict[str, Any] = {"width": 8, "depths": (1, 1, 1, 1, 1)} if setup.size < 64 else {}
    made: Any = timm.create_model("dea_net", **small, **options)
    assert isinstance(made, DEANet)
    if setup.part != TRAINING:
        made.fuse()
    return official(made) if name != "dea_net" else made


def _row(
    plain: str,
    sizes: Sizes,
    make: Callable[..., nn.Module] = _classifier,
    *,
    rival: str = "timm",
    kernel: str = "ibn_norm",
    norms: bool = False,
    batch: Callable[[Setup], dict[str, Tensor]] = _labelled,
    loss: Callable[..., Tensor] = F.cross_entropy,
    reference: bool = True,
) -> Row:
    subject = Subject(
        "models",
        "",
        make=make,
        batch=batch,
        loss=lambda model, given: loss(model(given["image"]), given["target"]),
        infer=lambda model, given: model(given["image"]),
        sizes=sizes,
    )
    return Row(subject, plain, rival, f"{kernel}_forward", reference, norms)


# (pixels, batch) of a quick run, on CUDA, on the CPU: there the smaller networks come first, as
# compilers get minutes and not the whole run
ROWS = {
    "resnet18_ibn_b": _row("resnet18", ((64, 2), (224, 256), (224, 4)), norms=True),
    "resnet50_ibn_a": _row("resnet50", ((64, 2), (224, 256), (224, 2)), norms=True),
    "densenet121_ibn_a": _row("densenet121", ((64, 2), (224, 128), (224, 2)), norms=True),
    "vit_small_lambda_patch16": _row(
        "vit_small_patch16_224",
        ((64, 1), (1024, 16), (512, 1)),
        _transformer,
        kernel="lambda_attention",
        reference=False,
    ),
    "dea_net": _row(
        "dea_net as published",
        ((32, 1), (256, 16), (128, 1)),
        _dehazer,
        rival="published",
        kernel="content_guided_attention",
        batch=_clear,
        loss=F.l1_loss,
    ),
}
