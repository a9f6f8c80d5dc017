"""The emulator itself: indices, warp primitives, poisoned memory, schedules, reported mistakes."""

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

Run = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def run(build_on_cpu) -> Run:
    library = build_on_cpu("emulator_kernels.cpp")

    def run(kernel: str, size: int, dtype: type = np.int32, seed: int = 0) -> np.ndarray:
        out = np.zeros(size, dtype)
        error = ctypes.create_string_buffer(500)
        address = ctypes.c_void_p(out.ctypes.data)
        name, limit = kernel.encode(), ctypes.c_uint64(500)
        if library.run_kernel(name, ctypes.c_uint64(seed), address, error, limit):
            raise RuntimeError(error.value.decode())
        return out

    return run


def test_every_thread_has_its_own_index(run: Run) -> None:
    found = run("indices", 12 * 30).reshape(12, 30)
    assert np.array_equal(found, 1000 * np.arange(12)[:, None] + np.arange(30))


@pytest.mark.parametrize("seed", range(5))
def test_warp_primitives(run: Run, seed: int) -> None:
    total, prefix, ballot, votes, swapped = np.split(run("warp", 144, seed=seed), [32, 64, 96, 128])
    lanes = np.arange(32)
    assert (total == 496).all()
    assert np.array_equal(prefix, np.cumsum(lanes))
    assert (ballot.view(np.uint32) == sum(1 << lane for lane in range(0, 32, 3))).all()
    assert (votes == 2).all()
    assert np.array_equal(swapped, lanes[:16] ^ 1)


def test_each_block_finds_nan_in_shared_memory(run: Run) -> None:
    assert np.isnan(run("poison", 8, np.float32)).all()


def test_the_seed_draws_the_order(run: Run) -> None:
    orders = [run("order", 161, seed=seed)[1:] for seed in (0, 0, 1)]
    assert all(np.array_equal(np.sort(order), np.arange(160)) for order in orders)
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], np.arange(160))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("divergent", r"divergent barrier in block \(0, 0, 0\): thread \(\d, 0, 0\) waits"),
        ("two barriers", r"divergent barrier in block .* waits at line \d+ .* waits at line \d+"),
        ("missing lane", r"divergent barrier .* for its warp, thread \(3, 0, 0\) has ended"),
        ("foreign mask", "whose mask lacks it"),
    ],
)
def test_a_mistake_is_reported(run: Run, kernel: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(kernel, 32)


def test_a_lane_outside_the_mask_gives_nan(run: Run) -> None:
    found = run("unnamed lane", 32, np.float32)
    assert np.isnan(found[:16]).all()
    assert (found[16:] == 0).all()
