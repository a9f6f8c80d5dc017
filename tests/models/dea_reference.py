"""DEA-Net from its paper as plain functions of an official state dict, slow and obvious."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

AHEAD = [3, 0, 1, 6, 4, 2, 7, 8, 5]  # the tap that comes before each one on the way round


def conv(state: Mapping[str, Tensor], key: str, x: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], stride, padding=1)


def detail(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    """Five convolutions, or one for folded weights."""
    if f"{key}.weight" in state:
        return conv(state, key, x)
    central, horizontal, vertical, angular = (
        state[f"{key}.conv1_{i}.conv.weight"] for i in range(1, 5)
    )
    taps = central.flatten(2).clone()
    taps[..., 4] -= taps.sum(-1)
    zero = torch.zeros_like(horizontal)
    kernels = [
        taps.view_as(central),
        torch.stack((horizontal, zero, -horizontal), 3),
        torch.stack((vertical, zero, -vertical), 2),
        (angular.flatten(2) - angular.flatten(2)[..., AHEAD]).view_as(angular),
    ]
    y = conv(state, f"{key}.conv1_5", x)
    for i, kernel in enumerate(kernels, 1):
        y = y + F.conv2d(x, kernel, state[f"{key}.conv1_{i}.conv.bias"], padding=1)
    return y


def wide(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    return F.conv2d(F.pad(x, (3, 3, 3, 3), "reflect"), weight, bias, groups=groups)


def weights(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    """The pixel attention of x."""
    part = {k.removeprefix(f"{key}."): v for k, v in state.items() if k.startswith(f"{key}.")}
    hidden = F.conv2d(x.mean((2, 3), keepdim=True), part["ca.ca.0.weight"], part["ca.ca.0.bias"])
    channels = F.conv2d(hidden.relu(), part["ca.ca.2.weight"], part["ca.ca.2.bias"])
    seen = torch.cat((x.mean(1, keepdim=True), x.max(1, keepdim=True).values), 1)
    coarse = channels + wide(seen, part["sa.sa.weight"], part["sa.sa.bias"], 1)
    mixed = torch.stack((x, coarse), 2).flatten(1, 2)
    return wide(mixed, part["pa.pa2.weight"], part["pa.pa2.bias"], x.shape[1]).sigmoid()


def block(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    r = conv(state, f"{key}.conv2", detail(state, f"{key}.conv1", x).relu() + x)
    return (r * weights(state, key, r) if f"{key}.sa.sa.weight" in state else r) + x


def blocks(state: Mapping[str, Tensor], stage: str, x: Tensor) -> Tensor:
    i = 1
    while f"{stage}_block{i}.conv2.weight" in state:
        x = block(state, f"{stage}_block{i}", x)
        i += 1
    return x


def fusion(state: Mapping[str, Tensor], key: str, low: Tensor, high: Tensor) -> Tensor:
    both = low + high
    w = weights(state, key, both).sigmoid()
    mixed = both + w * low + (1 - w) * high
    return F.conv2d(mixed, state[f"{key}.conv.weight"], state[f"{key}.conv.bias"])


def up(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    arguments = {"stride": 2, "padding": 1, "output_padding": 1}
    return F.conv_transpose2d(
        x, state[f"{key}.0.weight"], state[f"{key}.0.bias"], **arguments
    ).relu()


def dea_net(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """x: [N, 3, H, W], sides multiples of 4 from 16 on."""
    full = blocks(state, "down_level1", conv(state, "down1.0", x))
    half = conv(state, "down2.0", full, 2).relu()
    y = blocks(state, "down_level2", conv(state, "fe_level_2", half))
    quarter = conv(state, "down3.0", y, 2).relu()
    y = blocks(state, "level3", conv(state, "fe_level_3", quarter))
    y = blocks(state, "up_level2", up(state, "up1", fusion(state, "mix1", quarter, y)))
    y = blocks(state, "up_level1", up(state, "up2", fusion(state, "mix2", half, y)))
    return conv(state, "up3.0", y)
