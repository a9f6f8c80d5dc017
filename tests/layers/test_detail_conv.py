import copy
import io
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from ibnvision.layers import DEConv
from ibnvision.ops import reference_ops
from ibnvision.ops.detail_conv import tap_map
from ibnvision.testing import DEVICES, assert_close

GOLDEN = json.loads((Path(__file__).parent / "golden" / "detail_conv.json").read_text())
OPTIONS = {
    "plain": {},
    "same": dict(padding="same", dilation=2),
    "strided": dict(stride=(2, 1), padding=(1, 0), bias=False),
    "grouped": dict(groups=2, padding=1, theta=0.3),
    "depthwise": dict(groups=6, padding=1),
    "reflect": dict(padding=(2, 1), padding_mode="reflect", theta=(0.5, 2)),
}


def make(
    dtype: torch.dtype = torch.float64, channels: int = 6, out: int = 6, **options: Any
) -> Any:
    torch.manual_seed(3)
    return DEConv(channels, out, 3, dtype=dtype, **options)


def image(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def official_value(key: str, shape: list[int]) -> Tensor:
    """What the recorded layer held under this key: drawn from a seed made of the key."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    scale = np.sqrt(1 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return torch.from_numpy((random.randn(*shape) * scale).astype(np.float32))


def assert_recorded(got: Tensor, want: dict[str, Any], rtol: float) -> None:
    assert list(got.shape) == want["shape"]
    flat = got.detach().double().flatten()
    if "values" in want:
        want = want | {"first": want["values"], "last": want["values"][-1:]}
    first, last = (torch.tensor(want[k], dtype=torch.float64) for k in ("first", "last"))
    scale = rtol * float(first.abs().max())
    torch.testing.assert_close(flat[: len(first)], first, rtol=0, atol=scale)
    torch.testing.assert_close(flat[-len(last) :], last, rtol=0, atol=scale)
    for name, value in {"l2": flat.norm(), "mean": flat.mean(), "max": flat.max()}.items():
        if name in want:
            assert abs(value.item() - want[name]) <= scale * max(1, want["l2"]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_recorded_layer_with_its_gradients(dtype: torch.dtype) -> None:
    recorded = GOLDEN["layer"]
    layer = DEConv(8, 8, padding=1, dtype=dtype)
    assert [[k, list(v.shape)] for k, v in layer.state_dict().items()] == recorded["keys"]
    layer.load_state_dict({k: official_value(k, s) for k, s in recorded["keys"]}, strict=True)
    x, dy = (
        getattr(np.random.RandomState(s), f)(2, 8, 12, 10) for s, f in ((11, "rand"), (12, "randn"))
    )
    x, dy = (torch.from_numpy(t.astype(np.float32)).to(dtype) for t in (x, dy))
    rtol = 1e-7 if dtype == torch.float64 else 1e-5
    y = layer(x.requires_grad_())
    assert_recorded(y, recorded["out"], rtol)
    y.backward(dy)
    assert_recorded(x.grad, recorded["grad_input"], rtol)
    for key, want in recorded["grads"].items():
        assert_recorded(layer.get_parameter(key).grad, want, rtol)
    fused = layer.fuse()
    assert_recorded(fused.weight, recorded["merged_weight"], rtol)
    assert_recorded(fused.bias, recorded["merged_bias"], rtol)


def test_recorded_tap_maps() -> None:
    parts = dict(
        zip(
            ("cdc", "hdc", "vdc", "adc", "vanilla"),
            tap_map().split([9, 3, 3, 9, 9], 1),
            strict=True,
        )
    )
    for name, rows in GOLDEN["maps"].items():
        assert torch.equal(parts[name].T, torch.tensor(rows).double()), name
    weight = official_value("golden.w2d.weight", [2, 3, 3, 3]).double()
    half = torch.einsum("oij,kj->oik", weight.flatten(2), tap_map(1.0, 0.5)[:, 15:24])
    assert_close(half.flatten(), torch.tensor(GOLDEN["angular_theta_half"]), torch.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIONS)
def test_is_a_drop_in_for_conv2d(name: str, device: str) -> None:
    options = OPTIONS[name]
    layer = make(**options).to(device)
    plain = {k: v for k, v in options.items() if k != "theta"}
    conv = nn.Conv2d(6, 6, 3, **plain, dtype=torch.float64, device=device)
    weight, bias = layer.fold()
    state = {"weight": weight} | ({} if bias is None else {"bias": bias})
    conv.load_state_dict(state, strict=True)
    x = image(2, 6, 9, 8).to(device)
    want = conv(x)
    assert_close(layer(x), want)
    assert_close(layer(x[0]), want[0])
    assert_close(layer.eval()(x), want)
    with torch.no_grad():
        assert_close(layer(x), want)
        fused = layer.fuse()
        assert_close(fused(x), want)
    assert {type(fused), fused.training} == {nn.Conv2d, False}
    for key in ("in_channels", "out_channels", "stride", "dilation", "groups", "padding_mode"):
        assert getattr(layer, key) == getattr(conv, key) == getattr(fused, key), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_and_format(dtype: torch.dtype) -> None:
    layer = make(torch.float32, padding=1).to(dtype).to(memory_format=torch.channels_last).eval()
    x = image(2, 6, 8, 8, dtype=torch.float32).to(dtype)
    layer(x).float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in layer.parameters())
    fused = layer.fuse()
    assert fused.weight.dtype == dtype
    assert fused.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        y = layer(x)
    assert torch.equal(y, fused(x)) and y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)


class Eval:
    """A layer in eval mode, what it answers now, and what it should answer."""

    def __init__(self) -> None:
        self.layer, self.x = make(padding=1).eval(), image(1, 6, 5, 5)

    def check(self) -> Tensor:
        """The answer, which the definition must give too; asked twice, with one kernel kept."""
        with torch.no_grad():
            self.layer(self.x)
            before = self.layer._folded
            y = self.layer(self.x)
            assert self.layer._folded is before is not None
            with reference_ops():
                want = copy.deepcopy(self.layer)(self.x)
        assert_close(y, want)
        return y


@torch.no_grad()
def in_place(layer: DEConv) -> None:
    layer.conv1_4.conv.weight[0, 0, 0, 0] += 1


@torch.no_grad()
def through_detach(layer: DEConv) -> None:
    layer.conv1_2.conv.bias.detach().add_(1)


def by_optimizer(layer: DEConv) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(image(1, 6, 5, 5)).square().sum().backward()
    optimizer.step()


def load(layer: DEConv, **options: bool) -> None:
    layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}, **options)


def load_assigned(layer: DEConv) -> None:
    load(layer, assign=True)


def replaced(layer: DEConv) -> None:
    layer.conv1_5.weight = nn.Parameter(layer.conv1_5.weight.detach() + 1)


def new_data(layer: DEConv) -> None:
    layer.conv1_1.conv.weight.data = layer.conv1_1.conv.weight.data + 1


def hidden_write(layer: DEConv) -> None:
    layer.conv1_1.conv.weight.data.mul_(2)


def hidden_tap(layer: DEConv) -> None:
    layer.conv1_5.weight.data[..., 1, 1] += 1


def hidden_value(layer: DEConv) -> None:
    layer.conv1_3.conv.weight.detach().numpy()[2, 3, 1] += 1
    layer.eval()


def other_theta(layer: DEConv) -> None:
    layer.angular_theta = 0.25


def rounded(layer: DEConv) -> None:
    layer.half().double()


def in_inference_mode(layer: DEConv) -> None:
    with torch.inference_mode():
        layer.conv1_5.bias.add_(1)


CHANGES = [
    in_place, through_detach, by_optimizer, load, load_assigned, replaced, new_data, hidden_write,
    hidden_tap, hidden_value, other_theta, rounded, in_inference_mode,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_kept_kernel_is_never_stale(change: Any) -> None:
    case = Eval()
    before = case.check()
    change(case.layer)
    after = case.check()
    assert (after - before).abs().max() > 1e-5


def test_nothing_is_kept_while_training_or_while_gradients_are_needed() -> None:
    layer, x = make(padding=1), image(1, 6, 5, 5)
    with torch.no_grad():
        layer(x)
    assert layer._folded is None
    layer.eval()
    layer(x).sum().backward()
    assert layer._folded is None and all(p.grad is not None for p in layer.parameters())
    layer.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    assert layer._folded is not None and x.grad.any()
    layer.train()
    assert layer._folded is None


def test_kernel_kept_in_inference_mode_serves_autograd() -> None:
    layer, x = make(padding=1).eval().requires_grad_(False), image(1, 6, 5, 5)
    with torch.inference_mode():
        want = layer(x).clone()
    kept = layer._folded
    y = layer(x.requires_grad_())
    y.sum().backward()
    assert layer._folded is kept is not None and x.grad.any()
    assert_close(y, want)


def test_kept_kernel_serves_under_a_mode_that_only_watches() -> None:
    names = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    case = Eval()
    case.check()
    with torch.no_grad(), Watch():
        case.layer(case.x)
    assert "convolution" in names and not {"detail_conv_forward", "einsum", "bmm"} & set(names)
    with torch.no_grad():
        traced = torch.fx.experimental.proxy_tensor.make_fx(case.layer)(case.x)
    assert "detail_conv_forward" in traced.code or "einsum" in traced.code or "mm" in traced.code


def test_functional_call_and_parametrizations_are_not_kept() -> None:
    case = Eval()
    case.check()
    changed = {"conv1_5.weight": case.layer.conv1_5.weight.detach() * 2}
    with torch.no_grad():
        got = torch.func.functional_call(case.layer, changed, (case.x,))
    twin = copy.deepcopy(case.layer)
    twin.conv1_5.weight.data = changed["conv1_5.weight"]
    assert_close(got, twin.train()(case.x))
    normed = nn.utils.parametrizations.weight_norm(case.layer.conv1_5)
    for _ in range(2):
        with torch.no_grad():
            got = case.layer(case.x)
            assert_close(got, copy.deepcopy(case.layer).train()(case.x))
            normed.parametrizations.weight.original0.mul_(3)


def test_copies_and_files_do_not_hold_the_kept_kernel() -> None:
    case = Eval()
    want = case.check()
    size = len(pickle.dumps(make(padding=1).eval()))
    assert not [k for k in case.layer.state_dict() if not k.startswith("conv1_")]
    for clone in (copy.deepcopy(case.layer), pickle.loads(pickle.dumps(case.layer))):
        assert clone._folded is None and case.layer._folded is not None
        with torch.no_grad():
            assert_close(clone(case.x), want)
    assert abs(len(pickle.dumps(case.layer)) - size) < 100
    file = io.BytesIO()
    torch.save(case.layer, file)
    file.seek(0)
    assert torch.load(file, weights_only=False)._folded is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["plain", "reflect", "same"])
def test_scripts_traces_exports_and_compiles(name: str, training: bool) -> None:
    layer = make(torch.float32, **OPTIONS[name]).train(training)
    x = image(2, 6, 9, 8, dtype=torch.float32)
    with torch.no_grad():
        want = layer(x)  # in eval a kept kernel exists from here on
    graph = fx.symbolic_trace(layer)
    assert_close(graph(x), want)
    assert_close(torch.jit.script(layer)(x), want)
    traced = torch.jit.trace(layer, x)
    program = torch.export.export(layer, (x,))
    assert_close(program.module()(x), want)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), want)
    compiled(x).sum().backward()
    with torch.no_grad():
        layer.conv1_5.weight += 1
        moved = layer(x)
        for runs in (graph, traced, compiled):  # neither has a kernel of old built in
            assert_close(runs(x), moved)
    assert (moved - want).abs().max() > 0.1


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(kernel_size=5), "kernel_size must be 3, got 5"),
        (dict(theta=(1.0, 1.0, 1.0)), "theta must be a number or"),
        (dict(stride=(1, 1, 1)), "stride must be a whole number or a pair"),
        (dict(groups=4), "divisible by groups"),
        (dict(padding="full"), "Invalid padding string"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DEConv(6, 8, **options)


def test_says_what_it_is() -> None:
    text = repr(DEConv(6, 8, theta=0.5, padding=1))
    assert text.splitlines()[1].strip().startswith("6, 8, stride=(1, 1), padding=(1, 1)")
    assert "theta=(1.0, 0.5)" in text
