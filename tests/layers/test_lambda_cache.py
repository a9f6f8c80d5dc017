import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ibnvision.layers import LambdaCache, lambda_decode
from ibnvision.layers.lambda_cache import rotate
from ibnvision.ops import lambda_attention
from ibnvision.testing import assert_close

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lambda_sequence.json").read_text())
SLOPES = torch.tensor([0.5, 0.25])
POSITIONS = {
    "none": {},
    "alibi": {"alibi_slopes": SLOPES},
    "alibi_limit": {"alibi_slopes": SLOPES, "limit": 6},
    "rope": {"rope_theta": 100.0},
    "rope_limit": {"rope_theta": 100.0, "limit": 5},
    "rope_pairs": {"rope_theta": 100.0, "rope_half": False},
}
CHUNKS = {"tokens": [1] * 40, "prompt": [17] + [1] * 23, "chunks": [2, 5, 20, 1, 12], "one": [40]}


def draw(tokens: int = 40, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 2, 2, tokens, 16, generator=generator, dtype=torch.float64).to(dtype)
    return q, k, v


def decode(tensors: tuple[Tensor, ...], chunks: list[int], **options) -> Tensor:
    cache = LambdaCache(**options)
    parts = zip(*(t.split(chunks, 2) for t in tensors), strict=True)
    return torch.cat([lambda_decode(*part, cache) for part in parts], 2)


def by_definition(q: Tensor, k: Tensor, v: Tensor, window: int, prefix: int, **options) -> Tensor:
    """Pair by pair: each query alone, its keys turned to their distances."""
    theta, half = options.get("rope_theta"), options.get("rope_half", True)
    limit = options.get("limit", window if theta else 10**6)
    rows = []
    for i in range(q.shape[2]):
        seen = [j for j in range(i + 1) if j < prefix or i - j < window]
        apart = torch.tensor([i - j for j in seen])
        if theta:
            apart[apart >= window] = limit
            turned = rotate(q[:, :, i : i + 1].expand(-1, -1, len(seen), -1), apart, theta, half)
        else:
            turned = q[:, :, i : i + 1]
        scores = (turned * k[:, :, seen]).sum(-1) * q.shape[3] ** -0.5
        if "alibi_slopes" in options:
            scores = scores - SLOPES.double()[:, None] * apart.clamp(max=limit)
        rows.append(torch.softmax(scores, -1)[:, :, None] @ v[:, :, seen])
    return torch.cat(rows, 2)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("window", "prefix"), [(7, 3), (4, 9), (1, 2), (64, 3), (5, 0)])
def test_decoding_equals_the_whole_sequence_and_the_definition(positions, window, prefix):
    options = {"window": window, "prefix": prefix} | POSITIONS[positions]
    tensors = draw()
    expected = by_definition(*tensors, **options)
    for chunks in CHUNKS.values():
        assert_close(decode(tensors, chunks, **options), expected)


@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_answers(name):
    case = GOLDEN[name]
    spec = case["spec"]
    drawn = np.random.RandomState(spec["seed"])
    q, k, v, w = (torch.from_numpy(drawn.randn(*case["shape"])) for _ in range(4))
    options = {"window": spec["n_local"], "prefix": spec["n_global"]}
    if "rope_theta" in spec:
        options |= {"rope_theta": spec["rope_theta"], "limit": spec["limit"]}
    for chunks in ([40], [1] * 40, [13, 1, 26]):
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        out = decode(tuple(leaves), chunks, **options)
        (out * w).sum().backward()
        found = {"out": out, **{f"d{n}": t.grad for n, t in zip("qkv", leaves, strict=True)}}
        for key, value in found.items():
            assert_close(
                value.detach().flatten()[::7], torch.tensor(case[key], dtype=torch.float64)
            )


def test_equals_the_operator_in_every_dtype():
    for dtype in (torch.float32, torch.bfloat16):
        tensors = draw(dtype=dtype)
        whole = lambda_attention(*tensors, prefix=3, window=7, causal=True)
        step = decode(tensors, [1] * 40, window=7, prefix=3)
        assert step.dtype == dtype
        assert_close(step, whole)


def test_memory_does_not_grow():
    cache = LambdaCache(window=8, prefix=3, rope_theta=1e4)
    sizes = set()
    for step in range(60):
        q, k, v = draw(1, torch.float32)
        lambda_decode(q, k, v, cache)
        if step >= 20:
            sizes.add(sum(t.untyped_storage().nbytes() for t in (*cache.first, *cache.last)))
    assert cache.seen == 60 and len(sizes) == 1
    assert cache.first[0].shape[2] == 3 and cache.last[0].shape[2] == 7
    long = LambdaCache(window=8, prefix=3)
    lambda_decode(*draw(500), long)
    kept = sum(t.untyped_storage().nbytes() for t in (*long.first, *long.last))
    assert kept == 2 * 2 * 2 * 16 * 8 * (3 + 7)


def test_positions_stay_exact_far_out():
    """A window a hundred million tokens away looks like one at the start."""
    tensors = draw(20, torch.float32)
    options = {"window": 6, "prefix": 2, "rope_theta": 1e4}
    near, far = LambdaCache(**options), LambdaCache(**options)
    for cache in (near, far):
        lambda_decode(*(t[:, :, :10] for t in tensors), cache)
    far.seen += 100_000_000
    a, b = (lambda_decode(*(t[:, :, 10:] for t in tensors), c) for c in (near, far))
    assert torch.equal(a, b)


def test_bad_arguments():
    for options, message in (
        ({"window": 0, "prefix": 1}, "window must be at least 1, got 0"),
        ({"window": 2, "prefix": -1}, "prefix must be at least 0"),
        ({"window": 2, "prefix": 1, "limit": -2}, "limit must be at least 0"),
        (
            {"window": 2, "prefix": 1, "rope_theta": 10.0, "alibi_slopes": SLOPES},
            "must not come together",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            LambdaCache(**options)
    q, k, v = draw(4)
    cache = LambdaCache(3, 1)
    with pytest.raises(ValueError, match="of one shape"):
        lambda_decode(q, k[:, :1], v, cache)
    lambda_decode(q, k, v, cache)
    with pytest.raises(ValueError, match="must go with the cache's"):
        lambda_decode(q[:1], k[:1], v[:1], cache)
