"""What every operator promises, one row per operator."""

import itertools
import os

import pytest
import torch

from ibnvision.ops import ibn_norm, reference_ops, why_no_kernel
from ibnvision.ops.ibn_norm import example_inputs
from ibnvision.testing import DEVICES, TOLERANCE, assert_close, grads

REFERENCE_ONLY = os.environ.get("IBNVISION_NATIVE") == "0"
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def ibn_norm_rows():
    """(id, inputs, options): layouts, residuals, activations and statistics that take own paths."""
    acts = ("none", "relu", "leaky_relu", "silu")
    for (residual, first), act, training in itertools.product(
        ((False, False), (True, False), (True, True)), acts, (True, False)
    ):
        name = f"{'first' if first else 'after' if residual else 'plain'}-{act}-{training}"
        yield name, dict(residual=residual), (False, first, act, 0.1, training)


ROWS = {name: (kwargs, options) for name, kwargs, options in ibn_norm_rows()}
SHAPES = {"odd": (3, 7, 5, 3), "wide": (2, 40, 9, 9), "line": (2, 6, 33), "volume": (2, 5, 3, 4, 2)}


def run(options, inputs, dy):
    """y, the gradients of every input and the moved buffers, for fresh buffers each time."""
    x, *parameters, mean, var, count, residual, split = inputs
    mean, var, count = mean.clone(), var.clone(), count.clone()

    def call(x, in_w, in_b, bn_w, bn_b, residual):
        return ibn_norm(x, in_w, in_b, bn_w, bn_b, mean, var, count, residual, split, *options)

    y, gradients = grads(call, [x, *parameters, residual], dy)
    return y, *gradients, mean, var, count


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_equals_reference(row, dtype, channels_last, device):
    kwargs, options = ROWS[row]
    for shape in SHAPES.values():
        args = dict(device=device, channels_last=channels_last, **kwargs)
        inputs = example_inputs(*shape, dtype=dtype, **args)
        assert not why_no_kernel("ibn_norm_forward", inputs[0]) or REFERENCE_ONLY
        dy = torch.randn(shape, dtype=torch.float64).to(inputs[0])
        actual = run(options, inputs, dy)
        with reference_ops():
            plain = run(options, inputs, dy)
            wide = [
                t.double() if torch.is_tensor(t) and t.is_floating_point() else t for t in inputs
            ]
            truth = run(options, wide, dy.double())
        for got, same, true in zip(actual, plain, truth, strict=True):
            assert got.dtype == same.dtype and got.shape == same.shape
            error = (got.double() - true.double()).abs().max().item()
            bound = 2 * (same.double() - true.double()).abs().max().item()
            if got.dtype in (
                torch.float32,
                torch.float64,
            ):  # half precision is held to twice the reference's error
                scale = max(1.0, true.double().abs().max().item())
                bound = max(bound, TOLERANCE[got.dtype][0] * scale)
            assert error <= bound
        assert actual[0].stride() == inputs[0].stride()


def call_op(inputs, *options):
    """The op on given inputs, its buffers cloned, as a function of x and the parameters alone."""
    x, *parameters, mean, var, count, residual, split = inputs

    def function(x, *parameters):
        buffers = (mean.clone(), var.clone(), count.clone())
        return ibn_norm(x, *parameters, *buffers, residual, split, *options)

    return function, (x, *parameters)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("row", ["plain-silu-True", "after-leaky_relu-True", "first-relu-False"])
def test_gradcheck(row, device):
    kwargs, options = ROWS[row]
    inputs = example_inputs(2, 3, 3, 2, dtype=torch.float64, device=device, **kwargs)
    function, values = call_op(inputs, *options)
    leaves = [v.requires_grad_() for v in values]
    torch.autograd.gradcheck(function, leaves)
    if inputs[8] is not None:
        inputs[8].requires_grad_()
        torch.autograd.gradcheck(
            lambda r: call_op((*inputs[:8], r, inputs[9]), *options)[0](*values), [inputs[8]]
        )


@pytest.mark.skipif(REFERENCE_ONLY, reason="no library: the kernel operators have no kernels")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_opcheck_of_kernels(residual, channels_last, device):
    made = example_inputs(2, 6, 3, 3, residual=residual, channels_last=channels_last, device=device)
    x, *values, _, r, split = made
    leaves = [t.requires_grad_() for t in (x, *values[:4])]
    args = (*leaves, *values[4:], r, split, False, False, 1, 0.01, True, True, 1e-5)
    torch.library.opcheck(torch.ops.ibnvision.ibn_norm_forward.default, args)
    tracking = tuple(a.detach().clone() if torch.is_tensor(a) else a for a in args)
    torch.library.opcheck(
        torch.ops.ibnvision.ibn_norm_forward_tracking.default,
        (*tracking, torch.tensor(2, device=device), 0.1),
        test_utils="test_schema",  # called on tensors only, below autograd and outside compilers
    )
    y, mean, var, mask = torch.ops.ibnvision.ibn_norm_forward(*args)
    args = (y, *leaves, None, mean, var, mask, split, False, False, 1, 0.0, True, residual, 1e-5)
    args = tuple(a.detach() if torch.is_tensor(a) else a for a in args)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.ibnvision.ibn_norm_backward.default, args, test_utils=tests)


