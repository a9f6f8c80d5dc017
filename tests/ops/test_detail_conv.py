"""What detail_conv promises: its contract on every device, and facts of its mathematics."""

import os

import pytest
import torch
import torch.nn.functional as F

from ibnvision.ops import detail_conv, fold_detail_conv, reference_ops, why_no_kernel
from ibnvision.ops.detail_conv import example_inputs, tap_map
from ibnvision.testing import DEVICES, TOLERANCE, assert_close, grads

REFERENCE_ONLY = os.environ.get("IBNVISION_NATIVE") == "0"
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NO_BIAS = (None,) * 5
pytestmark = pytest.mark.filterwarnings("ignore:detail_conv runs as plain PyTorch")
devices = pytest.mark.parametrize("device", DEVICES)
layouts = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)


def index_form(weights, central_theta=1.0, angular_theta=1.0):
    """The kernel by assignments to taps, branch by branch."""
    c, h, v, a, w = (t.double() for t in weights)
    kernel = w + c + a
    kernel[..., 1, 1] -= central_theta * c.sum((-1, -2))
    clockwise = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    for before, tap in zip([clockwise[-1], *clockwise], clockwise, strict=False):
        kernel[..., tap[0], tap[1]] -= angular_theta * a[..., before[0], before[1]]
    kernel[..., 1, 1] -= angular_theta * a[..., 1, 1]
    kernel[..., :, 0] += h
    kernel[..., :, 2] -= h
    kernel[..., 0, :] += v
    kernel[..., 2, :] -= v
    return kernel


def fold_and_gradients(parameters, thetas, d_weight, d_bias):
    """kernel, bias and the gradients of every branch and bias."""
    leaves = [t.detach().clone().requires_grad_() for t in parameters]
    weight, bias = fold_detail_conv(leaves[:5], leaves[5:], *thetas)
    gradients = torch.autograd.grad((weight, bias), leaves, (d_weight, d_bias))
    return weight.detach(), bias.detach(), *gradients


@devices
@layouts
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("thetas", [(1.0, 1.0), (0.7, 0.3)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (3, 150), (40, 37), (2, 1100)], ids=str)
def test_equals_reference(size, thetas, dtype, channels_last, device):
    out, wide = size
    made = example_inputs(
        1, wide, 3, 3, out=out, dtype=dtype, device=device, channels_last=channels_last
    )
    assert not why_no_kernel("detail_conv_forward", made[1]) or REFERENCE_ONLY
    d_weight = torch.randn(out, wide, 3, 3, dtype=torch.float64).to(made[1])
    d_bias = torch.randn(out, dtype=torch.float64).to(made[1])
    found = fold_and_gradients(made[1:], thetas, d_weight, d_bias)
    with reference_ops():
        plain = fold_and_gradients(made[1:], thetas, d_weight, d_bias)
        wide_made = [t.double() for t in made[1:]]
        truth = fold_and_gradients(wide_made, thetas, d_weight.double(), d_bias.double())
    for got, same, true in zip(found, plain, truth, strict=True):
        assert got.dtype == same.dtype and got.shape == same.shape
        error, reference = ((t.double() - true).abs().max().item() for t in (got, same))
        bound = 2 * reference
        if dtype in (torch.float32, torch.float64):
            bound = max(bound, TOLERANCE[dtype][0] * max(1.0, true.abs().max().item()))
        assert error <= bound
    assert found[0].stride() == made[5].stride()
    assert_close(truth[0], index_form(made[1:6], *thetas))


@devices
@layouts
@pytest.mark.parametrize("bias", [True, False])
def test_convolves_once_with_the_folded_kernel(bias, channels_last, device):
    options = dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
    made = example_inputs(
        2, 6, 9, 8, out=4, groups=2, bias=bias, device=device, channels_last=channels_last
    )
    names = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        y = detail_conv(*made, **options)
    assert names.count("convolution") == 1
    assert names.count("detail_conv_forward") == (0 if REFERENCE_ONLY else 1)
    bias_sum = sum(b.double() for b in made[6:]) if bias else None
    want = F.conv2d(made[0].double(), index_form(made[1:6]), bias_sum, *options.values())
    assert_close(y, want, torch.float32)
    assert y.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert_close(detail_conv(made[0][0], *made[1:], **options), want[0], torch.float32)


