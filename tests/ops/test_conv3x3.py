"""conv3x3: kernel against definition and framework, its choices, compilers and exporters."""

import os

import pytest
import torch
from torch import Tensor

from ibnvision.ops import conv3x3, reference_ops
from ibnvision.ops.conv3x3 import conv3x3_reference, example_inputs, why_framework
from ibnvision.testing import DEVICES, assert_close, grads

REFERENCE_ONLY = os.environ.get("IBNVISION_NATIVE") == "0"
KINDS = ["plain", "bias", "relu", "block"]
# (shape of x, output channels): even and odd sides, one row, one column, one, two, three and four
# vectors of output channels, several blocks of tiles in a row, across rows and across images
SHAPES = [
    ((2, 16, 16, 16), 16),
    ((3, 48, 13, 9), 32),
    ((1, 16, 1, 301), 48),
    ((1, 32, 257, 1), 64),
    ((256, 16, 1, 1), 16),
    ((2, 32, 21, 75), 80),
    ((1, 64, 20, 20), 128),
    ((1, 256, 17, 16), 256),
]
kernels_only = pytest.mark.skipif(REFERENCE_ONLY, reason="no library: no kernel")
devices = pytest.mark.parametrize("device", DEVICES)


def wide(inputs):
    return [t.double() if torch.is_tensor(t) else t for t in inputs]


def error(y, inputs):
    """The greatest difference from float64."""
    return (y.double() - conv3x3_reference(*wide(inputs))).abs().max().item()


@devices
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_is_as_accurate_as_the_framework(kind, device):
    for shape, out in SHAPES:
        inputs = example_inputs(*shape, out=out, kind=kind, device=device)
        assert device != "cpu" or REFERENCE_ONLY or not why_framework(*inputs[:4])
        y, plain = conv3x3(*inputs), conv3x3_reference(*inputs)
        for z in (y, plain):
            assert z.is_contiguous(memory_format=torch.channels_last) and z.dtype == torch.float32
        assert error(y, inputs) <= 1.5 * error(plain, inputs) + 1e-6


@kernels_only
@torch.no_grad()
def test_every_instruction_set_and_weight_format():
    from ibnvision import _C

    chosen, tried = _C.build_info()["capability"], []
    try:
        for name in ("baseline", "avx2", "avx512"):
            try:
                _C.set_cpu_capability(name)
            except ValueError:  # this build or this processor lacks it
                continue
            tried.append(name)
            for shape, out in SHAPES:
                x, weight, *rest = example_inputs(*shape, out=out, kind="block")
                for form in (torch.contiguous_format, torch.channels_last):
                    inputs = (x, weight.contiguous(memory_format=form), *rest)
                    assert error(conv3x3(*inputs), inputs) < 5e-6
    finally:
        _C.set_cpu_capability(chosen)
    assert tried[0] == "baseline" and chosen in tried


@kernels_only
@torch.no_grad()
def test_threads_change_no_bit():
    inputs = example_inputs(2, 32, 37, 41, out=48, kind="block")
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(conv3x3(*inputs))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@kernels_only
@torch.no_grad()
def test_error_bound_of_the_readme():
    """Pixels from 1e-6 to 1e6 next to each other: the greatest of each 4 x 4 counts."""
    for seed in range(4):
        x, weight, *_ = example_inputs(1, 32, 24, 24, out=16, seed=seed)
        x = x * 10 ** (12 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 6)
        x = x.contiguous(memory_format=torch.channels_last)
        around = torch.nn.functional.max_pool2d(x.abs().double(), 5, 1, 2)  # any tile's 4 x 4
        most = weight.abs().double().amax((2, 3), keepdim=True)
        bound = 64 * (32 + 12) * 2.0**-24 * torch.conv2d(around, most)
        found = conv3x3(x, weight).double() - conv3x3_reference(
            *wide((x, weight)), *[None] * 2, False
        )
        assert (found.abs() <= bound).all()


@kernels_only
@torch.no_grad()
def test_scaling_by_a_power_of_two_is_exact():
    x, weight, *_ = example_inputs(1, 16, 16, 16)
    y = conv3x3(x, weight)
    for scale in (2.0**-60, 2.0**100):
        assert torch.equal(conv3x3(x * scale, weight), y * scale)


@kernels_only
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@torch.no_grad()
def test_what_is_not_finite_reaches_the_results_it_reaches_by_definition(value):
    for row, column in ((0, 0), (5, 6), (6, 5), (15, 15)):
        *inputs, _ = example_inputs(1, 16, 16, 16, out=32, kind="relu")
        inputs[0][0, 3, row, column] = value
        found = conv3x3(*inputs)
        assert torch.equal(found.isfinite(), conv3x3_reference(*inputs, False).isfinite())
    assert conv3x3(*inputs, True).isnan().any()  # ReLU keeps NaN


