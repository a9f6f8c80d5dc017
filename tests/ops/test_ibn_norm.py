"""Facts of the mathematics of ibn_norm: statistics, limits, buffers, memory and bad input."""

import pytest
import torch

from ibnvision.ops import ibn_norm, why_no_kernel
from ibnvision.ops.ibn_norm import example_inputs
from ibnvision.testing import DEVICES, assert_close

pytestmark = pytest.mark.filterwarnings("ignore:ibn_norm runs as plain PyTorch")
needs_kernel = pytest.mark.skipif(
    bool(why_no_kernel("ibn_norm_forward", torch.ones(1))), reason="needs the kernel"
)


def official(x, in_w, in_b, bn_w, bn_b, split, last, eps=1e-5):
    """The published layer's formula, in float64."""
    x = x.double()
    axes = tuple(range(2, x.dim()))
    a, b = (x[:, -split:], x[:, :-split]) if last else (x[:, :split], x[:, split:])
    shape = (1, -1) + (1,) * len(axes)

    def norm(t, dims, w, bias):
        mean = t.mean(dims, keepdim=True)
        var = (t - mean).square().mean(dims, keepdim=True)
        return (t - mean) / (var + eps).sqrt() * w.double().view(shape) + bias.double().view(shape)

    parts = [norm(a, axes, in_w, in_b), norm(b, (0, *axes), bn_w, bn_b)]
    return torch.cat(parts[::-1] if last else parts, 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("split", [1, 3, 5])
def test_official_formula(split, last, device):
    x, *parameters, _, _, _, _, _ = example_inputs(3, 7, 5, 4, split=split, device=device)
    y = ibn_norm(x, *parameters, None, None, instance_channels=split, instance_last=last)
    assert_close(y, official(x, *parameters, split, last), torch.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("split", [0, 6])
def test_no_and_all_instance_channels(split, device):
    x, w, b, bn_w, bn_b, *_ = example_inputs(3, 6, 5, 4, split=split, device=device)
    y = ibn_norm(x, w, b, bn_w, bn_b, None, None, instance_channels=split)
    if split:
        want = torch.nn.functional.instance_norm(x.double(), weight=w.double(), bias=b.double())
    else:
        args = (x.double(), None, None, bn_w.double(), bn_b.double(), True)
        want = torch.nn.functional.batch_norm(*args)
    assert_close(y, want, torch.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("offset", [1e3, -1e3])
def test_statistics_far_from_zero(offset, channels_last, device):
    """|mean| = 1000 std: a sum-of-squares variance would lose every digit of float32."""
    x, *parameters, mean, var, count, _, split = example_inputs(2, 8, 64, 64, device=device)
    x = x / x.std() + offset
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    y = ibn_norm(x, *parameters, mean, var, count, None, split)
    want = official(x, *parameters, split, False)
    # float32 holds the mean to 3e-5 standard deviations, whatever the algorithm
    assert (y.double() - want).abs().max() < 3e-4
    batch_var = x[:, split:].double().var((0, 2, 3))
    moved = (var.double() - 0.9 * example_inputs(2, 8, 64, 64, device=device)[6].double()) / 0.1
    assert_close(moved, batch_var, torch.float16)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_outlier_in_the_first_values_does_not_spoil_the_variance(channels_last, device):
    x = torch.randn(1, 4, 80, 80, device=device) + 100
    x[..., 0, :16] = -1e4
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    y = ibn_norm(x, None, None, None, None, None, None, instance_channels=4)
    assert_close(y, torch.nn.functional.instance_norm(x.double()), torch.float16)


def test_single_pixel_gives_the_bias():
    x, in_w, in_b, bn_w, bn_b, mean, var, count, _, split = example_inputs(1, 6, 1, 1)
    y = ibn_norm(x, in_w, in_b, bn_w, bn_b, mean, var, count, None, split)
    assert torch.equal(y.flatten(), torch.cat([in_b, bn_b]))
    assert torch.isfinite(var).all()


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
def test_running_statistics(momentum):
    made = example_inputs(3, 6, 5, 4)
    x, *parameters, mean, var, count, _, split = made
    bn = torch.nn.BatchNorm2d(3, momentum=momentum)
    bn.running_mean.copy_(mean), bn.running_var.copy_(var)
    for scale in (1.0, 2.0, -3.0):
        bn(scale * x[:, split:])
        ibn_norm(scale * x, *parameters, mean, var, count, None, split, momentum=momentum)
    assert_close(mean, bn.running_mean), assert_close(var, bn.running_var)
    assert count == bn.num_batches_tracked == 3


def test_evaluation_keeps_instance_statistics():
    x, *parameters, mean, var, count, _, split = example_inputs(3, 6, 5, 4)
    y = ibn_norm(x, *parameters, mean, var, count, None, split, training=False)
    train = ibn_norm(x, *parameters, None, None, None, None, split)
    assert_close(y[:, :split], train[:, :split])
    args = (x[:, split:], mean, var, parameters[2], parameters[3])
    assert_close(y[:, split:], torch.nn.functional.batch_norm(*args))
    assert count == 0


def test_low_precision_buffers_and_parameters():
    x, *rest, count, _, split = example_inputs(3, 6, 5, 4, dtype=torch.bfloat16)
    low = [t.bfloat16() for t in rest]
    y = ibn_norm(x, *low, count, None, split)
    want = official(x, *(t.float() for t in low[:4]), split, False)
    assert y.dtype == torch.bfloat16 and low[4].dtype == torch.bfloat16
    assert_close(y, want, torch.bfloat16)


def test_autocast_leaves_the_dtype_of_x():
    x, *parameters, mean, var, count, _, split = example_inputs(2, 6, 5, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = ibn_norm(x, *parameters, mean, var, count, x.float(), split, act="relu")
        wide = ibn_norm(x.float(), *parameters, mean, var, count, None, split)
    assert y.dtype == torch.bfloat16 and wide.dtype == torch.float32


@needs_kernel
@pytest.mark.parametrize("residual, bits", [(False, 0), (True, 1)])
def test_backward_keeps_x_and_one_bit_at_most(residual, bits):
    x, *parameters, mean, var, count, added, split = example_inputs(
        4, 32, 16, 16, residual=residual
    )
    kept = {}
    x.requires_grad_()

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        ibn_norm(x, *parameters, mean, var, count, added, split, act="relu")
    large = sum(size for size in kept.values() if size >= x.numel() // 8)
    assert large == x.nbytes + bits * x.numel() // 8


@needs_kernel
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_schema_of_the_forward_that_moves_the_statistics(residual, channels_last, device):
    *tensors, count, added, split = example_inputs(
        2, 6, 3, 3, residual=residual, channels_last=channels_last, device=device
    )
    args = (*tensors, added, split, False, False, 1, 0.01, True, True, 1e-5, count + 2, 0.1)
    torch.library.opcheck(
        torch.ops.ibnvision.ibn_norm_forward_tracking.default,
        args,
        test_utils="test_schema",  # called on tensors only, below autograd and outside compilers
    )


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(instance_channels=9), ValueError, r"instance_channels must lie in \[0, C=6\], got 9"),
        (dict(x=torch.ones(2, 6)), ValueError, "1 to 3 spatial axes, got shape"),
        (dict(x=torch.ones(2, 6, 4, 4, dtype=torch.int32)), TypeError, "x must be float32.*int32"),
        (dict(in_weight=torch.ones(2)), ValueError, r"in_weight must have shape \[3\], got \(2,\)"),
        (dict(running_var=None), ValueError, "running_mean and running_var must be given together"),
        (dict(residual=torch.ones(2, 6, 4, 5)), ValueError, "residual must have the shape of x"),
        (dict(act="rellu"), KeyError, "got 'rellu', nearest 'relu'"),
        (dict(momentum=1.5), ValueError, r"momentum must lie in \[0, 1\] or be None, got 1.5"),
        (dict(eps=-1.0), ValueError, "eps must not be negative, got -1.0"),
        (dict(bn_bias=torch.ones(3, dtype=torch.int64)), TypeError, "bn_bias must be a floating"),
        (
            dict(bn_bias=torch.ones(3, device="meta")),
            ValueError,
            "bn_bias must be on the device of x",
        ),
    ],
    ids=lambda v: str(next(iter(v))) if isinstance(v, dict) else "",
)
def test_bad_input(change, error, message):
    names = ("x", "in_weight", "in_bias", "bn_weight", "bn_bias", "running_mean", "running_var")
    made = example_inputs(2, 6, 4, 4)
    kwargs = {**dict(zip(names, made, strict=False)), "instance_channels": 3, **change}
    with pytest.raises(error, match=message):
        ibn_norm(**kwargs)
