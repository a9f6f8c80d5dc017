"""The strips of bounded memory: equal to the whole image, within the budget, or a clear error."""

import re
from contextlib import nullcontext

import pytest
import torch
from test_dea_net import SMALL, images, network
from torch import Tensor

from ibnvision.benchmark.live_bytes import LiveBytes
from ibnvision.models import DEANet
from ibnvision.models.strips import plan, windows
from ibnvision.ops import reference_ops
from ibnvision.testing import assert_close


def smallest(model: DEANet, x: Tensor) -> tuple[int, str]:
    with pytest.raises(ValueError, match="max_memory must be at least") as error:
        model.restore(x, max_memory=1)
    found = re.search(r"at least (\d+) bytes .* stage (\w+) needs; got 1$", str(error.value))
    return int(found[1]), found[2]


@pytest.mark.parametrize("arguments", [{}, {"attention": False}, {"detail": False, "in_chans": 1}])
@pytest.mark.parametrize("size", [(203, 30), (61, 83)])
@torch.no_grad()
def test_equals_the_whole_image(size, arguments):
    model = network(**SMALL, **arguments).double()
    x = images(2, arguments.get("in_chans", 3), *size)
    whole = model.restore(x)
    least, _ = smallest(model, x)
    for budget in (least, least * 5 // 4, 100 * least):
        assert_close(model.restore(x, max_memory=budget), whole)
    model.float()
    tolerance = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(model.restore(x, max_memory=least), whole, **tolerance)


def test_strips_are_far_smaller_than_the_image_and_cover_it_once():
    model = network("dea_net")
    steps = plan(model, 4000, 400, torch.float32, 12 * 4000 * 400)
    least = max(s.resident + s.row * (s.unit + 2 * s.margin) for s in steps)
    for budget in (least, 2 * least):
        for step in steps:
            strips = list(windows(step, budget))
            assert [w.start for w in strips] == [0, *(w.stop for w in strips[:-1])]
            assert strips[-1].stop == step.rows
            for low, start, stop, high in strips:
                assert low == max(0, start - step.margin) and start % step.unit == 0
                assert high == min(step.rows, stop + step.margin)
                assert step.resident + step.row * (high - low) <= budget
    counts = [len(list(windows(step, least))) for step in steps]
    assert min(counts) > 1 and max(counts) == 1000
    assert [len(list(windows(step, 100 * least))) for step in steps] == [1] * 5


@pytest.mark.parametrize("size", [(403, 64), (128, 200), (61, 33)])
@pytest.mark.parametrize("share", [1.0, 1.5])
@pytest.mark.parametrize("kernels", [False, True])
@torch.no_grad()
def test_live_tensors_stay_within_the_budget(size, share, kernels):
    model, x = network(**SMALL).fuse(), images(1, 3, *size, dtype=torch.float32)
    budget = int(share * smallest(model, x)[0])
    with LiveBytes() as live, nullcontext() if kernels else reference_ops():
        model.restore(x, max_memory=budget)
    assert live.peak <= budget


@torch.no_grad()
def test_smallest_budget_is_half_of_the_whole_image_and_named_with_its_stage():
    model, x = network("dea_net_s").fuse(), torch.rand(1, 3, 64, 64).expand(1, 3, 64, 64)
    least, stage = smallest(model, x)
    assert stage in ("up_level1", "up_level2")
    with pytest.raises(ValueError, match=f"{least} bytes .* 64x64, which stage {stage} needs"):
        model.restore(x, max_memory=least - 1)
    assert model.restore(x, max_memory=least).shape == x.shape
    steps = plan(model, 8192, 8192, torch.float32, 12 * 8192**2)
    high = max(s.resident + s.row * (s.unit + 2 * s.margin) for s in steps)
    assert high / 8192**2 < 0.5 * 420  # bytes a pixel


@torch.no_grad()
def test_half_precision_needs_half():
    x = images(1, 3, 203, 32, dtype=torch.float32)
    single, half = network(**SMALL), network(**SMALL).bfloat16()
    least = smallest(half, x)[0]
    assert least < 0.7 * smallest(single, x)[0]
    y = half.restore(x, max_memory=least)
    assert y.dtype == torch.float32 and (y - half.restore(x)).abs().max() < 0.05
