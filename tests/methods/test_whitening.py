import itertools
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ibnvision.methods.whitening import InstanceWhitening, covariance, lowest_cluster

CHANNELS = (6, 4)


def maps(seed=0, images=3, channels=CHANNELS, dtype=torch.float32, size=(7, 5)):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for c in channels:
        x = torch.randn(images, c, *size, generator=generator, dtype=torch.float64)
        x = x + torch.randn(images, 1, *size, generator=generator, dtype=torch.float64)
        made.append(F.instance_norm(x).to(dtype))
    return made


def numpy_like(x):
    """Covariances by their definition, in loops."""
    n, c, h, w = x.shape
    flat, s = x.reshape(n, c, -1).double(), torch.zeros(n, c, c, dtype=torch.float64)
    for image, i, j in itertools.product(range(n), range(c), range(c)):
        s[image, i, j] = (flat[image, i] * flat[image, j]).sum() / (h * w - 1)
    return s


def collected(loss, *, first=0, last=None):
    """Runs forwards `first` to `last`; their losses."""
    values = []
    for seed in range(first, loss.begin + 2 if last is None else last):
        copies = maps(seed + 100) if loss.wants_pairs else None
        values.append(loss(maps(seed), copies).item())
    return values


def test_irw_by_its_formula():
    channels = (13, 20)  # 78 and 190 pairs: margins 1 and 2
    xs = maps(channels=channels)
    expected = []
    for x, margin in zip(xs, (1, 2), strict=True):
        s, c = numpy_like(x), x.shape[1]
        for image in s:
            total = sum(abs(image[i, j]) for i in range(c) for j in range(i + 1, c))
            expected.append(max(total - margin, 0) / (c * (c - 1) / 2))
    loss = InstanceWhitening(channels, selective=False, begin=0)
    assert loss(xs).item() == pytest.approx(float(sum(expected)) / 6, rel=1e-5)


def test_irw_by_hand_and_its_margin():
    """Two channels of 2 pixels, alike: the covariance is 2 / 1. White channels cost nothing."""
    loss = InstanceWhitening([2], selective=False, begin=0)
    assert loss([torch.tensor([1.0, -1, 1, -1]).view(1, 2, 1, 2)]).item() == 2
    assert loss([torch.tensor([1.0, -1, -1, 1]).view(1, 2, 1, 2)]).item() == 2
    assert loss([torch.tensor([1.0, -1, 1, -1, 1, 1, -1, -1]).view(1, 2, 2, 2)]).item() == 0
    wide = InstanceWhitening([12], selective=False, begin=0)  # 66 pairs: the margin is 1
    x = torch.zeros(1, 12, 2, 2)
    x[0, :2] = torch.tensor([[1.0, -1], [0, 0]])  # one covariance of 2 / 3
    assert wide([x]).item() == 0
    x[0, :3] = torch.tensor([[1.0, -1], [0, 0]])  # three of them
    assert wide([x]).item() == pytest.approx((2 - 1) / 66)


@pytest.mark.parametrize("selective", [False, True])
def test_before_begin_the_loss_is_zero_with_a_graph(selective):
    loss = InstanceWhitening(CHANNELS, selective, begin=3, collect=1)
    for seed in range(5):
        xs = [x.requires_grad_() for x in maps(seed)]
        if seed == 0:
            xs[0].data[0, 0, 0, 0] = math.nan
        value = loss(xs, maps(9) if loss.wants_pairs else None)
        value.backward()
        assert value.dtype == torch.float32 and value.shape == ()
        assert value > 0 if seed >= 3 else value == 0
        assert all((x.grad.abs().sum() > 0) == (seed >= 3) for x in xs)
    assert loss.step == 5


def test_pairs_are_wanted_in_the_forwards_that_collect_and_counted_in_training_only():
    loss = InstanceWhitening(CHANNELS, True, begin=4, collect=2)
    wanted = []
    for seed in range(6):
        wanted.append(loss.wants_pairs)
        loss.eval()
        assert not loss.wants_pairs
        before = {name: b.clone() for name, b in loss.named_buffers()}
        loss(maps(50))
        assert all(torch.equal(b, before[name]) for name, b in loss.named_buffers())
        loss.train()
        loss(maps(seed), maps(seed + 100) if wanted[-1] else None)
    assert wanted == [False, False, True, True, False, False]
    assert loss.count == 6
    assert not InstanceWhitening(CHANNELS, False, begin=4, collect=2).wants_pairs