def test_other_inputs_take_the_framework_bit_for_bit():
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        for shape, out, last in (
            ((2, 5, 8, 7), 6, True),
            ((1, 16, 20, 20), 16, False),
            ((1, 16, 4, 4), 16, True),
            ((0, 16, 32, 32), 16, True),
            ((1, 272, 16, 16), 16, True),
            ((2, 16, 16, 16), 40, True),
        ):
            inputs = example_inputs(*shape, out=out, kind="block", dtype=dtype, channels_last=last)
            with torch.no_grad():
                assert torch.equal(conv3x3(*inputs), conv3x3_reference(*inputs))


@kernels_only
@torch.no_grad()
def test_choices():
    x, weight, bias, residual, _ = example_inputs(1, 32, 16, 16, kind="block")
    assert not why_framework(x, weight, bias, residual)
    thick = torch.zeros(16, 272, 3, 3)
    for text, *arguments in (
        ("not float32", x, weight, bias, residual.double()),
        ("no kernel for torch.bfloat16", x.bfloat16(), weight.bfloat16()),
        ("multiples of 16", x, weight[:24]),
        ("up to 256", x.repeat(1, 9, 1, 1)[:, :272], thick),
        ("256 pixels", x[:, :, 1:], weight),
        ("256 pixels", x[:0], weight),
        ("channels_last", x.contiguous(), weight),
        ("no meta kernel", x.to("meta"), weight.to("meta")),
    ):
        assert text in why_framework(*arguments)
    with reference_ops():
        assert "reference_ops" in why_framework(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert why_framework(x, weight) == "not float32"
        assert conv3x3(x, weight).dtype == torch.bfloat16
    leaf = weight.clone().requires_grad_()
    assert not why_framework(x, leaf)
    with torch.enable_grad():
        assert why_framework(x, leaf) == "a gradient is recorded"
        assert not why_framework(x, weight)
    with torch.inference_mode():
        assert torch.equal(conv3x3(x.clone(), weight), conv3x3(x, weight))


@kernels_only
@torch.no_grad()
def test_no_weight_is_remembered():
    x, weight, *_ = example_inputs(1, 16, 16, 16)
    y = conv3x3(x, weight)
    version = weight._version
    weight.data.mul_(2)  # counted by nothing
    assert weight._version == version
    assert torch.equal(conv3x3(x, weight), 2 * y)


@devices
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_framework(kind, device):
    for shape, out in SHAPES[:3]:
        *inputs, relu = example_inputs(*shape, out=out, kind=kind, device=device)
        dy = torch.randn(shape[0], out, *shape[2:], device=device)

        def run(function, inputs=inputs, relu=relu, dy=dy):
            return grads(lambda *leaves: function(*leaves, relu), inputs, dy)

        (y, found), (plain, wanted) = run(conv3x3), run(conv3x3_reference)
        assert torch.equal(y, plain)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_inputs_are_left_alone():
    inputs = example_inputs(1, 16, 16, 16, kind="block")
    before = [t.clone() if torch.is_tensor(t) else t for t in inputs]
    for recording in (False, True):
        with torch.set_grad_enabled(recording):
            conv3x3(*inputs)
            with reference_ops():
                conv3x3(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs[:4], before[:4], strict=True))


@torch.no_grad()
def test_strided_inputs():
    x, weight, bias, residual, relu = example_inputs(1, 32, 20, 20, kind="block")
    expected = conv3x3(x, weight, bias, residual, relu)
    spread = torch.stack([bias, bias], 1)[:, 0]
    apart = weight.repeat_interleave(2, 3)[..., ::2]
    assert not spread.is_contiguous() and not apart.is_contiguous()
    assert_close(conv3x3(x, apart, spread, residual.contiguous(), relu), expected)
    assert_close(
        conv3x3(x[:, ::2], weight[:, ::2]),
        conv3x3_reference(x[:, ::2], weight[:, ::2], *[None] * 2, False),
    )


