"""What every operator promises on a GPU beyond test_contract.py: streams, graphs, large tensors.

One row per operator and way of its buffers.
"""

import functools

import pytest
import torch

from ibnvision.ops import content_guided_attention, detail_conv, ibn_norm
from ibnvision.ops.content_guided_attention import (
    example_inputs as content_guided_attention_inputs,
)
from ibnvision.ops.detail_conv import example_inputs as detail_conv_inputs
from ibnvision.ops.ibn_norm import example_inputs

BUFFERS = slice(5, 8)  # of example_inputs: running mean, running variance, count


def ibn_norm_draw(seed, channels_last, device="cuda"):
    """Inputs whose floating-point tensors, but for the buffers, require gradients."""
    shape = (4, 34, 65, 33)
    made = example_inputs(
        *shape, device=device, channels_last=channels_last, residual=True, seed=seed
    )
    buffers = {id(t) for t in made[BUFFERS]}
    for value in made:
        if torch.is_tensor(value) and id(value) not in buffers:
            value.requires_grad_()
    return made


def ibn_norm_step(inputs, momentum):
    """y, every gradient, and the buffers, which it moves."""
    leaves = [t for t in inputs if torch.is_tensor(t) and t.requires_grad]
    y = ibn_norm(*inputs, act="relu", momentum=momentum)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves), *inputs[BUFFERS]]


def content_guided_attention_draw(seed, channels_last, device="cuda"):
    """Inputs of the mixup, which require gradients."""
    made = content_guided_attention_inputs(
        2, 34, 65, 33, kind="mixup", device=device, channels_last=channels_last, seed=seed
    )
    return tuple(t if t is None else t.requires_grad_() for t in made)


def content_guided_attention_step(inputs):
    """y and every gradient."""
    y = content_guided_attention(*inputs)
    leaves = [t for t in inputs if t is not None]
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


def detail_conv_draw(seed, channels_last, device="cuda"):
    made = detail_conv_inputs(
        2, 70, 9, 9, out=65, device=device, channels_last=channels_last, seed=seed
    )
    return tuple(t.requires_grad_() for t in made)


def detail_conv_step(inputs):
    """y and every gradient."""
    y = detail_conv(*inputs, padding=(1, 1), angular_theta=0.5)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]


ROWS = {
    "content_guided_attention": (content_guided_attention_draw, content_guided_attention_step),
    "detail_conv": (detail_conv_draw, detail_conv_step),
    "ibn_norm": (ibn_norm_draw, functools.partial(ibn_norm_step, momentum=0.1)),
    "ibn_norm-cumulative": (ibn_norm_draw, functools.partial(ibn_norm_step, momentum=None)),
}
layouts = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)


@pytest.mark.gpu
@layouts
@pytest.mark.parametrize("row", ROWS)
def test_two_streams_do_not_disturb_each_other(row, channels_last):
    draw, step = ROWS[row]
    wanted = [step(draw(seed, channels_last)) for seed in (0, 1)]
    streams = [torch.cuda.Stream() for _ in wanted]
    rounds = [[draw(seed, channels_last) for seed in (0, 1)] for _ in range(10)]
    torch.cuda.synchronize()
    results = []
    for made in rounds:
        for stream, inputs in zip(streams, made, strict=True):
            with torch.cuda.stream(stream):
                results.append(step(inputs))
    torch.cuda.synchronize()
    for i, result in enumerate(results):
        for got, want in zip(result, wanted[i % 2], strict=True):
            assert torch.equal(got, want)


@pytest.mark.gpu
@layouts
@pytest.mark.parametrize("row", ROWS)
def test_graph_replay_computes_on_new_values(row, channels_last):
    draw, step = ROWS[row]
    static = draw(0, channels_last)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step(static)
    for seed in (1, 2):
        fresh = draw(seed, channels_last)
        with torch.no_grad():
            for old, new in zip(static, fresh, strict=True):
                if torch.is_tensor(old):
                    old.copy_(new)
        graph.replay()
        for got, want in zip(outputs, step(fresh), strict=True):
            assert torch.equal(got, want)


def check_far_end(shape, device, channels_last):
    """The last values of a large tensor are normalized by their own groups, forward and backward.

    With a gradient of 1 for the last pixel of both channels, and 0 else, dx is rstd there, less a
    share of one by the size of the group.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=torch.bfloat16, device=device, memory_format=layout).normal_()
    dy = torch.zeros_like(x)
    dy[-1, :, -1, -1] = 1
    y = ibn_norm(x.requires_grad_(), None, None, None, None, None, None, instance_channels=1)
    (dx,) = torch.autograd.grad(y, x, dy)
    x = x.detach()
    instance = torch.var_mean(x[-1, 0].double(), correction=0)
    parts = [torch.var_mean(image.double(), correction=0) for image in x[:, 1]]
    means = torch.stack([mean for _, mean in parts])
    batch = torch.stack([var for var, _ in parts]).mean() + means.var(correction=0), means.mean()
    for channel, (var, mean) in enumerate((instance, batch)):
        tail = x[-1, channel, -1, -64:].double()
        rstd = (var + 1e-5).rsqrt()
        torch.testing.assert_close(
            y[-1, channel, -1, -64:].double(), (tail - mean) * rstd, rtol=8e-3, atol=8e-3
        )
        torch.testing.assert_close(dx[-1, channel, -1, -1].double(), rstd, rtol=1e-2, atol=1e-2)
        assert dx[-1, channel, -1, -64:-1].abs().max() < 1e-2 and dx[0, channel, 0, 0].abs() < 1e-2


@layouts
def test_far_end_of_a_small_tensor(channels_last):
    check_far_end((3, 2, 60, 70), "cpu", channels_last)


@pytest.mark.gpu
@layouts
def test_far_end_past_32_bit_indices(channels_last):
    free, _ = torch.cuda.mem_get_info()
    if free < 40 * 2**30:
        pytest.skip(f"needs 40 GiB of GPU memory, {free / 2**30:.0f} GiB are free")
    check_far_end((3, 2, 20_000, 20_000), "cuda", channels_last)