def test_isw_by_its_definition():
    loss = InstanceWhitening(CHANNELS, True, begin=3, collect=2, clusters=2)
    values = collected(loss)
    assert values[:3] == [0, 0, 0]
    expected = []
    for layer, x in enumerate(maps(3)):
        c = x.shape[1]
        variance = torch.zeros(c, c, dtype=torch.float64)
        for seed in (1, 2):
            both = torch.stack([numpy_like(maps(s)[layer]) for s in (seed, seed + 100)])
            variance += both.var(0, correction=0).sum(0) / 6
        flat = variance.triu(1).flatten()
        sensitive = variance.triu(1) > brute_force(flat, 2)
        assert torch.equal(loss.get_buffer(f"mask_{layer}"), sensitive)
        assert 0 < sensitive.sum() < c * (c - 1) / 2
        expected.append((numpy_like(x).abs() * sensitive).sum((1, 2)).mean() / sensitive.sum())
    assert values[3] == pytest.approx(sum(expected).item() / 2, rel=1e-5)


def brute_force(values, clusters):
    """Top of the lowest cluster over all cuts of the sorted values."""
    x = values.double().sort().values
    best = (math.inf, 0.0)
    for cuts in itertools.combinations(range(1, len(x)), clusters - 1):
        bounds = [0, *cuts, len(x)]
        parts = [x[a:b] for a, b in itertools.pairwise(bounds)]
        best = min(best, (sum((p - p.mean()).square().sum().item() for p in parts), parts[0][-1]))
    return float(best[1])


@pytest.mark.parametrize("clusters", [2, 3, 4])
def test_k_means_finds_the_optimum(clusters):
    generator = torch.Generator().manual_seed(clusters)
    for size in range(5, 13):
        for power in (1, 3, 8):
            values = torch.rand(size, generator=generator).double() ** power
            assert lowest_cluster(values, clusters) == brute_force(values, clusters)


def test_k_means_by_hand():
    assert lowest_cluster(torch.tensor([1, 2, 10, 11, 30, 31]), 3) == 2
    assert lowest_cluster(torch.tensor([[1, 2], [10, 30]]), 2) == 10
    # 0 | 2, 3.5 costs 1.125 and 0, 2 | 3.5 costs 2; with ten of 3.5 the first costs 2.05
    assert lowest_cluster(torch.tensor([0.0, 2, 3.5]), 2) == 0
    assert lowest_cluster(torch.tensor([0.0, 2, 3.5] + 9 * [0.0]), 2) == 0
    assert lowest_cluster(torch.tensor([0.0, 2, 3.5] + 9 * [3.5]), 2) == 2
    assert lowest_cluster(torch.tensor([0.0, 1.75] + 9 * [4.0]), 2) == 1.75
    assert (
        lowest_cluster(torch.tensor(99 * [0.0] + [1.0, 1.0]), 3) == 0
    )  # fewer values: each its own
    assert lowest_cluster(torch.full((4, 4), 7.0), 3) == 7
    far = 1e9 + torch.tensor([1, 2, 10, 11, 30, 31]).double()  # squares keep no digit of these
    assert lowest_cluster(far, 3) == 1e9 + 2


def test_k_means_of_many_values_splits_where_no_neighbour_is_better():
    """Beyond brute force: the optimum for two clusters by trying every cut."""
    x = torch.rand(3000, generator=torch.Generator().manual_seed(0)).double().pow(4).sort().values
    n, s, q = torch.arange(1, 3000), x.cumsum(0), (x * x).cumsum(0)
    left = q[:-1] - s[:-1] ** 2 / n
    right = (q[-1] - q[:-1]) - (s[-1] - s[:-1]) ** 2 / (3000 - n)
    assert lowest_cluster(x, 2) == x[(left + right).argmin()].item()


def test_the_pair_of_channels_that_follows_the_colours_is_found():
    """Channels 1 and 4 agree in the image and disagree in its copy; the rest hardly changes."""
    loss = InstanceWhitening([6], True, begin=2, collect=2, clusters=2)
    for _ in range(2):
        x = torch.randn(3, 6, 16, 16)
        y = x + 0.1 * torch.randn_like(x)
        x[:, 4], y[:, 4] = x[:, 1], -y[:, 1]
        loss([F.instance_norm(x)], [F.instance_norm(y)])
    assert loss.mask_0.nonzero().tolist() == [[1, 4]]
    (x,) = maps(7, channels=(6,))
    expected = numpy_like(x)[:, 1, 4].abs().mean().item()
    assert loss([x]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("channels", [(6, 4), (1, 1)])
def test_copies_that_change_nothing_leave_no_entry_and_no_loss(channels):
    loss = InstanceWhitening(channels, True, begin=1, collect=1)
    xs = maps(channels=channels)
    loss(xs, xs)
    assert loss.mask_0.sum() == loss.mask_1.sum() == 0
    xs = [x.requires_grad_() for x in maps(1, channels=channels)]
    value = loss(xs)
    value.backward()
    assert value == 0 and all(torch.equal(x.grad, torch.zeros_like(x)) for x in xs)


def test_an_image_that_overflowed_is_not_collected():
    clean, dirty = (InstanceWhitening(CHANNELS, True, begin=1, collect=1) for _ in range(2))
    xs, copies = maps(0), maps(100)
    clean([x[:2] for x in xs], [x[:2] for x in copies])
    copies[1][2] = math.nan
    dirty(xs, copies)
    assert dirty.count == 2
    for name, buffer in clean.named_buffers():
        torch.testing.assert_close(dirty.get_buffer(name), buffer, rtol=1e-6, atol=0)


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 5, 6])
def test_interrupted_anywhere_it_goes_on_to_equal_losses(stop, tmp_path):
    args = (CHANNELS, True, 5, 3)
    straight = collected(InstanceWhitening(*args))
    loss = InstanceWhitening(*args)
    losses = collected(loss, last=stop)
    torch.save(loss.state_dict(), tmp_path / "state.pt")
    again = InstanceWhitening(*args)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert losses + collected(again, first=stop) == straight
    assert not list(loss.parameters())