@devices
@layouts
def test_derivatives_of_first_and_second_order(channels_last, device):
    made = example_inputs(
        1, 3, 4, 3, out=2, dtype=torch.float64, device=device, channels_last=channels_last
    )
    leaves = [t.requires_grad_() for t in made]

    def call(*values):
        return detail_conv(*values, padding=(1, 1), central_theta=0.6, angular_theta=0.9)

    torch.autograd.gradcheck(call, leaves)
    torch.autograd.gradgradcheck(call, leaves)


@devices
def test_gradients_reach_what_is_given(device):
    made = example_inputs(1, 3, 5, 5, device=device)
    weights, biases = list(made[1:6]), [None, made[7].requires_grad_(), None, None, None]
    weights[2].requires_grad_()
    weight, bias = fold_detail_conv(weights, biases)
    dy = torch.randn_like(weight)
    d_line, d_bias = torch.autograd.grad((weight, bias), (weights[2], biases[1]), (dy, bias))
    assert_close(d_line, dy[..., 0, :] - dy[..., 2, :])
    assert torch.equal(bias, biases[1]) and torch.equal(d_bias, bias)
    (d_line,) = torch.autograd.grad(fold_detail_conv(weights)[0].sum(), weights[2])  # expanded
    assert torch.equal(d_line, torch.zeros_like(d_line))


def test_dead_centres_have_no_effect_and_no_gradient():
    made = example_inputs(1, 8, 4, 4, dtype=torch.float32)
    moved = [t.clone() for t in made]
    for i in (1, 4):
        moved[i][..., 1, 1] += 1e6
    weight = fold_detail_conv(made[1:6])[0]
    assert torch.equal(fold_detail_conv(moved[1:6])[0], weight) or REFERENCE_ONLY
    _, gradients = grads(lambda *w: fold_detail_conv(w)[0], made[1:6], torch.randn_like(weight))
    assert not gradients[0][..., 1, 1].any() and not gradients[3][..., 1, 1].any()
    assert gradients[0].any() and gradients[4][..., 1, 1].all()


def test_difference_branches_do_not_see_a_constant():
    maps = tap_map()
    assert torch.equal(maps[:, :24].sum(0), torch.zeros(24, dtype=torch.float64))
    step = maps @ maps.T  # plain SGD moves the kernel by this matrix times its gradient
    eigenvalues = torch.linalg.eigvalsh(step)
    root = 2**0.5
    want = torch.tensor([1, 4, 6 - root, 6 - root, 6, 6 + root, 6 + root, 8, 10])
    assert_close(eigenvalues, want.double(), torch.float32)
    assert_close(step @ torch.ones(9).double(), torch.ones(9).double())


@pytest.mark.skipif(REFERENCE_ONLY, reason="no library: the kernel operators have no kernels")
@devices
@layouts
@pytest.mark.parametrize("bias", [True, False])
def test_opcheck_of_kernels(bias, channels_last, device):
    made = example_inputs(2, 6, 3, 3, bias=bias, channels_last=channels_last, device=device)
    leaves = [t if t is None else t.requires_grad_() for t in made[1:]]
    torch.library.opcheck(torch.ops.ibnvision.detail_conv_forward.default, (*leaves, 1.0, 0.5))
    args = (*leaves[:4], None, *NO_BIAS, 1.0, 0.5)
    torch.library.opcheck(torch.ops.ibnvision.detail_conv_forward.default, args)
    args = (torch.randn_like(made[5]).requires_grad_(), 1.0, 0.5)
    torch.library.opcheck(torch.ops.ibnvision.detail_conv_backward.default, args)


@devices
def test_opcheck_of_entries(device):
    made = example_inputs(2, 6, 5, 5, device=device)
    tests = ("test_schema", "test_faketensor")
    options = ([1, 1], [1, 1], [1, 1], 1, 1.0, 1.0)
    op = torch.ops.ibnvision.detail_conv.default
    torch.library.opcheck(op, (*made, *options), test_utils=tests)
    op = torch.ops.ibnvision.detail_conv_fold.default
    torch.library.opcheck(op, (*made[1:], 1.0, 1.0), test_utils=tests)


