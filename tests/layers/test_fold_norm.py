import copy
import sys

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close

from ibnvision.layers import IBN, BatchNormAct2d, fold_norm, fuse_norm_act
from ibnvision.layers.fold_norm import FoldedConv2d, FoldedNormAct2d
from ibnvision.models import create_segmenter
from ibnvision.ops import reference_ops, why_no_kernel

LAST = torch.channels_last


def at_random(model: nn.Module) -> nn.Module:
    """model in eval mode with random statistics and affine parameters."""
    torch.manual_seed(0)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None:
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.1)
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)
    return model.eval()


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def segmenter(
    backbone: str = "resnet18_ibn_b", head: str = "deeplabv3plus", **options
) -> nn.Module:
    torch.manual_seed(0)
    return create_segmenter(backbone, 5, head=head, head_channels=32, **options)


def fused_torchvision() -> nn.Module:
    model = torchvision.models.resnet18(num_classes=7)
    fuse_norm_act(model)
    return model


class Odd(nn.Module):
    """Every convolution but `alone` has a reason to stay, and `wide` a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.wide_norm = nn.Conv2d(3, 16, 5, 2, 2, bias=True), nn.BatchNorm2d(16)
        self.alone, self.alone_norm = nn.Conv2d(16, 16, 3, 1, 1, 1, 4), nn.BatchNorm2d(16)
        self.twice, self.twice_norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.shared, self.shared_norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.tied, self.tied_norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.other = nn.Conv2d(16, 16, 1)
        self.other.weight = self.tied.weight
        self.batch = nn.Conv2d(16, 16, 1)
        self.batch_norm = nn.BatchNorm2d(16, track_running_stats=False)
        self.mixed, self.mixed_norm = nn.Conv2d(16, 16, 1), IBN(16)
        self.given, self.given_norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.stored, self.stored_norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.hooked, self.hooked_norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.hooked.register_forward_hook(lambda m, x, y: None)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 1))
        self.normed_norm = nn.BatchNorm2d(16)
        self.act = nn.ReLU(inplace=True)
        self.spare, self.spare_norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)  # never run

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.wide_norm(self.wide(x)))
        x = self.act(self.alone_norm(self.alone(x))) + x
        y = self.twice(x)
        x = self.twice_norm(y) + y.mean((2, 3), keepdim=True)
        x = self.shared_norm(self.shared(self.shared(x)))
        x = self.tied_norm(self.tied(x)) + self.other(x)
        x = self.batch_norm(self.batch(x)) + self.mixed_norm(self.mixed(x))
        given = self.given(x)
        self.kept = self.stored(self.given_norm(given))
        x = self.hooked_norm(self.hooked(self.stored_norm(self.kept)))
        return given, self.normed_norm(self.normed(x))


NETWORKS = {
    "deeplabv3plus": lambda: segmenter(auxiliary=True),
    "deeplabv3plus unfused": lambda: segmenter(fused=False),
    "bottlenecks, ibn_a": lambda: segmenter("resnet14t", norm="ibn_a"),
    "mobilenetv3, fpn": lambda: create_segmenter("mobilenetv3_small_050", 5, head="fpn"),
    "timm resnet": lambda: timm.create_model("resnet14t", num_classes=7),
    "torchvision": lambda: torchvision.models.resnet18(num_classes=7),
    "torchvision fused": fused_torchvision,
    "odd": Odd,
}


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        y = model(x)
    return list(y) if isinstance(y, tuple) else [y]


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_keeps_its_numbers_and_gets_back_bit_for_bit(name, layout):
    model = at_random(NETWORKS[name]()).to(memory_format=layout)
    x = image(1, 3, 64, 64).contiguous(memory_format=layout)
    truth = outputs(copy.deepcopy(model).double(), x.double())
    before, state = outputs(model, x), copy.deepcopy(model.state_dict())
    conversion = fold_norm(model)
    assert len(conversion.rows) >= (2 if name == "odd" else 8), str(conversion)
    for y, was, exact in zip(outputs(model, x), before, truth, strict=True):
        scale = exact.abs().max()
        error, usual = ((t - exact).abs().max() / scale for t in (y, was))
        assert error < 5e-6 and error < 8 * usual + 1e-7
        assert torch.isfinite(y).all()
    conversion.undo()
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    for y, was in zip(outputs(model, x), before, strict=True):
        assert torch.equal(y, was)


def test_only_norms_that_alone_read_a_convolution_are_folded():
    model = at_random(Odd())
    rows = fold_norm(model).rows
    assert [row.name for row in rows] == ["wide_norm", "alone_norm"]
    assert rows[0].was == "BatchNorm2d" and rows[0].note == "in wide"
    assert type(model.act) is nn.ReLU  # called at two places, stays where it is


def test_segmenter_keeps_instance_norms_and_little_else():
    model = at_random(segmenter(auxiliary=True))
    fold_norm(model)
    left = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == ["auxiliary.1"]  # runs in training alone
    assert sum(isinstance(m, nn.InstanceNorm2d) for m in model.modules()) == 3
    assert [row.name for row in fold_norm(model.auxiliary).rows] == ["1"]
    assert fold_norm(model).rows == []  # nothing is left to fold


def block(c: int = 64, act: type[nn.Module] | None = nn.ReLU, **geometry) -> nn.Sequential:
    """A convolution and our fused norm."""
    geometry = {"kernel_size": 3, "padding": 1, "bias": False} | geometry
    norm = BatchNormAct2d(c, apply_act=act is not None, act_layer=act or nn.ReLU)
    return at_random(nn.Sequential(nn.Conv2d(c, c, **geometry), norm))


def kernel_calls(monkeypatch) -> list:
    calls = []
    module = sys.modules["ibnvision.layers.fold_norm"]  # the name is the function's too
    conv3x3 = module.conv3x3

    def count(*args):
        calls.append(args)
        return conv3x3(*args)

    monkeypatch.setattr(module, "conv3x3", count)
    return calls


@pytest.mark.skipif(bool(why_no_kernel("conv3x3_forward", torch.empty(0))), reason="no kernel")
def test_the_kernel_runs_where_it_repays(monkeypatch):
    calls = kernel_calls(monkeypatch)

    def ran(model: nn.Module, x: Tensor) -> bool:
        calls.clear()
        want = model(x).detach()
        fold_norm(model)
        assert_close(model(x), want, rtol=2e-5, atol=2e-5)
        assert model(x).stride() == want.stride()
        return bool(calls)

    x = image(1, 64, 16, 20)
    with torch.no_grad():
        assert ran(block(), x)
        assert calls[0][4] is True  # with its ReLU
        assert ran(block(), x.contiguous(memory_format=LAST))
        assert ran(block(act=nn.Hardswish), x) and calls[0][4] is False
        assert not ran(block(32), x[:, :32].contiguous())
        assert ran(block(32), x[:, :32].contiguous(memory_format=LAST))
        for geometry in ({"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2}):
            assert not ran(block(**geometry), x)
        assert not ran(block(padding_mode="reflect"), x)
        assert not ran(block(kernel_size=1, padding=0), x)
        assert not ran(block(), x[..., :8, :8].contiguous())  # few pixels
        assert not ran(block().double(), x.double())
        with reference_ops():
            assert not ran(block(), x)
    assert not ran(block(), x.requires_grad_())


class Add(nn.Module):
    """A block whose norm takes the residual."""

    def __init__(self, act: type[nn.Module] | None = nn.ReLU) -> None:
        super().__init__()
        self.conv, self.norm = block(act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x), x)


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU, nn.Hardswish, None])
def test_norm_is_called_as_before_with_and_without_a_residual(act):
    for model, args in ((at_random(Add(act)), 2), (block(act=act), 1)):
        x = image(2, 64, 16, 16)
        keep = x.clone()
        exact = copy.deepcopy(model).double()(x.double()).float()
        fold_norm(model)
        with torch.no_grad():
            assert_close(model(x), exact, rtol=1e-5, atol=1e-5)
        assert torch.equal(x, keep), "nothing but the convolution's result is overwritten"
        assert_close(model(x), exact, rtol=1e-5, atol=1e-5)
        if args == 2 or act is not nn.ReLU:
            continue
        with pytest.raises(ValueError, match="residual must be None"):
            model[1](x, x)


def test_gradients_reach_the_input():
    model = at_random(nn.Sequential(block(), Add(), block(act=nn.SiLU))).double()
    x = image(2, 64, 8, 8, dtype=torch.float64).requires_grad_()
    (want,) = torch.autograd.grad(model(x).square().sum(), x)
    assert len(fold_norm(model).rows) == 3
    (got,) = torch.autograd.grad(model(x).square().sum(), x)
    assert_close(got, want, rtol=1e-8, atol=1e-8 * want.abs().max().item())


def test_training_mode_is_refused():
    model = at_random(segmenter())
    conversion = fold_norm(model)
    for module in (model, model.backbone):
        with pytest.raises(RuntimeError, match=r"folded by fold_norm .* undo\(\)"):
            module.train()
    kinds = (FoldedConv2d, FoldedNormAct2d)
    assert not any(m.training for m in model.modules() if isinstance(m, kinds))
    model.eval()
    conversion.undo()
    model.train()
    with pytest.raises(ValueError, match="model must be in eval mode to be folded; backbone"):
        fold_norm(model)


def test_bfloat16_by_autocast():
    model = at_random(nn.Sequential(block(), Add(), block(act=nn.Hardswish)))
    x = image(1, 64, 16, 16)
    with torch.no_grad():
        exact = model(x)
        cast = torch.autocast("cpu", torch.bfloat16)
        with cast:
            before = model(x)
        fold_norm(model)
        with cast:
            after = model(x)
    assert before.dtype == after.dtype
    scale = exact.abs().max()
    assert (after - exact).abs().max() < 2 * (before - exact).abs().max() + 1e-2 * scale


def test_exports_scripts_graphs_and_copies():
    x = image(1, 64, 16, 16)
    model = at_random(nn.Sequential(block(), Add(), block(act=nn.Hardswish)))
    with torch.no_grad():
        want = model(x)
        fold_norm(model)
        for other in (
            torch.export.export(model, (x,)).module(),
            torch.jit.script(model),
            torch.fx.symbolic_trace(model),
            torch.compile(model, backend="eager", fullgraph=True),
            copy.deepcopy(model),
        ):
            assert_close(other(x), want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


def test_vmap():
    model, x = at_random(nn.Sequential(block(), Add())), image(3, 1, 64, 16, 16)
    fold_norm(model)
    with torch.no_grad():
        assert_close(torch.vmap(model)(x), model(x.flatten(0, 1))[:, None], rtol=1e-5, atol=1e-5)


def test_undo_follows_dtype_and_keeps_the_old_parameters():
    model = block()
    parameters = dict(model.named_parameters())
    conversion = fold_norm(model)
    assert not any(p.requires_grad for p in model.parameters())
    model.double()
    conversion.undo()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert all(p is parameters[name] and p.requires_grad for name, p in model.named_parameters())
    conversion = fold_norm(model)
    model[0] = nn.Identity()
    with pytest.raises(RuntimeError, match=r"replaced since: \['0'\]"):
        conversion.undo()


def test_what_cannot_be_folded():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got str"):
        fold_norm("resnet18")
    for model in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.Linear(2, 2))):
        assert str(fold_norm(model)) == "nothing was changed"
    failing = at_random(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(7, 1)))
    with pytest.raises(ValueError, match="model must run on one image"):
        fold_norm(failing)
    assert not failing[0]._forward_hooks and not failing[0]._forward_pre_hooks
    assert len(fold_norm(failing, image(1, 3, 5, 7)).rows) == 1


class Particular(nn.Module):
    """Takes images of at least 100 pixels only, as fold_norm finds out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.shape[-1] < 100:
            raise ValueError("too small")
        return self.norm(y)


def test_a_model_that_refuses_the_first_example_is_folded_by_the_next():
    model = at_random(Particular())
    x = image(1, 3, 128, 128)
    before = model(x)
    table = fold_norm(model)
    assert len(table.rows) == 1
    assert_close(model(x), before)