@pytest.mark.parametrize("selective", [False, True])
def test_gradient_in_float64(selective):
    loss = InstanceWhitening(CHANNELS, selective, begin=1, collect=1, clusters=2)
    doubles = maps(dtype=torch.float64, images=2, size=(3, 2))
    loss(doubles, maps(5, dtype=torch.float64, images=2, size=(3, 2)))
    loss.eval()
    xs = [x.requires_grad_() for x in doubles]
    assert loss(xs).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda *xs: loss(xs), xs)


def test_the_gradient_does_not_enter_the_statistics():
    loss = InstanceWhitening(CHANNELS, True, begin=1, collect=1)
    loss([x.requires_grad_() for x in maps(0)], [x.requires_grad_() for x in maps(1)])
    assert not loss.variance_0.requires_grad


def test_half_precision_maps_give_covariances_in_float32():
    for dtype in (torch.float16, torch.bfloat16):
        (x,) = maps(dtype=dtype, channels=(6,), size=(64, 64))
        with torch.autocast("cpu", torch.bfloat16):
            s = covariance(x)
            half = InstanceWhitening([6], False, begin=0)([x])
        assert s.dtype == half.dtype == torch.float32
        torch.testing.assert_close(s.double(), numpy_like(x), rtol=1e-5, atol=1e-5)


PROCESS = """
    import sys, torch, torch.distributed as dist
    from ibnvision.methods.whitening import InstanceWhitening
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    loss = InstanceWhitening([6, 4], True, begin=2, collect=2)
    for xs, copies in torch.load(f"{folder}/{rank}.pt"):
        loss(xs, copies)
    torch.save(loss.state_dict(), f"{folder}/{rank}_state.pt")
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_collect_what_one_would_from_all_images(tmp_path):
    steps = [(maps(seed, images=5), maps(seed + 100, images=5)) for seed in range(2)]
    for rank, part in ((0, slice(0, 2)), (1, slice(2, 5))):  # 2 and 3 images
        mine = [tuple([x[part].clone() for x in xs] for xs in step) for step in steps]
        torch.save(mine, tmp_path / f"{rank}.pt")
    script, root = textwrap.dedent(PROCESS), Path(__file__).parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(rank), str(tmp_path)], cwd=root)
        for rank in (0, 1)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    alone = InstanceWhitening(CHANNELS, True, begin=2, collect=2)
    for xs, copies in steps:
        alone(xs, copies)
    states = [torch.load(tmp_path / f"{rank}_state.pt") for rank in (0, 1)]
    assert states[0]["count"] == 10
    for name, buffer in alone.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], buffer, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"channels": []}, r"channels must hold the width of each map, got \[\]"),
        ({"channels": [4, 0]}, r"channels must hold .* got \[4, 0\]"),
        ({"begin": -1, "selective": False}, "begin must be at least 0, got -1"),
        ({"collect": 0}, r"collect must lie in \[1, begin=3\], got 0"),
        ({"collect": 4}, r"collect must lie in \[1, begin=3\], got 4"),
        ({"clusters": 1}, "clusters must be at least 2, got 1"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    good = {"channels": [4], "selective": True, "begin": 3, "collect": 2}
    with pytest.raises(ValueError, match=message):
        InstanceWhitening(**{**good, **kwargs})


def test_maps_and_copies_must_fit():
    loss = InstanceWhitening(CHANNELS, True, begin=1, collect=1)
    for wrong in (
        maps()[:1],
        maps()[::-1],
        [x[0] for x in maps()],
        [x[:, :, :1, :1] for x in maps()],
        [maps()[0], maps()[1][:2]],
    ):
        with pytest.raises(ValueError, match=r"maps must be \[N, C, H, W\] .* channels=\[6, 4\]"):
            loss(wrong, wrong)
    with pytest.raises(ValueError, match="copies must be given for forwards 0 to 0 .* got None"):
        loss(maps())
    with pytest.raises(ValueError, match=r"copies must .* got \[\[2, 6, 7, 5\], \[2, 4, 7, 5\]\]"):
        loss(maps(), maps(images=2))
    assert loss.step == 0 and loss.count == 0