class Module(torch.nn.Module):
    """detail_conv with parameters of its own, for compilers and exporters."""

    def __init__(self, channels: int):
        super().__init__()
        _, *values = example_inputs(1, channels, 1, 1, out=channels)
        names = ("c", "h", "v", "a", "w", "cb", "hb", "vb", "ab", "wb")
        for name, value in zip(names, values, strict=True):
            self.register_parameter(name, torch.nn.Parameter(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return detail_conv(
            x, self.c, self.h, self.v, self.a, self.w, self.cb, self.hb, self.vb, self.ab, self.wb,
            padding=(1, 1), angular_theta=0.5,
        )  # fmt: skip


def step(function, module, x):
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = function(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())]


@devices
@layouts
def test_compiles_with_dynamic_shapes(channels_last, device):
    torch._dynamo.reset()
    module = Module(6).to(device)
    function = torch.compile(module, fullgraph=True, dynamic=True)
    for shape in ((2, 6, 5, 7), (3, 6, 4, 9)):
        x = torch.randn(shape, device=device)
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        for got, want in zip(step(function, module, x), step(module, module, x), strict=True):
            scale = max(1.0, want.abs().max().item())
            assert_close(got / scale, want / scale)
    with reference_ops():  # the compiled module recompiles into plain PyTorch
        x = torch.randn(2, 6, 5, 7, device=device)
        for got, want in zip(step(function, module, x), step(module, module, x), strict=True):
            scale = max(1.0, want.abs().max().item())
            assert_close(got / scale, want / scale)


@devices
def test_exports_scripts_and_traces(device):
    module = Module(6).to(device).eval()
    x = torch.randn(2, 6, 5, 7, device=device)
    want = module(x)
    height = torch.export.Dim("height", min=3, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes=({2: height},))
    assert_close(program.module()(x), want)
    assert_close(program.module()(x[:, :, :4]), module(x[:, :, :4]))
    assert_close(torch.jit.script(module)(x), want)
    graph = torch.fx.symbolic_trace(module)
    assert [n for n in graph.graph.nodes if n.target is torch.ops.ibnvision.detail_conv]
    assert_close(graph(x), want)


@devices
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_folds_in_the_dtype_of_the_parameters(low, device):
    made = example_inputs(2, 6, 7, 7, out=4, device=device)
    for value in made[1:]:
        value.requires_grad_()
    exact, bias = fold_detail_conv(made[1:6], made[6:])
    with torch.autocast(device, low):
        weight = fold_detail_conv(made[1:6], made[6:])[0]
        with reference_ops():
            plain = fold_detail_conv(made[1:6], made[6:])[0]
        y = detail_conv(*made)
        want = F.conv2d(made[0], exact, bias)
    assert weight.dtype == plain.dtype == torch.float32 and torch.equal(weight, exact)
    assert_close(plain, exact)
    assert y.dtype == low and torch.equal(y, want)
    d_got, d_want = (torch.autograd.grad(t.float().sum(), made[4])[0] for t in (y, want))
    assert d_got.dtype == torch.float32 and torch.equal(d_got, d_want)


def test_vmap_and_forward_mode_run_the_definition():
    made = example_inputs(2, 3, 5, 5, dtype=torch.float64)
    stacked = torch.stack([made[0], 2 * made[0]])
    batched = torch.vmap(lambda x: detail_conv(x, *made[1:]))(stacked)
    assert_close(batched, torch.stack([detail_conv(x, *made[1:]) for x in stacked]))
    tangent = torch.randn_like(made[4])
    angular = torch.stack([made[4], tangent])
    kernels = torch.vmap(lambda a: fold_detail_conv((*made[1:4], a, made[5]))[0])(angular)
    assert_close(kernels[1], fold_detail_conv((*made[1:4], tangent, made[5]))[0])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(made[4], tangent)
        weight, _ = fold_detail_conv((*made[1:4], dual, made[5]))
        found = torch.autograd.forward_ad.unpack_dual(weight).tangent
    zeros = [torch.zeros_like(t) for t in made[1:6]]
    assert_close(found, fold_detail_conv((*zeros[:3], tangent, zeros[4]))[0])


@devices
def test_any_strides(device):
    made = example_inputs(1, 6, 5, 5, out=4, device=device)
    want = fold_detail_conv(made[1:6], made[6:])
    odd = [t.flip(0).contiguous().flip(0) if t.dim() == 1 else t.clone() for t in made[1:]]
    odd = [torch.stack([t, t + 1], -1)[..., 0] for t in odd]
    assert not any(t.is_contiguous() for t in odd)
    for got, wanted in zip(fold_detail_conv(odd[:5], odd[5:]), want, strict=True):
        assert_close(got, wanted)
    mixed = list(made[1:6])
    mixed[0] = mixed[0].contiguous(memory_format=torch.channels_last)
    got = fold_detail_conv(mixed, made[6:])[0]
    assert got.is_contiguous() and torch.equal(got, want[0])


@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
def test_empty_weights(size):
    out, wide = size
    weights = [torch.zeros(*size, *taps) for taps in ((3, 3), (3,), (3,), (3, 3), (3, 3))]
    bias = torch.arange(float(out)).requires_grad_()
    weight, total = fold_detail_conv(weights, [bias, None, None, None, bias])
    assert weight.shape == (*size, 3, 3) and torch.equal(total, 2 * bias)
    total.sum().backward()
    assert torch.equal(bias.grad, torch.full((out,), 2.0))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=torch.ones(2, 5, 4, 4)), ValueError, r"C=6 channels, 1 groups of 6, got shape"),
        (dict(vanilla=torch.ones(5, 6, 5, 5)), ValueError, r"vanilla must be \[O, I, 3, 3\], got"),
        (dict(central=torch.ones(5, 3, 3, 3)), ValueError, r"central must have shape \(5, 6, 3"),
        (dict(vertical=torch.ones(5, 6, 3, 3)), ValueError, r"vertical must have shape \(5, 6, 3"),
        (dict(vanilla=torch.ones(5, 6, 3, 3).int()), TypeError, "vanilla must be float32.*int32"),
        (dict(angular=torch.ones(5, 6, 3, 3).half()), TypeError, "angular must have the dtype of"),
        (dict(angular_bias=torch.ones(4)), ValueError, r"angular_bias must have shape \[5\], got"),
        (dict(vanilla_bias=torch.ones(5).double()), TypeError, "vanilla_bias must have the dtype"),
        (dict(central=torch.ones(5, 6, 3, 3, device="meta")), ValueError, "central must be on the"),
        (dict(angular_theta=float("nan")), ValueError, "angular_theta must be finite, got nan"),
    ],
    ids=lambda v: str(next(iter(v))) if isinstance(v, dict) else "",
)
def test_bad_input(change, error, message):
    names = ("x", "central", "horizontal", "vertical", "angular", "vanilla")
    made = dict(zip(names, example_inputs(2, 6, 4, 4), strict=False))
    with pytest.raises(error, match=message):
        detail_conv(**{**made, **change})


