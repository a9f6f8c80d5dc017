"""Facts of content_guided_attention: published numbers, borders, sigmoids, memory and bad input."""

import json
import math
import zlib
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F

from ibnvision.ops import content_guided_attention, why_no_kernel
from ibnvision.ops.content_guided_attention import example_inputs
from ibnvision.testing import DEVICES, assert_close

pytestmark = pytest.mark.filterwarnings("ignore:content_guided_attention runs as plain PyTorch")
GOLDEN = json.loads((Path(__file__).parent / "golden/content_guided_attention.json").read_text())
layouts = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)


def golden_parameters(layer):
    """The parameters that the recorded layer had: noise seeded by the name of each."""
    parameters = {}
    for key, shape in GOLDEN[layer]["keys"].items():
        noise = numpy.random.RandomState(zlib.crc32(key.encode())).randn(*shape)
        scale = math.sqrt(1 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
        parameters[key] = torch.from_numpy((noise * scale).astype("float32")).double()
    return parameters


def golden_input(seed):
    values = numpy.random.RandomState(seed).rand(2, 16, 9, 11).astype("float32")
    return torch.from_numpy(values).double()


def coarse_maps(x, p):
    """Channel and spatial attention by the published layers."""
    pooled = F.relu(F.conv2d(x.mean((2, 3), True), p["ca.ca.0.weight"], p["ca.ca.0.bias"]))
    ca = F.conv2d(pooled, p["ca.ca.2.weight"], p["ca.ca.2.bias"])
    both = torch.cat((x.mean(1, True), x.amax(1, True)), 1)
    padded = F.pad(both, (3, 3, 3, 3), mode="reflect")
    return ca, F.conv2d(padded, p["sa.sa.weight"], p["sa.sa.bias"])


def assert_golden(y, layer, dtype):
    golden = GOLDEN[layer]
    flat = y.double().flatten()
    tolerance = 1e-8 if dtype == torch.float64 else 1e-5
    for part, values in ((flat[:32], golden["first"]), (flat[-8:], golden["last"])):
        wanted = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(part, wanted, rtol=0, atol=tolerance)
    assert flat.norm().item() == pytest.approx(golden["l2"], rel=tolerance)
    assert flat.mean().item() == pytest.approx(golden["mean"], rel=10 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_published_block(dtype):
    layer = "deab_deploy_dim16_r8"
    p = {key: value.to(dtype) for key, value in golden_parameters(layer).items()}
    x = golden_input(21).to(dtype)
    r = F.relu(F.conv2d(x, p["conv1.weight"], p["conv1.bias"], padding=1)) + x
    r = F.conv2d(r, p["conv2.weight"], p["conv2.bias"], padding=1)
    ca, sa = coarse_maps(r, p)
    y = content_guided_attention(r, ca, sa, p["pa.pa2.weight"], p["pa.pa2.bias"], residual=x)
    assert_golden(y, layer, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_published_fusion_takes_the_sigmoid_twice(dtype):
    layer = "cga_fusion_dim16_r8"
    p = {key: value.to(dtype) for key, value in golden_parameters(layer).items()}
    low, high = golden_input(21).to(dtype), golden_input(22).to(dtype)
    ca, sa = coarse_maps(low + high, p)
    mixed = content_guided_attention(low, ca, sa, p["pa.pa2.weight"], p["pa.pa2.bias"], high=high)
    y = F.conv2d(mixed, p["conv.weight"], p["conv.bias"])
    assert_golden(y, layer, dtype)
    once = torch.tensor(GOLDEN[layer]["one_sigmoid_first"], dtype=torch.float64)
    assert (y.flatten()[: len(once)].double() - once).abs().min() > 1e-3


@pytest.mark.parametrize("device", DEVICES)
@layouts
def test_constant_images_see_the_sum_of_the_taps_at_every_border(channels_last, device):
    x, ca, sa, weight, bias, *_ = example_inputs(
        2, 3, 5, 21, dtype=torch.float64, device=device, channels_last=channels_last
    )
    x = torch.full_like(x, 0.7)
    y = content_guided_attention(x, ca, torch.full_like(sa, -0.3), weight, bias)
    on_x, on_map = weight.sum((2, 3)).unbind(1)
    logits = bias + 0.7 * on_x + (ca.flatten(1) - 0.3) * on_map
    assert_close(y, (0.7 * torch.sigmoid(logits))[..., None, None].expand_as(y))


@pytest.mark.parametrize("device", DEVICES)
@layouts
@pytest.mark.parametrize("kind", ["gate", "mixup"])
def test_gradient_of_one_pixel_stays_within_the_taps(kind, channels_last, device):
    made = example_inputs(
        1, 2, 40, 90, kind=kind, dtype=torch.float64, device=device, channels_last=channels_last
    )
    inputs = [t if t is None else t.requires_grad_() for t in made]
    y = content_guided_attention(*inputs)
    dx, d_sa = torch.autograd.grad(y[0, 1, 33, 64], [inputs[0], inputs[2]])
    reached = torch.zeros(40, 90, dtype=torch.bool, device=device)
    reached[30:37, 61:68] = True
    assert (dx[0, 0] == 0).all() and torch.equal(dx[0, 1] != 0, reached)
    assert torch.equal(d_sa[0, 0] != 0, reached)


@pytest.mark.parametrize("kind,kept", [("residual", 1), ("mixup", 2)])
def test_keeps_its_inputs_and_no_activation(kind, kept):
    made = example_inputs(2, 5, 6, 7, kind=kind)
    if why_no_kernel("content_guided_attention_forward", made[0]):
        pytest.skip("the definition keeps what autograd keeps")
    inputs = [t if t is None else t.requires_grad_() for t in made]
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        content_guided_attention(*inputs)
    assert sum(t.shape == made[0].shape for t in held) == kept
    assert {t.data_ptr() for t in held} <= {t.data_ptr() for t in inputs if t is not None}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["residual", "mixup"])
def test_dtypes_promote_as_in_the_plain_form(kind, device):
    x, *parameters, residual, high = example_inputs(1, 4, 6, 6, kind=kind, device=device)
    narrow = (x.bfloat16(), *(p.bfloat16() for p in parameters), residual, high)
    y = content_guided_attention(*narrow)
    assert y.dtype == torch.float32
    assert_close(y, content_guided_attention(*[None if t is None else t.float() for t in narrow]))
    other = None if residual is None else residual.bfloat16()
    deep = None if high is None else high.bfloat16()
    assert content_guided_attention(*(*narrow[:5], other, deep)).dtype == torch.bfloat16


def test_autocast_leaves_the_dtype_that_the_plain_form_gives():
    x, ca, sa, weight, bias, residual, _ = example_inputs(1, 4, 6, 6, kind="residual")
    with torch.autocast("cpu", torch.bfloat16):
        half = content_guided_attention(
            x.bfloat16(), ca, sa, weight, bias, residual=residual.bfloat16()
        )
        whole = content_guided_attention(x, ca, sa, weight, bias, residual=residual)
    assert half.dtype == torch.bfloat16 and whole.dtype == torch.float32
    assert_close(half, whole, torch.bfloat16)


BAD = {
    "three sides": (dict(x=torch.zeros(3, 5, 5)), ValueError, "x must be .N, C, H, W., got shape"),
    "small": (dict(x=torch.zeros(2, 3, 3, 9)), ValueError, "at least 4.*got 3x9"),
    "integer": (dict(x=torch.zeros(2, 3, 5, 6).int()), TypeError, "x must be float32.*int32"),
    "ca": (dict(ca=torch.zeros(2, 3)), ValueError, r"ca must have shape \[2, 3, 1, 1\], got"),
    "sa": (dict(sa=torch.zeros(2, 3, 5, 6)), ValueError, r"sa must have shape \[2, 1, 5, 6\]"),
    "sa dtype": (dict(sa=torch.zeros(2, 1, 5, 6).int()), TypeError, "sa must be a floating"),
    "weight": (dict(weight=torch.zeros(3, 1, 7, 7)), ValueError, r"weight must have .*2, 7, 7"),
    "bias": (dict(bias=torch.zeros(2)), ValueError, r"bias must have shape \[3\], got \(2,\)"),
    "residual": (dict(residual=torch.zeros(2, 3, 5, 5)), ValueError, "residual must have the"),
    "high": (dict(high=torch.zeros(1, 3, 5, 6)), ValueError, "high must have the shape of x"),
    "high dtype": (dict(high=torch.zeros(2, 3, 5, 6).bool()), TypeError, "high must be float32"),
    "both": (
        dict(residual=torch.zeros(2, 3, 5, 6), high=torch.zeros(2, 3, 5, 6)), ValueError, "got both"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    wrong, error, message = BAD[name]
    names = ("x", "ca", "sa", "weight", "bias", "residual", "high")
    given = dict(zip(names, example_inputs(2, 3, 5, 6), strict=True)) | wrong
    with pytest.raises(error, match=message):
        content_guided_attention(**given)
