"""Facts of the mathematics of detail_conv: taps, branches, what it convolves with, bad input."""

import pytest
import torch
import torch.nn.functional as F
from contract_tools import REFERENCE_ONLY

from ibnvision.ops import detail_conv, fold_detail_conv, reference_ops
from ibnvision.ops.detail_conv import example_inputs, tap_map
from ibnvision.testing import DEVICES, assert_close, grads

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


@devices
@layouts
@pytest.mark.parametrize("thetas", [(1.0, 1.0), (0.7, 0.3)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (3, 150)], ids=str)
def test_folds_as_by_assignments_to_taps(size, thetas, channels_last, device):
    out, wide = size
    made = example_inputs(
        1, wide, 3, 3, out=out, dtype=torch.float64, device=device, channels_last=channels_last
    )
    weight, bias = fold_detail_conv(made[1:6], made[6:], *thetas)
    assert_close(weight, index_form(made[1:6], *thetas))
    assert_close(bias, sum(made[6:]))


@devices
@layouts
@pytest.mark.parametrize("bias", [True, False])
def test_convolves_once_with_the_folded_kernel(bias, channels_last, device):
    options = dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
    thetas = dict(central_theta=0.7, angular_theta=0.3)
    made = example_inputs(
        2, 6, 9, 8, out=4, groups=2, bias=bias, device=device, channels_last=channels_last
    )
    names = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        y = detail_conv(*made, **options, **thetas)
    assert names.count("convolution") == 1
    assert names.count("detail_conv_forward") == (0 if REFERENCE_ONLY else 1)
    bias_sum = sum(b.double() for b in made[6:]) if bias else None
    want = F.conv2d(made[0].double(), index_form(made[1:6], **thetas), bias_sum, *options.values())
    assert_close(y, want, torch.float32)
    assert y.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert_close(detail_conv(made[0][0], *made[1:], **options, **thetas), want[0], torch.float32)


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
