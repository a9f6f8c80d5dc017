"""The emulator itself: indices, warp primitives, memory, schedules, and each mistake reported."""

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

Run = Callable[..., np.ndarray]
SEEDS = range(5)


def _call(function: Callable[..., int], kernel: str, out: np.ndarray, *flags: object) -> np.ndarray:
    error = ctypes.create_string_buffer(2000)
    address = ctypes.c_void_p(out.ctypes.data)
    if function(kernel.encode(), *flags, address, error, ctypes.c_uint64(2000)):
        raise RuntimeError(error.value.decode())
    return out


@pytest.fixture(scope="module", params=["", "EMULATOR_UCONTEXT"], ids=["boost", "ucontext"])
def defines(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return (request.param,) if request.param else ()


@pytest.fixture(scope="module")
def run(build_on_cpu, defines: tuple[str, ...]) -> Run:
    library = build_on_cpu("emulator_kernels.cpp", defines=defines)

    def run(
        kernel: str, size: int, dtype: type = np.int32, seed: int = 0, ended_pass: bool = False
    ) -> np.ndarray:
        flags = ctypes.c_uint64(seed), ctypes.c_bool(ended_pass)
        return _call(library.run_kernel, kernel, np.zeros(size, dtype), *flags)

    return run


def test_every_thread_has_its_own_index(run: Run) -> None:
    found = run("indices", 12 * 30).reshape(12, 30)
    assert np.array_equal(found, 1000 * np.arange(12)[:, None] + np.arange(30))


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_primitives(run: Run, seed: int) -> None:
    rows = run("warp", 256, seed=seed).reshape(8, 32)
    total, prefix, ballot, votes, swapped, broadcast, down, up = rows
    lanes = np.arange(32)
    assert (total == 496).all()
    assert np.array_equal(prefix, np.cumsum(lanes))
    assert (ballot.view(np.uint32) == sum(1 << lane for lane in range(0, 32, 3))).all()
    assert (votes == 2).all()
    assert np.array_equal(swapped, np.where(lanes < 16, lanes ^ 1, -1))
    assert np.array_equal(broadcast, lanes // 8 * 8 + 3)
    assert np.array_equal(down, np.where(lanes % 8 < 5, lanes + 3, lanes))
    assert np.array_equal(up, np.where(lanes % 8 < 3, lanes, lanes - 3))


@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_that_meet_more_often_mix_nothing_up(run: Run, seed: int) -> None:
    values = 31 - np.arange(32)
    values[0], values[1] = 31 * 100 + 11, 30 * 100 + 10
    assert np.array_equal(run("uneven", 32, seed=seed), values[np.arange(32) // 2])


@pytest.mark.parametrize("seed", SEEDS)
def test_votes_of_a_block(run: Run, seed: int) -> None:
    assert (run("votes", 70, seed=seed) == 24 * 10000 + 1010).all()


def test_each_block_finds_nan_in_shared_memory(run: Run) -> None:
    assert np.isnan(run("poison", 64, np.float32)).all()


def test_the_seed_draws_the_order(run: Run) -> None:
    orders = [run("order", 161, seed=seed)[1:] for seed in (0, 0, 1)]
    assert all(np.array_equal(np.sort(order), np.arange(160)) for order in orders)
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], np.arange(160))


def test_a_lane_outside_the_mask_gives_nan(run: Run) -> None:
    found = run("unnamed lane", 32, np.float32)
    assert np.isnan(found[:16]).all()
    assert (found[16:] == 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_atomic_updates_of_every_type(run: Run, seed: int) -> None:
    threads = 3 * 70
    expected = [-threads, 2 * threads, threads, threads / 2, threads / 4, 2 * threads]
    found = run("atomics", 7, np.float64, seed=seed)
    assert np.array_equal(found[:6], expected)
    assert found[6] == 3 * (2 * 70 + 0.5 * 70)  # small enough for bfloat16


@pytest.mark.parametrize("seed", SEEDS)
def test_ordered_accesses_are_no_race(run: Run, seed: int) -> None:
    threads = np.arange(64)
    lanes = threads % 32
    expected = threads // 32 * 32 + (lanes + 1) % 32
    expected += 1000 * np.where((lanes >= 5) & (lanes < 16), lanes - 5, 0)
    assert np.array_equal(run("ordered", 64, seed=seed), expected)


def test_a_declared_exchange_within_a_warp_is_no_race(run: Run) -> None:
    assert (run("declared", 32) == 7).all()


def test_threads_that_ended_pass_a_barrier_only_where_told(run: Run) -> None:
    assert run("early end", 64, ended_pass=True).tolist() == [1] * 40 + [0] * 24
    with pytest.raises(RuntimeError, match=r"divergent barrier: .* has ended, in block"):
        run("early end", 64)


PLACE = r"emulator_mistakes.cpp:\d+"
RACE = rf"race on shared memory: thread \(.*\) {{}} at {PLACE}, thread \(.*\) {{}} at {PLACE}, no"
EITHER = "(?:reads|writes)"
MISTAKES = {
    "divergent": rf"thread \(\d, 0, 0\) waits at {PLACE} for its block, but .* has ended, in block",
    "two barriers": rf"divergent barrier: .* waits at {PLACE} .* but .* waits at {PLACE} .*",
    "block and warp": "waits at .* of its warp, but .* for its block, in block",
    "ended lane": r"of its warp, but thread \(3, 0, 0\) has ended, in block \(0, 0, 0\)",
    "foreign mask": "whose mask 0x0000ffff lacks its lane",
    "unequal masks": "for lanes 0xffffffff of its warp, but .*",
    "unequal lines": rf"waits at {PLACE} .* but thread \(9, 0, 0\) waits at {PLACE}|9, 0, 0.* but",
    "active mask": "pass a mask",
    "width": "width of a shuffle must be a power of two up to 32, got 12",
    "misaligned load": "misaligned __ldg of 8 bytes",
    "load of shared": "__ldg of global memory got shared memory",
    "too much shared": "232448 bytes of shared memory, got 307200",
    "too many threads": r"1 to 1024 threads .* got \(1025, 1, 1\)",
    "no block": r"a grid must have .* got \(0, 1, 1\)",
    "write, read": RACE.format(EITHER, EITHER),
    "write, write": RACE.format("writes", "writes"),
    "read, write": RACE.format(EITHER, EITHER),
    "lanes": RACE.format(EITHER, EITHER),
    "half barrier": RACE.format(EITHER, EITHER),
    "warp barrier": RACE.format(EITHER, EITHER),
    "one byte": RACE.format("writes", "writes"),
    "vector": RACE.format(EITHER, EITHER),
    "copy": RACE.format(EITHER, EITHER),
    "set": RACE.format(EITHER, EITHER),
    "atomic": "race on shared memory: .*(atomically updates .* reads|reads .* atomically updates)",
    "declared": RACE.format("writes", "writes"),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kernel", MISTAKES)
def test_a_mistake_is_reported(build_on_cpu, kernel: str, seed: int, defines) -> None:
    library = build_on_cpu("emulator_mistakes.cpp", defines=defines)
    with pytest.raises(RuntimeError, match=MISTAKES[kernel]):
        _call(library.run_kernel, kernel, np.zeros(64, np.int32), ctypes.c_uint64(seed))


def test_the_lines_of_a_race_are_its_own(build_on_cpu) -> None:
    library = build_on_cpu("emulator_mistakes.cpp")
    with open(__file__.replace("test_emulator.py", "emulator_mistakes.cpp")) as source:
        lines = source.read().split("\n")
    first = 1 + next(i for i, line in enumerate(lines) if "void write_read_kernel" in line)
    with pytest.raises(RuntimeError) as raised:
        _call(library.run_kernel, "write, read", np.zeros(64, np.int32), ctypes.c_uint64(0))
    for access, line in (("writes", first + 2), ("reads", first + 3)):
        assert f"{access} at emulator_mistakes.cpp:{line}" in str(raised.value)
