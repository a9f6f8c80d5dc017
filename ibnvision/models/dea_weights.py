"""The two forms of DEA-Net's weights: training, with the five branches of every DEConv, and folded.

The published files are of the folded form; the published training script saves the other one.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ibnvision.layers import DEConv

from .checkpoint import some

_STAGES = ("down_level1", "down_level2", "level3", "up_level2", "up_level1")


def match_form(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state`, of either form, in the form of `model`, a DEANet.

    Folded weights fold the model; weights of the training form are folded where the model is.

    Raises: ValueError: keys are missing; the model is then as before.
    """
    trained = [name for name, module in model.named_modules() if isinstance(module, DEConv)]
    if any(f"{name}.weight" in state for name in trained):
        inside = tuple(f"{name}." for name in trained)
        keys = [key for key in model.state_dict() if not key.startswith(inside)]
        keys += [f"{name}{leaf}" for name in inside for leaf in ("weight", "bias")]
        _check([key for key in keys if key not in state], "folded")
        model.fuse()
        return state
    for name, module in model.named_modules():
        inner = f"{name}."
        if isinstance(module, nn.Conv2d) and f"{inner}conv1_5.weight" in state:
            part = {k.removeprefix(inner): v for k, v in state.items() if k.startswith(inner)}
            layer = DEConv(module.in_channels, module.out_channels, padding=1)
            _check([f"{inner}{key}" for key in layer.state_dict() if key not in part], "training")
            layer.to(part["conv1_5.weight"].dtype).load_state_dict(part)
            folded = layer.fuse().state_dict()
            state = {k: v for k, v in state.items() if not k.startswith(inner)}
            state |= {f"{inner}{key}": value for key, value in folded.items()}
    return state


def arguments_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of the DEANet that `state`, of either form, belongs to.

    Raises: ValueError naming the keys that are missing.
    """
    first = state.get("down1.0.weight")
    if first is None or first.dim() != 4:
        raise ValueError(
            f"down1.0.weight [width, in_chans, 3, 3] is missing; it has {some(list(state))}"
        )
    counts = dict.fromkeys(_STAGES, 0)
    for key in state:
        block = re.match(r"(\w+?)_block(\d+)\.", key)
        if block and block[1] in counts:
            counts[block[1]] = max(counts[block[1]], int(block[2]))
    width, in_chans = first.shape[:2]
    reductions = {}
    for mix, dim in (("mix1", 4 * width), ("mix2", 2 * width)):
        squeeze = state.get(f"{mix}.ca.ca.0.weight")
        reductions[mix] = 8 if squeeze is None else dim // squeeze.shape[0]
    return {
        "in_chans": in_chans,
        "width": width,
        "depths": tuple(counts.values()),
        "reductions": tuple(reductions.values()),
        "detail": any(".conv1.conv1_5." in key for key in state),
        "attention": any(key.startswith(("mix1.pa.", "mix2.pa.")) for key in state),
    }


def _check(missing: list[str], form: str) -> None:
    if missing:
        raise ValueError(f"the weights, of the {form} form, lack {some(missing)}")
