"""What every operator promises on a GPU beyond its contract: streams, graphs, large tensors."""

import pytest
import torch
from contract_rows import every
from contract_tools import outputs

from ibnvision.ops import ibn_norm

layouts = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)


def draw(row, case, form, seed):
    """Arguments on the GPU whose leaves require gradients."""
    return row.fresh(row.draw(row.large, case, form, device="cuda", seed=seed))


def step(row, arguments):
    """Outputs, every gradient, and the buffers, which it moves."""
    ys, leaves = outputs(row.call(**arguments)), [arguments[n] for n in row.leaves(arguments)]
    gradients = torch.autograd.grad(sum(y.square().sum() for y in ys), leaves)
    return [*(y.detach() for y in ys), *gradients, *(arguments[n] for n in row.copies(arguments))]


@pytest.mark.gpu
@every()
def test_two_streams_do_not_disturb_each_other(row, case, form):
    wanted = [step(row, draw(row, case, form, seed)) for seed in (0, 1)]
    streams = [torch.cuda.Stream() for _ in wanted]
    rounds = [[draw(row, case, form, seed) for seed in (0, 1)] for _ in range(10)]
    torch.cuda.synchronize()
    results = []
    for made in rounds:
        for stream, arguments in zip(streams, made, strict=True):
            with torch.cuda.stream(stream):
                results.append(step(row, arguments))
    torch.cuda.synchronize()
    for i, result in enumerate(results):
        for got, want in zip(result, wanted[i % 2], strict=True):
            assert torch.equal(got, want)


@pytest.mark.gpu
@every()
def test_graph_replay_computes_on_new_values(row, case, form):
    static = draw(row, case, form, 0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(row, static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outcome = step(row, static)
    for seed in (1, 2):
        fresh = draw(row, case, form, seed)
        with torch.no_grad():
            for name, old in static.items():
                if torch.is_tensor(old):
                    old.copy_(fresh[name])
        graph.replay()
        for got, want in zip(outcome, step(row, fresh), strict=True):
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
