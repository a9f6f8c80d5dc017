"""lambda_attention: dense masks, published numbers, geometry, memory and bad input."""

import json
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from lambda_cases import CASES, dense_attention, make_case, result_and_gradients

from ibnvision.benchmark.live_bytes import LiveBytes
from ibnvision.ops import lambda_attention, reference_ops, why_no_kernel
from ibnvision.ops._kernels import C
from ibnvision.ops.lambda_attention import alibi_table, example_inputs
from ibnvision.testing import DEVICES, assert_close

pytestmark = pytest.mark.filterwarnings("ignore:lambda_attention runs as plain PyTorch")
GOLDEN = Path(__file__).parent / "golden/lambda_attention"
each_case = pytest.mark.parametrize("name", CASES)
HALF = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def truth(name, dtype):
    """The dense mask in float64 on the numbers that `dtype` holds, and a gradient for it."""
    tensors, options = make_case(name, dtype)
    d_out = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    wide = {k: v.double() if torch.is_tensor(v) else v for k, v in options.items()}
    exact = tuple(t.double() for t in tensors)
    return tensors, options, d_out, result_and_gradients(dense_attention, exact, wide, d_out)


@each_case
def test_definition_equals_the_dense_mask(name):
    tensors, options, d_out, expected = truth(name, torch.float64)
    with reference_ops():
        actual = result_and_gradients(lambda_attention, tensors, options, d_out)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(actual[key], value)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_kernel_equals_the_dense_mask(name, dtype, device):
    tensors, options, d_out, expected = truth(name, dtype)
    there = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
    tensors = tuple(t.to(device) for t in tensors)
    actual = result_and_gradients(lambda_attention, tensors, there, d_out.to(device))
    for key, value in expected.items():
        scale = max(1.0, value.abs().max().item()) if value.numel() else 1.0
        assert_close(actual[key].cpu().double() / scale, value / scale, dtype)


@each_case
@pytest.mark.skipif(C is None, reason="no library")
@pytest.mark.parametrize("variant", C.build_info()["cpu_variants"] if C else [])
def test_every_instruction_set(name, variant):
    active = C.build_info()["capability"]
    try:
        C.set_cpu_capability(variant)
    except ValueError:
        pytest.skip(f"this processor lacks {variant}")
    try:
        test_kernel_equals_the_dense_mask(name, torch.float32, "cpu")
    finally:
        C.set_cpu_capability(active)


