"""What a config may put around a detector: a second view in training, a restorer in front."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ibnvision.data.names import known
from ibnvision.methods.detection_consistency import (
    box_consistency,
    jensen_shannon_consistency,
    kullback_leibler_consistency,
    paired_predictions,
)
from ibnvision.methods.gate import gate_between

CONSISTENCY = {
    "jensen_shannon": jensen_shannon_consistency,
    "kullback_leibler": kullback_leibler_consistency,
}
_KEYS = ("model", "args", "weights", "gate")


class TwoViews(nn.Module):
    """A detector that also learns to say the same of two views of a scene.

    Args:
        network: a detector of torchvision.
        consistency: a name in CONSISTENCY, of the classes; boxes are held together by smooth L1.
    """

    def __init__(self, network: nn.Module, consistency: str) -> None:
        super().__init__()
        self.network = network
        self.consistency = known("model_args.consistency", consistency, CONSISTENCY)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Any = None,
        views: Sequence[Tensor] | None = None,
    ) -> Any:
        """As the detector; with `views`, other pictures of the same scenes in training, also
        the losses `class_consistency` and `box_consistency`, see `methods.detection_consistency`.
        """
        if views is None:
            return self.network(list(images), targets)
        losses, pairs = paired_predictions(self.network, images, views, targets)
        classes = CONSISTENCY[self.consistency](*pairs.logits, form=pairs.form)
        boxes = box_consistency(*pairs.boxes, weight=pairs.foreground)
        return {**losses, "class_consistency": classes, "box_consistency": boxes}


class Restored(nn.Module):
    """A detector that sees what a restoration network makes of each image.

    The restorer does not train. With a gate it touches an image only as far as that is hazy, see
    `methods.gate`: in front of a detector dehazing helps in fog and harms on clear images
    (https://arxiv.org/abs/2502.02027). A checkpoint holds the restorer and the gate too.

    Args:
        network: called as a detector of torchvision.
        restorer: has `restore`, images [1, 3, H, W] in [0, 1] to the same, as dea_net.
        gate: haziness at which it opens and from which on it is open, low < high in [0, 1]; None:
            every image is restored.
    """

    gate: Tensor

    def __init__(
        self, network: nn.Module, restorer: nn.Module, gate: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.restorer = restorer.requires_grad_(False)
        ends = (0.0, 0.0) if gate is None else tuple(gate_between(*gate))
        self.register_buffer("gate", torch.tensor(ends, dtype=torch.float64))

    def forward(self, images: Sequence[Tensor], *more: Any) -> Any:
        """images: float [3, H, W] in [0, 1] each; what the detector gives for the restored ones.

        more: targets, perhaps None, and second views, which are restored too.
        """
        self.restorer.eval()
        targets, *views = more or (None,)
        pictures = [[self.cleared(image) for image in batch] for batch in (images, *views)]
        return self.network(pictures[0], targets, *pictures[1:])

    @torch.no_grad()
    def cleared(self, image: Tensor) -> Tensor:
        """What the detector sees of an image [3, H, W]."""
        low, high = self.gate.tolist()
        act = self.restorer.restore
        if low == high:
            return act(image[None])[0]  # type: ignore[operator]
        return gate_between(low, high).restore(image[None], act)[0]  # type: ignore[arg-type]


def restorer_in_front(network: nn.Module, options: Mapping[str, Any]) -> Restored:
    """`network` behind the restorer that a config describes.

    options: `model`, a restoration network of timm (dea_net), with the keywords `args`; `state`,
    its weights, where it is filled; `gate`, [low, high], or nothing. `weights` is read by the
    engine.

    Raises: KeyError for an unknown key; ValueError for a model that does not restore, for a gate
    out of order, and for weights that do not fit.
    """
    for key in options:
        known("model_args.restorer key", key, (*_KEYS, "state"))
    name = options.get("model", "dea_net")
    restorer = timm.create_model(name, **options.get("args", {}))
    if not hasattr(restorer, "restore"):
        raise ValueError(
            f"model_args.restorer.model must be a restoration network such as dea_net, got {name!r}"
        )
    if "state" in options:
        try:
            restorer.load_state_dict(options["state"])
        except RuntimeError as error:
            raise ValueError(
                f"model_args.restorer.weights does not fit {name} with args "
                f"{options.get('args', {})}: {error}"
            ) from error
    return Restored(network, restorer, options.get("gate") or None)
