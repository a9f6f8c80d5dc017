import copy
from typing import Any

import pytest
import timm.layers
import timm.utils.model
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ibnvision.layers import IBN, BatchNormAct2d, IBNAct2d, InstanceNormAct2d
from ibnvision.testing import assert_close

F64 = {"dtype": torch.float64}


def randomize(module: nn.Module, seed: int = 0) -> Any:
    """Random parameters and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if name.endswith(("weight", "var")) else -1.0
            tensor.copy_(torch.rand(tensor.shape, generator=generator, **F64) + low)
    return module


def image(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, **F64) * 3 + 2


def official(layer: IBN, x: Tensor) -> Tensor:
    """The published layer: split, two norms, concatenate. A single pixel gives the bias."""
    i, b, count = layer.IN, layer.BN, layer.instance_channels
    sizes = [count, x.shape[1] - count]
    first, rest = x.split(sizes[::-1] if layer.instance_last else sizes, 1)
    if layer.instance_last:
        first, rest = rest, first
    if x[0, 0].numel() == 1:
        first = (first * 0).add(i.bias[:, None, None])
    elif count:
        first = F.instance_norm(first, weight=i.weight, bias=i.bias, eps=i.eps)
    rest = b(rest) if rest.shape[1] else rest
    return torch.cat([rest, first] if layer.instance_last else [first, rest], 1)


CASES = {
    "half": (64, 0.5, False, 32),
    "odd width": (5, 0.5, False, 2),
    "dense": (64, 0.4, True, 26),  # the official DenseNet floors the batch half: 38 + 26
    "dense, odd": (7, 0.4, True, 3),
    "third": (8, 1 / 3, False, 2),
    "none": (6, 0.0, False, 0),
    "all": (6, 1.0, False, 6),
    "all, last": (6, 1.0, True, 6),
    "none, last": (6, 0.0, True, 0),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_official_formula(case: str, training: bool) -> None:
    channels, ratio, last, count = CASES[case]
    layer = randomize(IBN(channels, ratio, instance_last=last, **F64)).train(training)
    twin = copy.deepcopy(layer)
    assert layer.instance_channels == layer.IN.num_features == count
    assert layer.BN.num_features == channels - count
    x, z = (image(3, channels, 4, 5).requires_grad_() for _ in range(2))
    y, expected = layer(x), official(twin, z)
    assert_close(y, expected)
    dy = image(*y.shape, seed=2)
    y.backward(dy)
    expected.backward(dy)
    assert_close(x.grad, z.grad)
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        if a.numel():  # the half without channels may have no gradient
            assert_close(a.grad, b.grad)
    if channels > count:
        assert_close(layer.BN.running_mean, twin.BN.running_mean)
        assert_close(layer.BN.running_var, twin.BN.running_var)
        assert layer.BN.num_batches_tracked == twin.BN.num_batches_tracked == int(training)


def test_state_has_the_official_keys() -> None:
    assert list(IBN(4).state_dict()) == [
        "IN.weight", "IN.bias", "BN.weight", "BN.bias",
        "BN.running_mean", "BN.running_var", "BN.num_batches_tracked",
    ]  # fmt: skip
    assert list(IBNAct2d(4).state_dict()) == list(IBN(4).state_dict())
    assert list(InstanceNormAct2d(4).state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_ratio_outside_zero_and_one_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 1\], got"):
        IBN(4, ratio)


@pytest.mark.parametrize("training", [True, False])
def test_a_single_pixel_gives_the_instance_bias(training: bool) -> None:
    layer = randomize(IBN(6, **F64)).train(training)
    x = image(4, 6, 1, 1)
    expected = official(copy.deepcopy(layer), x)
    y = layer(x)
    assert_close(y, expected)
    assert_close(y[:, :3], layer.IN.bias[:, None, None].expand(4, 3, 1, 1))
    one = layer.train()(x[:1])  # the batch half too has one value a channel now
    assert_close(one[0, 3:, 0, 0], layer.BN.bias)
    assert torch.isfinite(layer.BN.running_var).all()


def test_another_shape_than_four_axes_or_width_raises() -> None:
    with pytest.raises(ValueError, match=r"running_mean|bn_weight"):
        IBN(4)(torch.zeros(2, 6, 3, 3))
    with pytest.raises(ValueError, match=r"x must be \[N, C"):
        IBN(4)(torch.zeros(2, 4))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.Hardswish, nn.GELU])
@pytest.mark.parametrize("drop", [None, nn.Dropout])
def test_act_layers_follow_timm(act: Any, drop: Any, residual: bool) -> None:
    """Activations the op does not know, and drop layers, run as modules after it."""
    kwargs = {"act_layer": act, "drop_layer": drop, **F64}
    theirs = randomize(timm.layers.BatchNormAct2d(6, apply_act=not residual, **kwargs))
    ours = BatchNormAct2d(6, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    mixed = IBNAct2d(6, 0.0, **kwargs)
    mixed.BN.load_state_dict(theirs.state_dict())
    assert ours.fused == (drop is None and act in (nn.ReLU, nn.LeakyReLU, nn.SiLU))
    x, other = image(2, 6, 3, 3), image(2, 6, 3, 3, seed=5) if residual else None
    for training in (False, True):
        results = []
        for layer in (theirs, ours, mixed):
            torch.manual_seed(3)
            if residual and layer is theirs:
                results.append(act()(layer.train(training)(x) + other))
            else:
                results.append(
                    layer.train(training)(x, other) if residual else layer.train(training)(x)
                )
        assert_close(results[1], results[0])
        assert_close(results[2], results[0])
    assert_close(ours.running_var, theirs.running_var)


def test_leaky_slope_reaches_the_op() -> None:
    kwargs = {"act_layer": nn.LeakyReLU, "act_kwargs": {"negative_slope": 0.37}}
    layer = randomize(IBNAct2d(4, **kwargs, **F64)).eval()
    plain = randomize(IBN(4, **F64)).eval()
    x = image(2, 4, 3, 3)
    assert_close(layer(x), F.leaky_relu(plain(x), 0.37))


def test_instance_norm_adds_before_it_normalizes() -> None:
    layer = randomize(InstanceNormAct2d(4, **F64))
    x, other = image(2, 4, 3, 5), image(2, 4, 3, 5, seed=2)
    expected = F.relu(F.instance_norm(x + other, weight=layer.weight, bias=layer.bias))
    assert_close(layer(x, other), expected)
    assert_close(layer.eval()(x, other), expected)
    norm = InstanceNormAct2d(4, affine=False, apply_act=False)
    assert not list(norm.parameters())
    assert_close(norm(x), F.instance_norm(x))


def test_cumulative_average_follows_batch_norm() -> None:
    layer, bn = IBN(4, 0.5, momentum=None, **F64), nn.BatchNorm2d(2, momentum=None, **F64)
    for seed in range(3):
        x = image(2, 4, 3, 3, seed=seed)
        layer(x)
        bn(x[:, 2:])
    assert layer.BN.num_batches_tracked == 3
    assert_close(layer.BN.running_mean, bn.running_mean)
    assert_close(layer.BN.running_var, bn.running_var)


def test_without_running_statistics_the_batch_is_used_always() -> None:
    layer = IBN(4, track_running_stats=False, **F64).eval()
    x = image(2, 4, 3, 3)
    assert_close(layer(x), official(layer, x))
    assert_close(layer(x).mean((0, 2, 3)), torch.zeros(4))


def test_a_frozen_batch_half_stays() -> None:
    layer = randomize(IBN(6, **F64)).train()
    layer.BN.eval()
    for p in layer.BN.parameters():
        p.requires_grad_(False)
    before = copy.deepcopy(layer.state_dict())
    x = image(2, 6, 3, 3)
    y = layer(x)
    expected = (x[:, 3:] - layer.BN.running_mean[:, None, None]) / (
        layer.BN.running_var[:, None, None] + 1e-5
    ).sqrt()
    expected = expected * layer.BN.weight[:, None, None] + layer.BN.bias[:, None, None]
    assert_close(y[:, 3:], expected)
    y.square().sum().backward()
    assert layer.BN.weight.grad is None and layer.IN.weight.grad.abs().min() > 0
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = IBNAct2d(6, act_layer=nn.SiLU)
        self.last = IBN(6, 0.4, instance_last=True)
        self.extra = InstanceNormAct2d(6)
        self.plain = BatchNormAct2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.plain(self.extra(self.last(x, x), x), x)


@pytest.mark.parametrize("training", [True, False])
def test_script_fx_compile_and_copies_give_the_same(training: bool) -> None:
    torch.manual_seed(0)
    block = randomize(Block().double()).train(training)
    x = torch.randn(2, 3, 6, 5, **F64)
    y = copy.deepcopy(block)(x)
    made = {
        "script": lambda m: torch.jit.script(m),
        "fx": lambda m: fx.symbolic_trace(m),
        "compile": lambda m: torch.compile(m, backend="aot_eager", fullgraph=True),
    }
    for name, make in made.items():
        twin = copy.deepcopy(block)
        assert_close(make(twin)(x), y)
        tracked = twin.norm.BN.num_batches_tracked.item()
        assert tracked == int(training), f"{name} lost the running statistics"


def test_fx_sees_one_node_per_norm() -> None:
    graph = fx.symbolic_trace(Block()).graph
    nodes = [n for n in graph.nodes if "ibn_norm" in str(n.target)]
    assert len(nodes) == 4 and not any("relu" in str(n.target) for n in graph.nodes)


@pytest.mark.parametrize("kind", [IBN, IBNAct2d, BatchNormAct2d, InstanceNormAct2d])
def test_channels_last_goes_through(kind: Any) -> None:
    layer = randomize(kind(6, **F64))
    x, residual = image(2, 6, 4, 5), image(2, 6, 4, 5, seed=4)
    y = copy.deepcopy(layer)(x, residual)
    last = layer(
        x.to(memory_format=torch.channels_last), residual.to(memory_format=torch.channels_last)
    )
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert y.is_contiguous()
    assert_close(last, y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_float_parameters(dtype: torch.dtype) -> None:
    layer = randomize(IBN(6).float())
    twin = copy.deepcopy(layer).double()
    x = image(2, 6, 8, 8).to(dtype)
    y = layer(x)
    assert y.dtype == dtype and layer.BN.running_var.dtype == torch.float32
    assert_close(y, twin(x.double()), dtype)
    assert_close(layer.BN.running_var, twin.BN.running_var)


def test_autocast_gives_the_norm_half_input_and_float_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), IBN(6))
    x = torch.randn(2, 3, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert model[1].IN.weight.grad.dtype == torch.float32
    assert torch.isfinite(model[0].weight.grad).all()


def test_sync_batch_norm_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="several processes"):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(IBN(4)))


def test_residual_of_another_shape_raises() -> None:
    with pytest.raises(ValueError, match="residual must have the shape of x"):
        IBNAct2d(4)(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 1, 1))


def test_frozen_batch_norm_uses_running_statistics():
    model = torch.nn.Sequential(IBN(6))
    x = torch.randn(3, 6, 4, 4)
    model(x)
    want = model.eval()(x)
    frozen = timm.utils.model.freeze_batch_norm_2d(model)
    before = frozen[0].BN.running_mean.clone()
    assert_close(frozen.train()(x), want)
    assert torch.equal(frozen[0].BN.running_mean, before)
    assert_close(torch.jit.script(frozen)(x), want)
