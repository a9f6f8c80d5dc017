"""Dehazing: hazy images [N, 3, H, W] in [0, 1] to clear ones.

The loss is L1, plus `loss_args.contrast` times the contrastive regularization of
`methods.contrastive` on the VGG19 weights that `loss_args.vgg` names.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.data import default_collate

from ibnvision.data.names import known
from ibnvision.methods.contrastive import ContrastiveRegularization
from ibnvision.metrics import RestorationMetric

from .panels import enlarge, in_a_row, to_bytes

score = "psnr_rgb_db"
EVALUATION_BATCH = 1  # the images of a set may differ in size
RAGGED = False
collate = default_collate
_LOSS_ARGS = ("contrast", "vgg")
_AUGMENTS = ("none", "flip")
_MEAN = (0.485, 0.456, 0.406)  # what a config holds that says nothing
_STD = (0.229, 0.224, 0.225)


def check(cfg: Any) -> None:
    """Refuse what this task cannot use, and load the VGG19 weights if they are needed.

    Raises: KeyError for an unknown key of `loss_args`; TypeError and ValueError for its values or
    another key; what `ContrastiveRegularization` raises.
    """
    if cfg.augment not in _AUGMENTS:
        raise ValueError(
            f"augment must be one of {', '.join(_AUGMENTS)} in dehazing, where colour is what the "
            f"network has to find, got {cfg.augment!r}"
        )
    contrast, vgg = _loss_args(cfg.loss_args)
    if contrast:
        _regularization(vgg, torch.device("cpu"))


def build_model(
    name: str,
    *,
    num_classes: int = 0,
    mean: Sequence[float] = _MEAN,
    std: Sequence[float] = _STD,
    **args: Any,
) -> nn.Module:
    """A restoration network of timm, such as dea_net, with the keywords `args`.

    It takes images in [0, 1] as they are, so `mean` and `std` must be the config's defaults, which
    are not used, or (0, 0, 0) and (1, 1, 1). Raises: ValueError where they are others, or where the
    model has no `restore`; what timm.create_model raises.
    """
    if (tuple(mean), tuple(std)) not in ((_MEAN, _STD), ((0.0,) * 3, (1.0,) * 3)):
        raise ValueError(
            "mean and std must be left out in dehazing, where the network takes images in [0, 1] "
            f"as they are, got mean={list(mean)}, std={list(std)}"
        )
    model = timm.create_model(name, **args)
    if not hasattr(model, "restore"):
        raise ValueError(f"model must be a restoration network such as dea_net, got {name!r}")
    return model


def augment(batch: dict[str, Any], mode: str, generator: Generator) -> dict[str, Any]:
    """Change a batch of {image, target}, both [N, 3, H, W]; crops and turns are `draw`'s.

    "none": nothing. "flip": horizontal, one in two. `generator` lives on the CPU.
    """
    if mode == "none":
        return batch
    flip = (torch.rand(len(batch["image"]), generator=generator) < 0.5).to(batch["image"].device)
    turned = {key: batch[key].clone() for key in ("image", "target")}
    for tensor in turned.values():
        tensor[flip] = tensor[flip].flip(-1)
    return batch | turned


def compute_loss(model: nn.Module, batch: dict[str, Any], cfg: Any) -> Tensor:
    """L1 + contrast * CR, in float32; see the head of this file."""
    hazy, clear = batch["image"], batch["target"]
    restored = model(hazy)
    loss = F.l1_loss(restored.float(), clear.float())
    contrast, vgg = _loss_args(cfg.loss_args)
    if contrast:
        loss = loss + contrast * _regularization(vgg, hazy.device)(restored, clear, hazy)
    return loss


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The clear images, in [0, 1], of images [N, 3, H, W] of any size."""
    return model.restore(images).clamp(0, 1)  # type: ignore[operator]


def evaluate(model: nn.Module, batch: dict[str, Any], cfg: Any) -> tuple[Tensor, Tensor]:
    """The clear images of a batch and their targets; there is one protocol, whole images."""
    return predict(model, batch["image"]), batch["target"]


def facts(cfg: Any) -> dict[str, Any]:
    """Nothing to tell: the rules of the scores are those of `metrics.PROTOCOLS`."""
    return {}


def new_metric(classes: Sequence[str]) -> RestorationMetric:
    """PSNR and SSIM under their named protocols."""
    return RestorationMetric()


def draw(
    image: Tensor,
    target: Tensor | None,
    prediction: Tensor,
    *,
    classes: Sequence[str] = (),
    palette: Tensor | None = None,
) -> Tensor:
    """Hazy, restored and, if known, clear side by side: uint8 [3, h, w].

    image, target, prediction: float [3, H, W] in [0, 1]. Small images are enlarged by a whole
    factor. classes and palette are not used.
    """
    panels = {"hazy": image, "restored": prediction} | ({} if target is None else {"clear": target})
    return in_a_row({word: enlarge(to_bytes(panel)) for word, panel in panels.items()})


def _loss_args(args: dict[str, Any]) -> tuple[float, str]:
    """contrast and vgg of a config's `loss_args`; see `check`."""
    for key in args:
        known("loss_args key", key, _LOSS_ARGS)
    contrast, vgg = args.get("contrast", 0.0), args.get("vgg", "")
    if type(contrast) not in (int, float) or not isinstance(vgg, str):
        raise TypeError(
            "loss_args.contrast must be a number and loss_args.vgg a string, got "
            f"{contrast!r} and {vgg!r}"
        )
    if not 0 <= contrast < math.inf:
        raise ValueError(f"loss_args.contrast must be at least 0, got {contrast!r}")
    return float(contrast), vgg


@lru_cache(maxsize=1)
def _regularization(vgg: str, device: torch.device) -> ContrastiveRegularization:
    return ContrastiveRegularization(vgg).to(device)
