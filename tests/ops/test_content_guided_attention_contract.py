"""What every operator promises, for content_guided_attention: definition, autograd, compilers."""

import os

import pytest
import torch

from ibnvision import ops
from ibnvision.ops import content_guided_attention, reference_ops, why_no_kernel
from ibnvision.ops.content_guided_attention import example_inputs
from ibnvision.testing import DEVICES, TOLERANCE, assert_close, grads

REFERENCE_ONLY = os.environ.get("IBNVISION_NATIVE") == "0"
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
KINDS = ["gate", "residual", "mixup"]
# the smallest; odd; several tiles of rows and columns in either format, more channels than a group
SHAPES = [(2, 3, 4, 4), (2, 19, 9, 37), (1, 2, 100, 5), (1, 2, 5, 600), (1, 18, 70, 102)]
layouts = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)
devices = pytest.mark.parametrize("device", DEVICES)
kernels_only = pytest.mark.skipif(REFERENCE_ONLY, reason="no library: no kernel operators")


def call(x, ca, sa, weight, bias, residual=None, high=None):
    return content_guided_attention(x, ca, sa, weight, bias, residual, high)


def run(inputs, dy):
    y, gradients = grads(call, inputs, dy)
    return [y, *gradients]


def compare(inputs, dy):
    """Kernel against the definition in float64; half precision within twice the rounded truth."""
    actual = run(inputs, dy)
    with reference_ops():
        plain = run(inputs, dy)
        truth = run([None if t is None else t.double() for t in inputs], dy.double())
    for got, same, true in zip(actual, plain, truth, strict=True):
        assert got.dtype == same.dtype and got.shape == same.shape
        scale = max(1.0, true.abs().max().item())
        error = (got.double() - true).abs().max().item()
        bound = 2 * (same.double() - true).abs().max().item()
        assert error <= max(
            bound, TOLERANCE[torch.promote_types(got.dtype, torch.float32)][0] * scale
        )
    assert actual[0].stride() == inputs[0].stride()


@devices
@layouts
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_reference(kind, dtype, channels_last, device):
    for shape in SHAPES:
        args = dict(kind=kind, dtype=dtype, channels_last=channels_last, device=device)
        inputs = example_inputs(*shape, **args)
        assert not why_no_kernel("content_guided_attention_forward", inputs[0]) or REFERENCE_ONLY
        compare(inputs, torch.randn(shape, dtype=torch.float64).to(inputs[0]))


@kernels_only
@layouts
def test_every_instruction_set(channels_last):
    from ibnvision import _C

    chosen = _C.build_info()["capability"]
    try:
        for name in _C.build_info()["cpu_variants"]:
            try:
                _C.set_cpu_capability(name)
            except ValueError:  # this processor lacks it
                continue
            for dtype in DTYPES:
                made = example_inputs(2, 19, 9, 37, kind="mixup", dtype=dtype)
                compare(made, torch.randn(2, 19, 9, 37, dtype=torch.float64).to(dtype))
    finally:
        _C.set_cpu_capability(chosen)


@devices
@layouts
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind, channels_last, device):
    args = dict(kind=kind, dtype=torch.float64, device=device, channels_last=channels_last)
    inputs = example_inputs(2, 2, 4, 5, **args)
    names = ("x", "ca", "sa", "weight", "bias", "residual", "high")
    given = {
        name: t.requires_grad_() for name, t in zip(names, inputs, strict=True) if t is not None
    }

    def function(*values):
        return content_guided_attention(**dict(zip(given, values, strict=True)))

    torch.autograd.gradcheck(function, list(given.values()), fast_mode=True)


