"""The blocks of DEA-Net against answers of the published code (golden/README.md)."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ibnvision.layers import CGA, DEAB, DEB, CGAFusion
from ibnvision.layers.content_guided_attention import (
    ChannelAttention,
    PixelAttention,
    SpatialAttention,
)
from ibnvision.ops import reference_ops
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


class Calls(TorchDispatchMode):
    """Counts the convolutions inside the block: of conv3x3's kernel, of the framework."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = self.framework = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        self.kernel += name == "conv3x3_forward"
        self.framework += name == "convolution" and args[1].shape[2:] == (3, 3)
        return func(*args, **(kwargs or {}))


def convolutions(layer: nn.Module, x: Tensor) -> tuple[int, int]:
    with Calls() as calls:
        layer(x)
    return calls.kernel, calls.framework


def block_and_image(kind: type[nn.Module], detail: bool = False) -> tuple[nn.Module, Tensor]:
    x = torch.rand(1, 16, 16, 16).contiguous(memory_format=torch.channels_last)
    return kind(16, detail=detail).eval(), x


needs_kernel = pytest.mark.skipif(
    os.environ.get("IBNVISION_NATIVE") == "0", reason="no library: no kernel"
)


@needs_kernel
@pytest.mark.parametrize("kind", [DEB, DEAB])
def test_inference_runs_the_kernel_and_all_else_the_framework(kind):
    layer, x = block_and_image(kind)
    assert convolutions(layer, x) == (0, 2)  # a gradient is recorded
    with torch.no_grad():
        assert convolutions(layer, x) == (2, 0)
        assert convolutions(layer, x.contiguous()) == (0, 2)
        assert convolutions(layer, x[..., :15]) == (0, 2)  # too small
        expected = layer(x)
        with reference_ops():
            assert convolutions(layer, x) == (0, 2)
            assert_close(layer(x), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert convolutions(layer, x) == (0, 2)
        assert convolutions(layer.double(), x.double()) == (0, 2)
        assert convolutions(kind(16).eval(), x) == (1, 1)  # DEConv is one of its own
    layer.float().requires_grad_(False)
    assert convolutions(layer, x) == (2, 0)
    assert convolutions(layer, x.clone().requires_grad_()) == (0, 2)


@needs_kernel
@torch.no_grad()
def test_other_convolutions_and_activations_are_called():
    for change in (
        lambda b: setattr(b, "act1", nn.LeakyReLU(0.2)),
        lambda b: setattr(b.act1, "forward", lambda t: t.abs()),
        lambda b: setattr(b, "conv1", nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")),
        lambda b: setattr(b, "conv1", nn.Conv2d(16, 16, 3, padding=2, dilation=2)),
        lambda b: setattr(b, "conv1", nn.Conv2d(16, 16, 3, padding=1, groups=2)),
        lambda b: setattr(b, "conv1", nn.Conv2d(16, 16, 1)),
        lambda b: nn.utils.parametrizations.weight_norm(b.conv1),
    ):
        block, x = block_and_image(DEB)
        change(block)
        kernel, _ = convolutions(block, x)
        assert kernel == 1  # conv2
        r = block.act1(block.conv1(x)) + x
        assert_close(block(x), block.conv2(r) + x)


@torch.no_grad()
def test_hooks_are_called():
    block, x = block_and_image(DEB)
    expected, seen = block(x), []
    for module in (block.conv1, block.act1, block.conv2):
        module.register_forward_hook(lambda *_: seen.append(1))
    assert_close(block(x), expected)
    assert len(seen) == 3
    with FlopCounterMode(display=False) as counter:
        block_and_image(DEB)[0](x)
    assert counter.get_total_flops() == 2 * 2 * 9 * 16 * 16 * 16 * 16


@needs_kernel
@torch.no_grad()
def test_a_moved_weight_counts_at_once():
    block, x = block_and_image(DEB)
    before = block(x)
    block.conv2.weight.data.zero_()
    block.conv2.bias.data.zero_()
    assert torch.equal(block(x), x) and not torch.equal(before, x)


@pytest.mark.parametrize("kind", [DEB, DEAB])
@torch.no_grad()
def test_graphs_and_compilers_see_the_modules(kind):
    block, x = block_and_image(kind)
    expected = block(x)
    graph = torch.fx.symbolic_trace(block)
    called = [n.target for n in graph.graph.nodes if n.op == "call_module"]
    assert called[:3] == ["conv1", "act1", "conv2"]
    assert_close(graph(x), expected)
    program = torch.export.export(block, (x,))
    assert not [n for n in program.graph.nodes if "conv3x3" in str(n.target)]
    assert_close(program.module()(x), expected)
    torch._dynamo.reset()
    assert_close(torch.compile(block, backend="aot_eager", fullgraph=True)(x), expected)
