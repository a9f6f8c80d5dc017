import copy
import io
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from networks import assert_same_state, assert_same_step, build, image, step
from torch import Tensor, nn

from ibnvision.layers import (
    BatchNormAct2d,
    fuse_norm_act,
)

# norms, and how many of them take in an activation or a residual sum that was code of its own
FUSED = {
    "timm/resnet18": (20, 9, 8),
    "timm/resnet50": (53, 33, 16),
    "timm/seresnet50": (53, 33, 4),  # only a shortcut's norm meets the sum: bn3 goes through SE
    "timm/regnetx_002": (44, 0, 13),
    "timm/mobilenetv3_small_050": (34, 0, 7),
    "timm/densenet121": (121, 0, 0),
    "timm/efficientnet_lite0": (49, 0, 9),
    "torchvision/resnet18": (20, 9, 8),
    "torchvision/resnet50": (53, 33, 16),
    "torchvision/densenet121": (121, 120, 0),
    "torchvision/mobilenet_v2": (52, 0, 10),
}


SLOW = ("timm/seresnet50", "torchvision/resnet50", "torchvision/densenet121")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in FUSED]
)
def test_fusing_keeps_every_number(name: str) -> None:
    model = build(name)
    plain = copy.deepcopy(model)
    table = fuse_norm_act(model)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    sums = sum(" + sum" in row.was for row in table.rows)
    acts = sum(" + " in row.was for row in table.rows) - sums
    assert (len(table.rows), acts, sums) == FUSED[name]
    assert all(isinstance(m, BatchNormAct2d) for m in norms)
    assert_same_state(model, plain.state_dict())
    torch.testing.assert_close(model(image()), plain(image()), rtol=1e-8, atol=1e-8)
    assert_same_step(plain, model, train=True)


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18", "timm/regnetx_002"])
def test_no_activation_and_no_sum_is_left_outside_the_op(name: str) -> None:
    model = build(name)
    fuse_norm_act(model)
    calls: list[str] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            calls.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        model(image())
    if "ibn_norm_forward" not in calls:
        pytest.skip("kernels are not built: the definition of the op shows its parts")
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert calls.count("ibn_norm_forward") == norms
    assert not {"relu", "relu_", "add", "add_", "native_batch_norm"} & set(calls)


class Odd(nn.Module):
    """Shapes of code that must be left alone or read with care."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.3))
        self.broadcast = Broadcast()
        self.twice = UsedTwice()
        self.dropping = Dropping()
        self.inplace = InPlace()
        self.functional = Functional()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.children():
            x = block(x)
        return x.mean((2, 3))


class Piece(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)


class Broadcast(Piece):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)) + x.mean((2, 3), keepdim=True))


class UsedTwice(Piece):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return F.relu(y) + y


class Dropping(Piece):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(F.dropout(self.conv(x), 0.5, self.training)))


class InPlace(Piece):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x.clone()))
        x = x.clone()
        before = x
        x += y
        return x.relu_() + before  # twice the same tensor


class Functional(Piece):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.conv(x)).add(x), negative_slope=0.2)


def test_code_that_must_stay_stays_and_the_table_says_why() -> None:
    torch.manual_seed(0)
    model = Odd().double()
    plain = copy.deepcopy(model)
    table = fuse_norm_act(model)
    rows = {row.name: row for row in table.rows}
    assert rows["stem.1"].was == "BatchNorm2d + LeakyReLU"
    assert rows["functional.bn"].was == "BatchNorm2d + sum + LeakyReLU"
    assert model.functional.bn.slope == 0.2
    assert "change its numbers" in rows["broadcast.bn"].note
    assert "training flag" in rows["dropping.bn"].note
    for name in ("broadcast", "twice", "dropping", "inplace"):
        assert rows[f"{name}.bn"].was == "BatchNorm2d"
        assert type(model.get_submodule(name)) is type(plain.get_submodule(name))
    assert_same_step(plain, model, train=False)
    assert_same_step(plain, model, train=True)


def test_residual_of_another_place_is_read_where_the_sum_stands() -> None:
    class Late(Piece):
        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(self.conv(x))
            return (y + self.conv(x).sigmoid()).relu()

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), Late(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()
    plain = copy.deepcopy(model)
    assert fuse_norm_act(model).rows[0].was == "BatchNorm2d + sum + ReLU"
    assert_same_step(plain, model, train=True)


def test_code_that_cannot_be_traced_gets_its_norms_alone() -> None:
    class Branching(Piece):
        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(self.conv(x))
            return F.relu(y) if x.sum() > 0 else F.relu(-y)

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Branching())
    (row,) = fuse_norm_act(model).rows
    assert row.note.startswith("torch.fx: ") and row.now == "BatchNormAct2d"


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_fused_models_copy_pickle_script_compile_and_export(name: str) -> None:
    model = build(name)
    fuse_norm_act(model)
    keys, y = list(model.state_dict()), model(image())
    twin = copy.deepcopy(model)
    again = pickle.loads(pickle.dumps(model))
    for other in (twin, again):
        assert list(other.state_dict()) == keys
        assert [n for n, _ in other.named_modules()] == [n for n, _ in model.named_modules()]
        assert torch.equal(other(image()), y)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert torch.equal(model(image()), y) and not torch.equal(twin(image()), y)
    assert torch.equal(torch.jit.script(model)(image()), y)
    torch.testing.assert_close(
        torch.compile(model, backend="aot_eager", fullgraph=True)(image()), y
    )
    exported = torch.export.export(model, (image(),)).module()
    torch.testing.assert_close(exported(image()), y)


def test_fusing_keeps_what_timm_offers() -> None:
    model = build("timm/resnet18")
    plain = copy.deepcopy(model)
    fuse_norm_act(model)
    assert type(model) is type(plain)
    torch.testing.assert_close(model.forward_features(image()), plain.forward_features(image()))
    model.reset_classifier(7)
    assert model(image()).shape == (2, 7)
    pyramid = timm.create_model("resnet18", features_only=True).double().eval()
    maps = pyramid(image())
    fuse_norm_act(pyramid)
    for a, b in zip(maps, pyramid(image()), strict=True):
        torch.testing.assert_close(b, a)


def test_undoing_a_fusion_gives_the_modules_back_with_what_they_learned() -> None:
    model = build("torchvision/resnet18")
    originals = dict(model.named_modules())
    table = fuse_norm_act(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    step(model, train=True)
    optimizer.step()
    trained, y = copy.deepcopy(model.state_dict()), model.eval()(image())
    table.undo()
    assert dict(model.named_modules()) == originals and not table.rows
    assert_same_state(model, trained)
    torch.testing.assert_close(model(image()), y)


def test_hooked_blocks_and_foreign_norms_are_left() -> None:
    model = build("timm/resnet18")
    seen: list[int] = []
    model.layer1[0].register_forward_hook(lambda *_: seen.append(1))
    seen.clear()
    table = fuse_norm_act(model)
    seen.clear()
    model(image())
    assert seen == [1]
    assert {r.name: r.note for r in table.rows}["layer1.0.bn2"] == "has forward hooks"
    with pytest.raises(ValueError, match="BatchNorm2d.*ConvNeXt holds none"):
        fuse_norm_act(timm.create_model("convnext_atto"))


def test_a_saved_state_of_the_plain_network_loads_into_the_fused_one() -> None:
    plain, model = build("timm/resnet18"), build("timm/resnet18")
    with torch.no_grad():
        for p in plain.parameters():
            p.mul_(1.1)
    fuse_norm_act(model)
    file = io.BytesIO()
    torch.save(plain.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(model(image()), plain(image()))