@kernels_only
@devices
@layouts
@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind, channels_last, device):
    made = example_inputs(2, 3, 5, 6, kind=kind, channels_last=channels_last, device=device)
    leaves = tuple(t if t is None else t.requires_grad_() for t in made)
    forward = torch.ops.ibnvision.content_guided_attention_forward
    torch.library.opcheck(forward.default, leaves)
    entry = torch.ops.ibnvision.content_guided_attention.default
    torch.library.opcheck(entry, leaves, test_utils=("test_schema", "test_faketensor"))
    detached = [t if t is None else t.detach() for t in leaves]
    args = (torch.ones_like(detached[0]), *detached[:5], detached[6])
    backward = torch.ops.ibnvision.content_guided_attention_backward
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(backward.default, args, test_utils=tests)


class Gate(torch.nn.Module):
    """The operator with parameters of its own, for compilers and exporters."""

    def __init__(self, channels: int, mixes: bool):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(channels, 2, 7, 7) / 7)
        self.bias = torch.nn.Parameter(torch.randn(channels))
        self.mixes = mixes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ca, sa = x.mean((2, 3), True), x.mean(1, True)
        if self.mixes:
            return ops.content_guided_attention(
                x, ca, sa, self.weight, self.bias, high=torch.flip(x, [1])
            )
        return ops.content_guided_attention(x, ca, sa, self.weight, self.bias, residual=x)


def step(function, module, x):
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = function(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())]


@devices
@pytest.mark.parametrize("mixes", [False, True], ids=["gate-contiguous", "mixup-channels_last"])
def test_compiles_with_dynamic_shapes(mixes, device):
    torch._dynamo.reset()
    module = Gate(6, mixes).to(device)
    function = torch.compile(module, fullgraph=True, dynamic=True)
    for shape in ((2, 6, 5, 7), (3, 6, 4, 9)):
        x = torch.randn(shape, device=device)
        x = x.to(memory_format=torch.channels_last) if mixes else x
        for got, want in zip(step(function, module, x), step(module, module, x), strict=True):
            torch.testing.assert_close(got, want, rtol=2e-5, atol=1e-4)
    with reference_ops():  # the compiled module recompiles into plain PyTorch
        for got, want in zip(step(function, module, x), step(module, module, x), strict=True):
            torch.testing.assert_close(got, want, rtol=2e-5, atol=1e-4)


@devices
def test_exports_scripts_and_traces(device):
    module = Gate(6, True).to(device).eval()
    x = torch.randn(2, 6, 5, 7, device=device)
    want = module(x)
    height = torch.export.Dim("height", min=4, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes=({2: height},))
    assert_close(program.module()(x), want)
    assert_close(program.module()(x[:, :, :4]), module(x[:, :, :4]))
    assert_close(torch.jit.script(module)(x), want)
    graph = torch.fx.symbolic_trace(module)
    node = torch.ops.ibnvision.content_guided_attention
    assert [n for n in graph.graph.nodes if n.target is node]
    assert_close(graph(x), want)


@kernels_only
def test_double_backward_raises():
    x, *rest = example_inputs(2, 4, 5, 5, dtype=torch.float64)
    x.requires_grad_()
    (dx,) = torch.autograd.grad(call(x, *rest).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        dx.sum().backward()


def test_vmap_runs_the_definition():
    x, ca, sa, weight, bias, *_ = example_inputs(2, 4, 5, 6)
    batched = torch.vmap(lambda v: call(v, ca, sa, weight, bias))(torch.stack([x, 2 * x]))
    assert_close(batched, torch.stack([call(v, ca, sa, weight, bias) for v in (x, 2 * x)]))


@devices
def test_any_strides(device):
    base = torch.randn(3, 8, 10, 12, device=device)
    _, *rest = example_inputs(3, 6, 5, 4, kind="mixup", device=device)
    for x in (
        base[:, 1:7, ::2, :4],
        base[:, 1:7, 5:, :4].flip(3),
        base[:1, :6, :5, :4].expand(3, -1, -1, -1),
    ):
        assert_close(call(x, *rest), call(x.contiguous(), *rest))
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        call(leaf, *rest).sum().backward()  # an expanded dy
        assert torch.isfinite(leaf.grad).all()
