"""Contrastive regularization: nearer to the clear image, away from the hazy one, in VGG19 features.

    sum_i w_i L1(F_i(restored), F_i(clear)) / (L1(F_i(restored), F_i(hazy)) + 1e-7)

F_i: VGG19 of ImageNet up to the ReLU 1_1, 2_1, 3_1, 4_1, 5_1; w = 1/32, 1/16, 1/8, 1/4, 1. The
images go in as they are, in [0, 1]; the hazy input is the only negative.

Source: Wu et al., "AECR-Net", CVPR 2021, https://arxiv.org/abs/2104.09367, as DEA-Net-CR uses it
(Chen et al., https://arxiv.org/abs/2301.04805).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG19_Weights, vgg19

IMAGENET = "imagenet"
LAYERS = (1, 6, 11, 20, 29)  # of torchvision's vgg19().features; each map is taken after it
WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_EPS = 1e-7


class ContrastiveRegularization(nn.Module):
    """forward(restored, clear, hazy), all [N, 3, H, W] in [0, 1], sides of at least 16: a scalar.

    The gradient goes to `restored` alone; distances are computed in float32.

    Args:
        vgg: "imagenet" for torchvision's weights, downloaded once (548 MB), or a file with the
            state dict of torchvision's vgg19.

    Raises: as `read_vgg19`.
    """

    def __init__(self, vgg: str | Path) -> None:
        super().__init__()
        layers = read_vgg19(vgg)
        starts = [0, *(layer + 1 for layer in LAYERS)]
        cuts = zip(starts, starts[1:], strict=False)
        self.parts = nn.ModuleList([layers[start:stop] for start, stop in cuts])
        self.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """The five maps of an image."""
        maps = []
        for part in self.parts:
            image = part(image)
            maps.append(image)
        return maps

    def forward(self, restored: Tensor, clear: Tensor, hazy: Tensor) -> Tensor:
        with torch.no_grad():
            positives, negatives = self.features(clear), self.features(hazy)
        total = torch.zeros((), device=restored.device)
        maps = zip(WEIGHTS, self.features(restored), positives, negatives, strict=True)
        for weight, anchor, positive, negative in maps:
            anchor = anchor.float()
            near = F.l1_loss(anchor, positive.float())
            total = total + weight * near / (F.l1_loss(anchor, negative.float()) + _EPS)
        return total


def read_vgg19(vgg: str | Path) -> nn.Sequential:
    """The layers of VGG19 that the features need, with weights from `vgg` as above.

    Raises: ValueError where `vgg` is empty or its file is not such a state dict; FileNotFoundError;
    RuntimeError where the download fails.
    """
    if not str(vgg):
        raise ValueError(
            "loss_args.contrast above 0 compares VGG19 features, so loss_args.vgg must choose the "
            f"weights: FILE (the state dict of torchvision's vgg19) or {IMAGENET!r} (torchvision "
            "downloads 548 MB); or train without it: loss_args.contrast=0"
        )
    state = _downloaded() if str(vgg) == IMAGENET else _from_file(Path(vgg))
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        network = vgg19()
    expected = {name: p.shape for name, p in network.named_parameters()}
    _check(state, expected, vgg)
    layers = network.features[: LAYERS[-1] + 1]
    wanted = layers.state_dict()
    weights = {name: state[f"features.{name}"].float() for name in wanted}
    layers.load_state_dict(weights, assign=True)
    return layers.eval()


def _downloaded() -> Mapping[str, Any]:
    try:
        return VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except Exception as error:  # network, disk and hash fail in many types
        raise RuntimeError(
            f"the VGG19 weights of loss_args.vgg={IMAGENET} cannot be downloaded ({error}): give a "
            "file with loss_args.vgg=FILE, or train without them: loss_args.contrast=0"
        ) from error


def _from_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"loss_args.vgg must be {IMAGENET!r} or a file, found no {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"loss_args.vgg {path} is not a readable state dict: {reason}") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"loss_args.vgg {path} must hold a state dict, got {type(state).__name__}")
    return state


def _check(state: Mapping[str, Any], expected: Mapping[str, Any], vgg: str | Path) -> None:
    """Strict; the classifier, which no feature needs, may be left out as a whole."""
    if not any(str(name).startswith("classifier.") for name in state):
        expected = {n: shape for n, shape in expected.items() if n.startswith("features.")}
    problems = {
        "missing": sorted(set(expected) - set(state)),
        "unknown": sorted(map(str, set(state) - set(expected))),
        "of another shape": [
            name
            for name in expected
            if name in state and getattr(state[name], "shape", None) != expected[name]
        ],
    }
    found = [f"{', '.join(names[:4])} {what}" for what, names in problems.items() if names]
    if found:
        raise ValueError(
            f"loss_args.vgg {vgg} must be the state dict of torchvision's vgg19: {'; '.join(found)}"
        )
