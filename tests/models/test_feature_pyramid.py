import pytest
import torch
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from ibnvision.models.feature_pyramid import FPN_NORMS, DetectorBackbone, SimpleFeaturePyramid
from ibnvision.testing import assert_close


@pytest.mark.parametrize("reduction", [4, 8, 16, 32])
@torch.no_grad()
def test_levels_have_their_strides(reduction):
    x = torch.randn(2, 16, 64 // reduction, 128 // reduction)
    pyramid = SimpleFeaturePyramid(16, 8, reduction, (4, 8, 16, 32), LastLevelMaxPool())
    levels = pyramid({"0": x})
    assert {k: tuple(y.shape) for k, y in levels.items()} == {
        **{str(i): (2, 8, 16 // 2**i, 32 // 2**i) for i in range(4)},
        "pool": (2, 8, 1, 2),
    }
    assert_close(levels["pool"], levels["3"][..., ::2, ::2])
    pyramid = SimpleFeaturePyramid(16, 8, reduction, (8, 16, 32), LastLevelP6P7(8, 8))
    shapes = [tuple(y.shape[2:]) for y in pyramid({"0": x}).values()]
    assert shapes == [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)]


@torch.no_grad()
def test_levels_by_hand():
    x = torch.randn(2, 16, 4, 6)
    pyramid = SimpleFeaturePyramid(16, 8, 16, (4, 8, 16, 32), LastLevelMaxPool())
    levels = list(pyramid({"0": x}).values())

    def norm(z):
        mean, var = z.mean(1, keepdim=True), z.var(1, correction=0, keepdim=True)
        return (z - mean) / (var + 1e-6).sqrt()

    def up(conv, z):
        return F.conv_transpose2d(z, conv.weight, conv.bias, stride=2)

    fine = pyramid.levels[0]
    maps = [
        up(fine[3], F.gelu(norm(up(fine[0], x)))),
        up(pyramid.levels[1][0], x),
        x,
        F.max_pool2d(x, 2),
    ]
    for y, z, level in zip(levels, maps, pyramid.levels, strict=False):
        z = norm(F.conv2d(z, level[-2][0].weight))
        assert_close(y, norm(F.conv2d(z, level[-1][0].weight, padding=1)))


def test_norms():
    assert FPN_NORMS["group"](48).num_groups == 16 and FPN_NORMS["group"](256).num_groups == 32
    x = torch.randn(2, 8, 3, 3)
    for norm in FPN_NORMS.values():
        assert norm(8)(x).shape == x.shape


def test_frozen_layers_stay_in_eval_mode():
    body = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3))
    backbone = DetectorBackbone(body, [0], torch.nn.Identity(), 3, ["1"])
    for model in (backbone, torch.nn.Sequential(backbone).train()[0], backbone.eval().train()):
        assert model.training and body[0].training and not body[1].training
    assert not backbone.eval().body[0].training
