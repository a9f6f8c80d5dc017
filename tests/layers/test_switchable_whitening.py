import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from ibnvision.layers import SwitchWhiten2d
from ibnvision.layers.switchable_whitening import KINDS, inverse_root
from ibnvision.testing import assert_close

F64 = {"dtype": torch.float64}
FAR = 1e3  # a softmax weight that leaves nothing to the others


def image(n: int = 4, c: int = 6, h: int = 9, w: int = 7, seed: int = 1) -> Tensor:
    """Correlated channels of other means and scales, and images of other styles."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, h * w, generator=generator, **F64)
    mix = torch.randn(c, c, generator=generator, **F64) * 0.3 + torch.eye(c, **F64)
    style = torch.randn(n, c, 1, generator=generator, **F64)
    return (mix @ x * (1 + 0.3 * style.abs()) + style + 2).view(n, c, h, w)


def layer(kind: str = "", c: int = 6, **kwargs: Any) -> SwitchWhiten2d:
    """In float64; all weight on one kind, if named."""
    made = SwitchWhiten2d(c, **{"num_pergroup": 3, "T": 30, "sw_type": 5, **kwargs}).double()
    if kind:
        for weight in (made.sw_mean_weight, made.sw_var_weight):
            weight.data[KINDS[made.sw_type].index(kind)] = FAR
    return made


def covariance(x: Tensor) -> Tensor:
    """Of the rows of x, [c, S], by its definition."""
    x = x - x.mean(1, keepdim=True)
    return x @ x.T / x.shape[1]


def exact(x: Tensor, kind: str, n: int, g: int, c: int = 3) -> tuple[Tensor, Tensor]:
    """Mean [c, 1] and covariance [c, c] of one image and group, for each kind on its own."""
    group = x[:, g * c : (g + 1) * c]
    of = {"b": group.transpose(0, 1), "i": group[n], "l": x[n]}[kind[0]].flatten(1)
    if kind == "ln":
        return of.mean().expand(c, 1), of.var(correction=0) * torch.eye(c, **F64)
    cov = covariance(of)
    return of.mean(1, keepdim=True), cov if kind[1] == "w" else cov.diag().diag()


def expected(x: Tensor, means: dict[str, float], covs: dict[str, float]) -> Tensor:
    """The layer by its formula, with an eigendecomposition."""
    y = torch.empty_like(x)
    for n in range(len(x)):
        for g in range(x.shape[1] // 3):
            mean = sum(m * exact(x, k, n, g)[0] for k, m in means.items())
            cov = sum(s * exact(x, k, n, g)[1] for k, s in covs.items()) + 1e-5 * torch.eye(3)
            values, vectors = torch.linalg.eigh(cov)
            u = vectors @ (values**-0.5).diag() @ vectors.T
            part = x[n, g * 3 : g * 3 + 3].flatten(1)
            y[n, g * 3 : g * 3 + 3] = (u @ (part - mean)).view_as(y[n, g * 3 : g * 3 + 3])
    return y


@pytest.mark.parametrize("kind", KINDS[5])
def test_each_kind_by_its_definition(kind: str) -> None:
    x = image()
    assert_close(layer(kind)(x), expected(x, {kind: 1}, {kind: 1}))


@pytest.mark.parametrize("sw_type", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_kinds_are_mixed_by_two_softmaxes_and_begin_equal(sw_type: int, tied: bool) -> None:
    x, made, kinds = image(), layer(sw_type=sw_type, tie_weight=tied), KINDS[sw_type]
    equal = {kind: 1 / sw_type for kind in kinds}
    assert_close(made(x), expected(x, equal, equal))
    made.sw_mean_weight.data = torch.arange(sw_type).double()
    means = dict(zip(kinds, made.sw_mean_weight.softmax(0).tolist(), strict=True))
    covs = means
    if made.sw_var_weight is not None:
        made.sw_var_weight.data = torch.linspace(1, -1, sw_type).double()
        covs = dict(zip(kinds, made.sw_var_weight.softmax(0).tolist(), strict=True))
    assert_close(made(x), expected(x, means, covs))


def test_batch_whitening_gives_groups_a_covariance_of_one() -> None:
    y = layer("bw", sw_type=2, eps=1e-12)(image())
    for group in y.transpose(0, 1).flatten(1).split(3):
        assert_close(covariance(group), torch.eye(3))
        assert_close(group.mean(1), torch.zeros(3))
    across = covariance(y.transpose(0, 1).flatten(1))[:3, 3:]
    assert across.abs().max() > 0.1  # groups are whitened on their own


def test_five_iterations_are_near_on_channels_of_like_scale() -> None:
    x = torch.randn(8, 16, 12, 12)
    y = SwitchWhiten2d(16)(x)
    assert (covariance(y.transpose(0, 1).flatten(1)) - torch.eye(16)).abs().max() < 0.1


def test_newtons_iterations_are_those_of_the_paper() -> None:
    s = torch.stack([covariance(torch.randn(5, 40, **F64)) for _ in range(3)])
    a = s / s.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    p = torch.eye(5, **F64)
    for steps in range(1, 7):
        p = 0.5 * (3 * p - p @ p @ p @ a)
        assert_close(inverse_root(s, steps), p * (a / s).sqrt()[:, :1, :1])
    assert_close(inverse_root(torch.tensor([[4.0]]), 1), torch.tensor([[0.5]]))
    # diag(3, 1), one step: 1.5 - 0.5 * (3/4, 1/4), over the root of the trace
    s = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert_close(inverse_root(s, 1), torch.tensor([[1.125, 0.0], [0.0, 1.375]]) / 2)
    assert_close(inverse_root(s, 40), torch.tensor([[3**-0.5, 0.0], [0.0, 1.0]]))


def test_kinds_without_the_batch_give_each_image_its_own_result() -> None:
    x = image()
    for kind in ("iw", "in", "ln"):
        made = layer(kind)
        alone = torch.cat([made(one[None]) for one in x])
        assert_close(made(x), alone)
        assert_close(made.eval()(x), alone)


def test_running_statistics_follow_the_batch_and_serve_evaluation() -> None:
    made, reference = layer("bw", momentum=0.3), nn.BatchNorm2d(6, momentum=0.3, **F64)
    cov = torch.eye(3, **F64).repeat(2, 1, 1)
    for seed in range(3):
        x = image(seed=seed)
        made(x)
        reference(x)
        groups = x.transpose(0, 1).flatten(1).split(3)
        cov = 0.7 * cov + 0.3 * torch.stack([covariance(group) for group in groups])
    assert_close(made.running_mean.flatten(), reference.running_mean)
    assert_close(made.running_cov, cov)
    before = copy.deepcopy(made.state_dict())
    x = image(seed=9)
    y = made.eval()(x)
    u = inverse_root(cov + 1e-5 * torch.eye(3), 30)
    centred = (x - reference.running_mean[:, None, None]).view(4, 2, 3, -1)
    assert_close(y, (u @ centred).view_as(x))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_affine_comes_last() -> None:
    x, made = image(), layer()
    plain = layer(affine=False)
    assert plain.weight is None and plain.bias is None
    made.weight.data = torch.linspace(-1, 2, 6, **F64)
    made.bias.data = torch.linspace(3, 1, 6, **F64)
    scale, shift = made.weight[:, None, None], made.bias[:, None, None]
    assert_close(made(x), plain(x) * scale + shift)


@pytest.mark.parametrize("sw_type", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_gradients(sw_type: int, training: bool) -> None:
    made = layer(c=4, num_pergroup=2, sw_type=sw_type, T=5).train(training)
    made.running_cov.add_(0.3)
    parameters = {
        name: torch.rand_like(p).add(0.5).requires_grad_() for name, p in made.named_parameters()
    }

    def run(x: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(copy.deepcopy(made), named, x)

    x = image(2, 4, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *parameters.values()))


@pytest.mark.parametrize(
    ("c", "wanted", "group"), [(32, 16, 16), (24, 16, 12), (7, 16, 7), (17, 16, 1), (10, 4, 2)]
)
def test_groups_divide_the_channels(c: int, wanted: int, group: int) -> None:
    made = SwitchWhiten2d(c, wanted)
    assert (made.num_groups, made.num_pergroup) == (c // group, group)
    assert made(torch.randn(2, c, 4, 4)).shape == (2, c, 4, 4)


def test_state_has_the_released_names_and_shapes() -> None:
    shapes = {name: tuple(t.shape) for name, t in SwitchWhiten2d(32).state_dict().items()}
    assert shapes == {
        "sw_mean_weight": (2,),
        "sw_var_weight": (2,),
        "weight": (32,),
        "bias": (32,),
        "running_mean": (2, 16, 1),
        "running_cov": (2, 16, 16),
    }
    assert "sw_var_weight" not in SwitchWhiten2d(32, tie_weight=True).state_dict()


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (2, 6, 1, 1), (1, 6, 4, 4)])
def test_single_pixels_and_flat_channels_stay_finite(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    x[:, 2] = 5
    x.requires_grad_()
    for training in (True, False):
        y = SwitchWhiten2d(6, 3, sw_type=5).train(training)(x)
        y.square().sum().backward()
        assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_statistics_in_float32(dtype: torch.dtype) -> None:
    x = (image(4, 6, 16, 16) * 30).to(dtype)  # squares beyond float16
    half, full = (SwitchWhiten2d(6, 3, sw_type=5) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        y = half(x)
    assert y.dtype == dtype
    assert torch.equal(y, full(x.float()).to(dtype))
    assert torch.equal(half.running_cov, full.running_cov)
    assert_close(y, SwitchWhiten2d(6, 3, sw_type=5).double()(x.double()), dtype)


def test_channels_last_gives_the_same() -> None:
    x = image()
    assert_close(layer()(x.to(memory_format=torch.channels_last)), layer()(x))


@pytest.mark.parametrize("training", [True, False])
def test_compile_fx_and_export_give_the_same(training: bool) -> None:
    x, made = image(), layer(T=5).train(training)
    y = copy.deepcopy(made)(x)
    moved = not torch.equal(y, copy.deepcopy(made).eval()(x))
    assert moved == training
    makers = {
        "compile": lambda m: torch.compile(m, backend="aot_eager", fullgraph=True),
        "fx": fx.symbolic_trace,
    }
    if not training:
        makers["export"] = lambda m: torch.export.export(m, (x,)).module()
    for name, make in makers.items():
        twin = copy.deepcopy(made)
        assert_close(make(twin)(x), y)
        assert torch.equal(twin.running_cov, made.running_cov) != training, name


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_features": 0}, "must be at least 1, got 0 and 16"),
        ({"num_pergroup": 0}, "must be at least 1, got 8 and 0"),
        ({"sw_type": 4}, "sw_type must be one of 2, 3, 5, got 4"),
        ({"T": 0}, "T must be at least 1, got 0"),
        ({"eps": 0.0}, "eps must be above 0, got 0.0"),
        ({"momentum": 1.5}, r"momentum must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SwitchWhiten2d(**{"num_features": 8, **kwargs})


def test_bad_input_is_named() -> None:
    for shape in ((2, 5, 3, 3), (2, 6, 9)):
        with pytest.raises(ValueError, match=r"x must be \[N, C=6, H, W\], got \[2, "):
            SwitchWhiten2d(6)(torch.zeros(shape))
