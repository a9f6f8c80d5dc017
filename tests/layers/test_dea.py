"""The blocks of DEA-Net against answers of the published code (golden/README.md)."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ibnvision.layers import CGA, DEAB, DEB, CGAFusion
from ibnvision.layers.content_guided_attention import (
    ChannelAttention,
    PixelAttention,
    SpatialAttention,
)
from ibnvision.testing import assert_close

GOLDEN = json.loads((Path(__file__).parent / "golden" / "dea.json").read_text())
LAYERS = {
    "spatial_attention": SpatialAttention,
    "channel_attention_r8": lambda: ChannelAttention(16, 8),
    "channel_attention_r4": lambda: ChannelAttention(16, 4),
    "pixel_attention": lambda: PixelAttention(16),
    "deb_train_dim16": lambda: DEB(16),
    "deab_train_dim16_r8": lambda: DEAB(16, 8),
    "deb_deploy_dim16": lambda: DEB(16, detail=False),
    "deab_deploy_dim16_r8": lambda: DEAB(16, 8, detail=False),
    "cga_fusion_dim16_r8": lambda: CGAFusion(16, 8),
    "cga_fusion_dim16_r4": lambda: CGAFusion(16, 4),
}


def drawn(key: str, shape: list[int]) -> Tensor:
    values = np.random.RandomState(zlib.crc32(key.encode())).randn(*shape)
    scale = np.sqrt(1 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return torch.from_numpy((values * scale).astype(np.float32))


def image(seed: int = 21) -> Tensor:
    values = np.random.RandomState(seed).rand(2, 16, 9, 11).astype(np.float32)
    return torch.from_numpy(values).double()


def filled(layer: nn.Module, keys: list[tuple[str, list[int]]]) -> nn.Module:
    layer.load_state_dict({key: drawn(key, shape) for key, shape in keys}, strict=True)
    return layer.double().eval()


def error(y: Tensor, recorded: dict) -> float:
    """The greatest difference relative to the greatest value."""
    assert list(y.shape) == recorded["shape"]
    flat, scale = y.detach().flatten(), max(abs(recorded["min"]), abs(recorded["max"]))
    first, last = recorded["first"], recorded["last"]
    found = [*flat[: len(first)], *flat[-len(last) :], flat.mean(), flat.min(), flat.max()]
    wanted = [*first, *last, recorded["mean"], recorded["min"], recorded["max"]]
    worst = max(abs(a.item() - b) for a, b in zip(found, wanted, strict=True)) / scale
    return max(worst, abs(flat.norm().item() - recorded["l2"]) / recorded["l2"])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("grad", [False, True])
def test_numbers_are_the_published_ones(name, grad):
    golden = GOLDEN[name]
    layer = filled(LAYERS[name](), golden["keys"])
    inputs = [image(21), image(22)] if "pixel" in name or "fusion" in name else [image()]
    before = [x.clone() for x in inputs]
    with torch.set_grad_enabled(grad):
        y = layer(*inputs)
        assert error(y, golden["out"]) < 1e-8
        single = layer.float()(*(x.float() for x in inputs))
    assert error(single.double(), golden["out"]) < 5e-6
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))  # sums are in place
    if "one_sigmoid" in golden:
        assert error(y, golden["one_sigmoid"]) > 1e-2


def test_parts_of_a_training_block():
    layer = filled(DEAB(16, 8), GOLDEN["deab_train_dim16_r8"]["keys"])
    x = image()
    r = layer.body(x)
    attention = CGA(16, 8).double()
    attention.load_state_dict(layer.state_dict(), strict=False)
    assert_close(layer(x), attention(r, x))
    assert_close(attention(r), attention(r, x) - x)
    coarse = layer.ca(r) + layer.sa(r)
    assert_close(attention(r), r * layer.pa(r, coarse))


@torch.no_grad()
def test_means_of_the_whole_image_make_a_part_exact():
    keys = GOLDEN["cga_fusion_dim16_r8"]["keys"]
    low, high = image(1), image(2)
    fusion = filled(CGAFusion(16, 8), keys)
    whole, means = fusion(low, high), (low + high).mean((2, 3), keepdim=True)
    part = fusion(low[..., :8], high[..., :8], means)
    assert_close(part[..., :2], whole[..., :2])  # six columns reach into the cut
    assert (fusion(low[..., :8], high[..., :8])[..., :2] - whole[..., :2]).abs().max() > 1e-6
    gate = CGA(16).double()
    r = torch.randn_like(low)
    whole, part = gate(r), gate.attend(r[..., :8], pooled=r.mean((2, 3), keepdim=True))
    assert_close(part[..., :2], whole[..., :2])


def test_narrow_layers_and_bad_arguments():
    assert ChannelAttention(4, 8).ca[0].out_channels == 1
    with pytest.raises(ValueError, match="reduction must be at least 1, got 0"):
        CGA(8, 0)
    with pytest.raises(ValueError, match="at least 4"):
        DEAB(8)(torch.rand(1, 8, 3, 16))