def turned(x, positions, theta):
    """x with its halves turned by position: the rotary form of the recorded case."""
    half = x.shape[-1] // 2
    angle = positions[:, None] * theta ** (-2.0 * torch.arange(half) / x.shape[-1])
    a, b, c, s = x[..., :half], x[..., half:], angle.cos().to(x), angle.sin().to(x)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def recorded_call(spec, q, k, v, table):
    """The operator with the arguments that a recorded case names."""
    if spec["kind"] == "2d":
        grid, window = (spec["GH"], spec["GW"]), (spec["wy"], spec["wx"])
        return lambda_attention(
            q, k, v, prefix=spec["P"], grid=grid, window=window, bias_table=table
        )
    options = dict(prefix=spec["n_global"], window=spec["n_local"], causal=True)
    if "rope_theta" in spec:
        at, theta = torch.arange(q.shape[2]).double(), spec["rope_theta"]
        limit = torch.full_like(at, spec["limit"])
        options |= dict(q_prefix=turned(q, limit, theta), k_prefix=k[:, :, : spec["n_global"]])
        q, k = turned(q, at, theta), turned(k, at, theta)
    return lambda_attention(q, k, v, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_answers(path, dtype):
    recorded = json.loads(path.read_text())
    spec, shape = recorded["spec"], recorded["shape"]
    noise = numpy.random.RandomState(spec["seed"])
    q, k, v, w = (torch.from_numpy(noise.randn(*shape)).to(dtype) for _ in range(4))
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = recorded_call(spec, *leaves, None)
    found = (out, *torch.autograd.grad(out, leaves, w))
    for name, got in zip(("out", "dq", "dk", "dv"), found, strict=True):
        want = torch.tensor(recorded[name], dtype=torch.float64).view(shape)
        limit = 1e-4 * want.abs() + 1e-5 * want.abs().max()
        assert ((got.double() - want).abs() <= limit).all(), name


def test_window_over_the_grid_is_dense_attention():
    q, k, v = example_inputs(2, 3, 7, 6, size=32, prefix=5)
    out = lambda_attention(q, k, v, prefix=5, grid=(7, 6), window=13)
    assert_close(out, F.scaled_dot_product_attention(q, k, v))


def test_short_causal_sequence_is_dense_causal_attention():
    q, k, v = example_inputs(2, 3, 20, size=32)
    out = lambda_attention(q, k, v, prefix=4, window=20, causal=True)
    assert_close(out, F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_what_lies_beyond_the_window_does_not_matter():
    q, k, v = (t.clone() for t in example_inputs(1, 2, 12, 12, size=16, prefix=2))
    before = lambda_attention(q, k, v, prefix=2, grid=(12, 12), window=5)
    k[:, :, 2 + 12 * 9 :], v[:, :, 2 + 12 * 9 :] = 1e4, 1e4  # rows 9 and behind
    after = lambda_attention(q, k, v, prefix=2, grid=(12, 12), window=5)
    assert torch.equal(before[:, :, 2 : 2 + 12 * 7], after[:, :, 2 : 2 + 12 * 7])
    assert not torch.equal(before[:, :, 2 + 12 * 7 :], after[:, :, 2 + 12 * 7 :])
    assert not torch.equal(before[:, :, :2], after[:, :, :2])  # the prefix sees all


def test_alibi_on_a_grid_is_a_table():
    q, k, v = example_inputs(1, 2, 8, 9, size=16, prefix=1)
    slopes = torch.tensor([0.5, 0.25])
    options = dict(prefix=1, grid=(8, 9), window=(5, 7))
    by_slopes = lambda_attention(q, k, v, alibi_slopes=slopes, limit=2.0, **options)
    table = alibi_table(slopes, (5, 7), 2.0)
    assert table[0, 2, 3] == 0 and table[0, 2, 4] == -0.5 and table[1, 0, 0] == -0.5
    assert torch.equal(by_slopes, lambda_attention(q, k, v, bias_table=table, **options))


def test_scores_of_hundreds_overflow_nothing():
    q, k, v = (60 * t for t in example_inputs(1, 2, 10, 10, size=64, prefix=3))
    options = dict(prefix=3, grid=(10, 10), window=5)
    exact = dense_attention(q.double(), k.double(), v.double(), **options)
    assert ((lambda_attention(q, k, v, **options) - exact).abs() <= 1e-4 * 60).all()


@pytest.mark.parametrize("broken", ["q", "k", "v"])
def test_what_is_not_a_number_is_not_hidden(broken):
    q, k, v = (t.clone() for t in example_inputs(1, 2, 40, 12, size=16, prefix=2))
    {"q": q, "k": k, "v": v}[broken][0, 1, 2 + 12 * 6 + 5, 3] = torch.nan  # row 6, column 5
    out = lambda_attention(q, k, v, prefix=2, grid=(40, 12), window=5)
    patches = out[0, :, 2:].unflatten(1, (40, 12))
    assert patches[1, 6, 5].isnan().any()
    if broken != "q":
        assert patches[1, 4:9, 3:8].isnan().any(-1).all() and out[0, 1, :2].isnan().any(-1).all()
    assert patches[0].isfinite().all() and patches[1, 30:].isfinite().all()


@pytest.mark.skipif(C is None, reason="no library")
def test_equal_runs_give_equal_bits():
    tensors, options = make_case("grid_bias", torch.float32)
    d_out = torch.randn(tensors[0].shape)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            runs.append(result_and_gradients(lambda_attention, tensors, options, d_out))
    finally:
        torch.set_num_threads(threads)
    for key, value in runs[0].items():
        assert all(torch.equal(value, other[key]) for other in runs[1:]), key


def test_memory_grows_with_the_tokens_not_their_square():
    kept = {}
    for side in (16, 32):
        q, k, v = (t.requires_grad_() for t in example_inputs(1, 2, side, side, size=16))
        with LiveBytes() as live:
            lambda_attention(q, k, v, prefix=3, grid=(side, side), window=5).sum().backward()
        kept[side] = live.peak
    assert kept[32] < 4.2 * kept[16]


def test_autocast_takes_its_dtype():
    q, k, v = example_inputs(1, 2, 6, 6, size=16)
    with torch.autocast("cpu", torch.bfloat16):
        assert lambda_attention(q, k, v, prefix=3, grid=(6, 6), window=3).dtype == torch.bfloat16
        wide = [t.double() for t in (q, k, v)]
        assert lambda_attention(*wide, prefix=3, grid=(6, 6), window=3).dtype == torch.float64


def test_kernel_says_that_it_has_no_float64():
    assert "float64" in why_no_kernel("lambda_attention_forward", torch.empty(0).double()) or (
        C is None
    )


BAD = {
    "q must be [B, heads, N, D], got shape (2, 3, 4)": lambda a: a.update(q=torch.ones(2, 3, 4)),
    "head size of q must be a multiple of 8, got 12": lambda a: a.update(
        {n: torch.ones(1, 2, 28, 12) for n in "qkv"}
    ),
    "prefix must lie in [0, N=28], got 29": lambda a: a.update(prefix=29),
    "k must have the shape of q, (1, 2, 28, 16), got (1, 2, 27, 16)": lambda a: a.update(
        k=torch.ones(1, 2, 27, 16)
    ),
    "grid must be (H, W) with prefix + H * W = N, got (5, 6) with prefix 3 and N 28": (
        lambda a: a.update(grid=(5, 6))
    ),
    "window on a grid must be odd, got (4, 4)": lambda a: a.update(window=4),
    "window must be at least 1, got (0, 0)": lambda a: a.update(window=0),
    "window of a sequence must be one number, got (3, 5)": lambda a: a.update(
        grid=None, window=(3, 5)
    ),
    "causal belongs to a sequence: grid must be None, got (5, 5)": lambda a: a.update(causal=True),
    "bias_table must have shape [2, 3, 3], got (2, 5, 5)": lambda a: a.update(
        bias_table=torch.ones(2, 5, 5)
    ),
    "bias_table belongs to a grid": lambda a: a.update(
        grid=None, causal=True, bias_table=torch.ones(2, 3, 3)
    ),
    "alibi_slopes must have shape [2], got (3,)": lambda a: a.update(alibi_slopes=torch.ones(3)),
    "alibi_slopes must not require a gradient": lambda a: a.update(
        alibi_slopes=torch.ones(2, requires_grad=True)
    ),
    "limit must be at least 0, got -1.0": lambda a: a.update(limit=-1),
    "q_prefix must have the shape of q": lambda a: a.update(q_prefix=torch.ones(1, 2, 3, 16)),
    "k_prefix must have shape [1, 2, 3, 16], got (1, 2, 4, 16)": lambda a: a.update(
        k_prefix=torch.ones(1, 2, 4, 16)
    ),
}
WRONG_TYPE = {
    "q must be float32, float16, bfloat16 or float64, got torch.int64": lambda a: a.update(
        q=torch.ones(1, 2, 28, 16, dtype=torch.int64)
    ),
    "v must have the dtype of q, torch.float32, got torch.bfloat16": lambda a: a.update(
        v=torch.ones(1, 2, 28, 16, dtype=torch.bfloat16)
    ),
}


@pytest.mark.parametrize("message", [*BAD, *WRONG_TYPE])
def test_bad_arguments(message):
    q, k, v = example_inputs(1, 2, 5, 5, size=16, prefix=3)
    arguments = dict(q=q, k=k, v=v, prefix=3, grid=(5, 5), window=3)
    (BAD | WRONG_TYPE)[message](arguments)
    with pytest.raises(ValueError if message in BAD else TypeError) as error:
        lambda_attention(**arguments)
    assert message in str(error.value)
