"""The feature backbone of a segmenter or a detector: a network of timm and what of it trains."""

import difflib
from typing import Any

import timm
from torch import nn

from ibnvision.layers import IBN, SwitchWhiten2d

from .densenet_ibn import default_cfgs as densenets
from .placement import NORMS, map_modules
from .resnet_ibn import default_cfgs as resnets


def known(what: str, name: str, names: Any) -> None:
    """KeyError with the nearest of names where name is none of them."""
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, 0.0)[0]
        raise KeyError(f"{what} {name!r} is unknown, nearest {near!r}")


def check_names(backbone: str, norm: str | None) -> None:
    """KeyError for a name that timm or NORMS lacks."""
    if norm is not None:
        known("norm", norm, NORMS)
    if ":" not in backbone and not timm.is_model(backbone):
        known("backbone", backbone.split(".")[0], timm.list_models())


def create_features(
    name: str, norm: str | None, output_stride: int | None, arguments: dict[str, Any]
) -> tuple[Any, bool]:
    """timm's network that gives maps, before place_norm, and whether it was built with its norm.

    Args:
        name: a network of timm or of ours.
        norm: a name in NORMS, or None.
        output_stride: asked for where the network knows it; the maps tell whether it does.
        arguments: of timm.create_model.

    Raises:
        ValueError: norm is given twice, or is not that of the weights.
    """
    stem = name.split(".")[0]
    ours = stem in {*resnets, *densenets}
    if norm is not None and ours:
        if "ibn" in arguments:
            raise ValueError(f"norm and backbone_args['ibn'] exclude each other, got {norm!r} too")
        if stem in densenets and norm != "ibn_a":
            raise ValueError(f"norm must be 'ibn_a' or None for a DenseNet, got {norm!r}")
        if arguments.get("pretrained") and not stem.endswith(f"_ibn_{NORMS[norm]}"):
            plain = name.partition("_ibn_")[0]
            raise ValueError(
                f"pretrained must be False for {name!r} with norm={norm!r}: its weights are of "
                f"its own norm; take {plain!r}, whose plain weights are converted"
            )
        arguments = {**arguments, "ibn": NORMS[norm]}
    if output_stride is not None:
        try:
            strided = {**arguments, "output_stride": output_stride}
            return timm.create_model(name, features_only=True, **strided), ours
        except (TypeError, AssertionError):
            pass  # timm's way to say that it has no such stride; the maps tell
    return timm.create_model(name, features_only=True, **arguments), ours


def freeze_norms(backbone: nn.Module) -> list[str]:
    """Let the weights and biases of layers with batch statistics keep their values.

    Both halves of an IBN count; pure instance norms, layer and group norms do not.

    Returns:
        The names of these layers. They freeze completely while they stay in eval mode.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, IBN, SwitchWhiten2d)
    names = [name for name, module in backbone.named_modules() if isinstance(module, kinds)]
    for name in names:
        backbone.get_submodule(name).requires_grad_(False)
    return names


def freeze_stages(backbone: Any, trainable: int) -> None:
    """Let only the last stages train.

    Args:
        backbone: its last four maps end its stages; a network of one scale has the four quarters
            of its blocks in their place. What runs before the first is the stem.
        trainable: number of stages, 5 for all four and the stem.

    Raises:
        ValueError: a backbone whose stages cannot be told apart.
    """
    if trainable == 5:
        return
    names = [name for name, _ in backbone.named_modules()]

    def inside(name: str) -> list[int]:
        return [i for i, n in enumerate(names) if f"{n}.".startswith(f"{name}.")]

    ends = _stage_ends(backbone)
    if len(ends) < 4 or not all(ends[-4:]):
        found = backbone.feature_info.reduction()
        raise ValueError(
            f"trainable_stages needs a backbone of four stages, got reductions {found}; give 5, "
            "which trains everything"
        )
    first = inside(ends[-4])[0] if len(ends) == 4 else inside(ends[-5])[-1] + 1
    bounds = [first - 1, *(inside(name)[-1] for name in ends[-4:-1])]
    for i, module in enumerate(backbone.modules()):
        if sum(i > bound for bound in bounds) <= 4 - trainable:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


def _stage_ends(backbone: Any) -> list[str]:
    ends = map_modules(backbone)
    reductions = backbone.feature_info.reduction()
    if reductions[0] != reductions[-1] or not ends[-1]:
        return ends
    blocks, _, index = ends[-1].rpartition(".")
    if not index.isdigit() or int(index) < 3:
        return []
    count = int(index) + 1
    return [f"{blocks}.{count * quarter // 4 - 1}" for quarter in (1, 2, 3, 4)]