def test_bad_arguments_raise():
    x, weight, bias, residual, _ = example_inputs(1, 16, 16, 16, kind="block")
    for arguments, error_type, text in (
        ((x[0], weight), ValueError, r"x must be \[N, C, H, W\], got shape \(16, 16, 16\)"),
        ((x, weight[:, :8]), ValueError, r"weight must have shape \[16, 16, 3, 3\], got \(16, 8"),
        ((x, weight[..., :2]), ValueError, "weight must have shape"),
        ((x, weight[0, 0, 0, 0]), ValueError, "weight must have shape"),
        ((x, weight.long()), TypeError, "weight must be a floating-point tensor, got torch.int64"),
        ((x, weight.to("meta")), ValueError, "weight must be on the device of x, cpu, got meta"),
        ((x, weight, bias[:3]), ValueError, r"bias must have shape \[16\], got \(3,\)"),
        ((x, weight, bias, residual[..., :3]), ValueError, "residual must have shape"),
        ((x, weight, bias, residual.to("meta")), ValueError, "residual must be on the device of x"),
    ):
        with pytest.raises(error_type, match=text):
            conv3x3(*arguments)


@kernels_only
def test_the_kernel_checks_what_would_read_out_of_bounds():
    x, weight, bias, residual, _ = example_inputs(1, 16, 16, 16, kind="block")
    kernel = torch.ops.ibnvision.conv3x3_forward
    for arguments in (
        (x[0], weight, None, None),
        (x[:, :8].contiguous(memory_format=torch.channels_last), weight[:, :8], None, None),
        (x.contiguous(), weight, None, None),
        (x.double(), weight, None, None),
        (x, weight.double(), None, None),
        (x, weight[..., :2], None, None),
        (x, weight, bias[:8], None),
        (x, weight, bias, residual[:, :, :8]),
        (x, weight, bias, residual.contiguous()),
    ):
        with pytest.raises(RuntimeError, match="conv3x3: "):
            kernel(*arguments, False)


@kernels_only
@pytest.mark.parametrize("kind", ["plain", "bias", "block"])
def test_opcheck(kind):
    inputs = example_inputs(1, 16, 16, 17, kind=kind)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.ibnvision.conv3x3_forward.default, inputs, test_utils=tests)
    torch.library.opcheck(torch.ops.ibnvision.conv3x3.default, inputs, test_utils=tests)


@kernels_only
def test_the_kernel_itself_has_no_backward():
    x, weight, *_ = example_inputs(1, 16, 16, 16)
    y = torch.ops.ibnvision.conv3x3_forward(x, weight.requires_grad_(), None, None, False)
    with pytest.raises(RuntimeError, match="for inference"):
        y.sum().backward()


class Block(torch.nn.Module):
    """The operator with parameters of its own, for compilers and exporters."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = conv3x3(x, self.conv.weight, self.conv.bias, x, True)
        return conv3x3(y, self.conv.weight, self.conv.bias)


@devices
@pytest.mark.parametrize("recording", [False, True])
def test_compiles_with_dynamic_shapes(recording, device):
    torch._dynamo.reset()
    module = Block().to(device)
    function = torch.compile(module, fullgraph=True, dynamic=True)
    for shape in ((2, 16, 17, 16), (1, 16, 24, 18)):
        x = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(recording):
            y, want = function(x), module(x)
            assert_close(y, want)
            with reference_ops():
                assert_close(function(x), want)
        if recording:
            parameters = list(module.parameters())
            found = torch.autograd.grad(y.square().sum(), parameters)
            expected = torch.autograd.grad(want.square().sum(), parameters)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@devices
@torch.no_grad()
def test_exports_scripts_and_traces(device):
    module = Block().to(device)
    x = torch.randn(1, 16, 20, 16, device=device).contiguous(memory_format=torch.channels_last)
    want = module(x)
    height = torch.export.Dim("height", min=16, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes=({2: height},))
    assert_close(program.module()(x), want)
    assert_close(program.module()(x[:, :, :17]), module(x[:, :, :17]))
    assert not [n for n in program.run_decompositions().graph.nodes if "conv3x3" in str(n.target)]
    assert_close(torch.jit.script(module)(x), want)
    assert_close(torch.jit.trace(module, (x,))(x), want)
    graph = torch.fx.symbolic_trace(module)
    node = torch.ops.ibnvision.conv3x3
    assert [n for n in graph.graph.nodes if n.target is node]
    assert_close(graph(x), want)


def test_vmap_and_forward_mode_run_the_definition():
    x, weight, bias, residual, _ = example_inputs(1, 16, 16, 16, kind="block")
    batched = torch.vmap(lambda r: conv3x3(x, weight, bias, r, True))
    both = torch.stack([residual, 2 * residual])
    with torch.no_grad():
        expected = [conv3x3(x, weight, bias, r, True) for r in both]
        torch.testing.assert_close(batched(both), torch.stack(expected), rtol=1e-4, atol=1e-5)
        tangent = torch.func.jvp(lambda z: conv3x3(z, weight), (x,), (residual,))[1]
        assert_close(tangent, conv3x3_reference(residual, weight, None, None, False))