@pytest.mark.parametrize("device", DEVICES)
def test_forward_mode_derivatives_are_those_of_the_definition(device):
    inputs = example_inputs(2, 6, 3, 3, dtype=torch.float64, device=device)
    function, (x, *rest) = call_op(inputs, False, False, "silu")
    tangent = torch.randn_like(x)
    with torch.autograd.forward_ad.dual_level():
        y = function(torch.autograd.forward_ad.make_dual(x, tangent), *rest)
        found = torch.autograd.forward_ad.unpack_dual(y).tangent
    step = 1e-6 * tangent
    numeric = (function(x + step, *rest) - function(x - step, *rest)) / 2e-6
    torch.testing.assert_close(found, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_of_entry(device):
    inputs = example_inputs(2, 6, 3, 3, device=device, residual=True)
    args = (*inputs, False, False, "relu", 0.01, True, 0.1, 1e-5)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.ibnvision.ibn_norm.default, args, test_utils=tests)


class Module(torch.nn.Module):
    """ibn_norm with parameters and buffers of its own, for compilers and exporters."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.half = half
        for name, value in (("w", torch.rand(half)), ("b", torch.rand(half))):
            self.register_parameter("in_" + name, torch.nn.Parameter(value))
            self.register_parameter("bn_" + name, torch.nn.Parameter(value.clone()))
        self.register_buffer("mean", torch.zeros(half))
        self.register_buffer("var", torch.ones(half))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ibn_norm(
            x, self.in_w, self.in_b, self.bn_w, self.bn_b, self.mean, self.var, self.count, None,
            self.half, False, False, "relu", 0.01, self.training,
        )  # fmt: skip


def step(function, module, x):
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = function(x)
    y.square().sum().backward()
    return [
        y.detach(),
        x.grad,
        *(p.grad for p in module.parameters()),
        *map(torch.clone, module.buffers()),
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_compiles_with_dynamic_shapes(channels_last, device):
    torch._dynamo.reset()
    eager, compiled = Module(6).to(device), Module(6).to(device)
    compiled.load_state_dict(eager.state_dict())
    function = torch.compile(compiled, fullgraph=True, dynamic=True)
    for shape in ((2, 6, 5, 7), (3, 6, 4, 9)):
        x = torch.randn(shape, device=device)
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        for got, want in zip(step(function, compiled, x), step(eager, eager, x), strict=True):
            assert_close(got, want, torch.float32)
    with reference_ops():  # the compiled module recompiles into plain PyTorch
        x = torch.randn(2, 6, 5, 7, device=device)
        for got, want in zip(step(function, compiled, x), step(eager, eager, x), strict=True):
            assert_close(got, want, torch.float32)


@pytest.mark.parametrize("device", DEVICES)
def test_exports_scripts_and_traces(device):
    module = Module(6).to(device).eval()
    x = torch.randn(2, 6, 5, 7, device=device)
    want = module(x)
    height = torch.export.Dim("height", min=2, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes=({2: height},))
    assert_close(program.module()(x), want)
    assert_close(program.module()(x[:, :, :3]), module(x[:, :, :3]))
    assert_close(torch.jit.script(module)(x), want)
    graph = torch.fx.symbolic_trace(module)
    assert [n for n in graph.graph.nodes if n.target is torch.ops.ibnvision.ibn_norm]
    assert_close(graph(x), want)


def test_double_backward_raises():
    if REFERENCE_ONLY:
        pytest.skip("the definition has a double backward")
    function, values = call_op(example_inputs(2, 4, 3, 3, dtype=torch.float64))
    x = values[0].requires_grad_()
    (dx,) = torch.autograd.grad(function(*values).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        dx.sum().backward()


def test_vmap_runs_the_definition():
    x, w, b, *_ = example_inputs(2, 4, 3, 3, split=4)
    args = (w, b, None, None, None, None, None, None, 4)
    batched = torch.vmap(lambda v: ibn_norm(v, *args))(torch.stack([x, 2 * x]))
    assert_close(batched, torch.stack([ibn_norm(x, *args), ibn_norm(2 * x, *args)]))


@pytest.mark.parametrize("device", DEVICES)
def test_any_strides(device):
    base = torch.randn(3, 8, 10, 12, device=device)
    made = example_inputs(3, 6, 5, 4, device=device)
    for x in (
        base[:, 1:7, ::2, :4],
        base[:, 1:7, 5:, :4].flip(3),
        base[:1, :6, :5, :4].expand(3, -1, -1, -1),
    ):
        function, values = call_op((x, *made[1:]), False, False, "relu")
        dense = call_op((x.contiguous(), *made[1:]), False, False, "relu")[0]
        assert_close(function(x, *values[1:]), dense(x.contiguous(), *values[1:]))
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        function(leaf, *values[1:]).sum().backward()  # an expanded dy
        assert torch.isfinite(leaf.grad).all()