@pytest.mark.parametrize("variant", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(variant):
    from ibnvision.ops._kernels import C

    if C is None:
        pytest.skip("no library")
    active = C.build_info()["capability"]
    try:
        C.set_cpu_capability(variant)
    except ValueError as reason:
        pytest.skip(str(reason))
    try:
        for dtype in DTYPES:
            for last in (False, True):
                made = example_inputs(1, 133, 1, 1, out=3, dtype=dtype, channels_last=last)
                dy = torch.randn(3, 133, 3, 3).to(dtype)
                got = fold_and_gradients(made[1:], (0.5, 0.8), dy, dy[:, 0, 0, 0])
                with reference_ops():
                    want = fold_and_gradients(made[1:], (0.5, 0.8), dy, dy[:, 0, 0, 0])
                for a, b in zip(got, want, strict=True):
                    scale = max(1.0, b.abs().max().item())
                    assert_close(a / scale, b / scale, dtype)
    finally:
        C.set_cpu_capability(active)


def test_threads_do_not_change_the_result():
    made = example_inputs(1, 70, 1, 1, out=65)
    dy, threads, results = torch.randn(65, 70, 3, 3), torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(fold_and_gradients(made[1:], (1.0, 1.0), dy, dy[:, 0, 0, 0]))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for r in results for a, b in zip(r, results[0], strict=True))
