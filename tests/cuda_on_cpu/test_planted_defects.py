"""Defects planted into the kernels of ibn_norm: each must be caught, and for its own reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ibn_norm_cases import Case, check
from planted import NUMBERS, OVERFLOW, Defect, assert_caught, parameters, sound_target

COMMON, MATH, PLANES, ROWS, MERGE, KERNELS = (
    "cuda_common.cuh",
    *(f"ibn_norm/ibn_norm_{name}.cuh" for name in ("math", "planes", "rows", "merge", "kernels")),
)
FLOAT32 = Path(__file__).parent / "ibn_norm_float32.cpp"
BARRIER = "  __syncthreads();\n"
TEAM = Case(shape=(2, 2, 40, 40), instance=1)  # 400 vectors: a team of 128 threads
LARGEST = Case(shape=(1, 2, 96, 96), instance=2)  # 2304 vectors: a team of 384
PIXELS = Case(shape=(2, 16, 8, 8), instance=8, channels_last=True)
ODD = Case(shape=(3, 5, 6, 7))
MASKED = Case(shape=(2, 4, 8, 8), residual="after")
MISALIGNED = Case(shape=(1, 4, 4, 4), misaligned=True)
LARGE_MEAN = Case(mean=100.0)


RACE = r"race on shared memory: thread .* at ibn_norm_\w+.cuh:\d+, .* at ibn_norm_\w+.cuh:\d+"
DEFECTS = {
    "missing barrier in a team": Defect(MATH, BARRIER, "", TEAM, RACE),
    "missing barrier between pixels": Defect(ROWS, BARRIER, "", PIXELS, RACE),
    "missing barrier in a merge": Defect(MERGE, BARRIER, "", PIXELS, RACE),
    "barrier of one half": Defect(
        MATH, BARRIER, "  if (threadIdx.x < 64) __syncthreads();\n", TEAM, "divergent barrier|race"
    ),
    "wrong shuffle mask": Defect(
        MATH, "__shfl_xor_sync(kFullWarp, a.count", "__shfl_xor_sync(0xffffu, a.count", ODD,
        "whose mask 0x0000ffff lacks its lane, at ibn_norm_math.cuh",
    ),
    "wrong shuffle delta": Defect(MATH, "int lane = 16;", "int lane = 8;", ODD, NUMBERS),
    "wrong lane in a mask byte": Defect(
        MATH, "for (int lane = 1; lane < 8 / kSize", "for (int lane = 2; lane < 16 / kSize", MASKED,
        NUMBERS,
    ),
    "wrong channel of a tile": Defect(
        MERGE, "part = warps[threadIdx.x]", "part = warps[threadIdx.x ^ 1]", PIXELS, NUMBERS
    ),
    "uninitialised shared word": Defect(
        MATH, "if (threadIdx.x % 32 == 0) warps", "if (threadIdx.x == 0) warps", TEAM, "nan"
    ),
    "missing tail of a load": Defect(
        COMMON, "i / kWords < count", "i / kWords < count - 1", ODD, NUMBERS
    ),
    "missing tail of a store": Defect(
        COMMON, "if (i < count) p[i] = narrowed[i];", "if (i < count - 1) p[i] = narrowed[i];", ODD,
        "nan",
    ),
    "wrong alignment": Defect(
        KERNELS, "all_aligned(args) && args.S %", "args.S %", MISALIGNED, "misaligned __ldg of 16"
    ),
    "sum of squares": Defect(
        PLANES, "sums.shift = total / places[u].count;", "", LARGE_MEAN, NUMBERS
    ),
    "read past the end of x": Defect(
        PLANES, "smaller(args.S - s, kSize)", "kSize", ODD, OVERFLOW, "address"
    ),
    "workspace too small": Defect(
        KERNELS, ": 3 * plan.slots", ": 2 * plan.slots", PIXELS, OVERFLOW, "address"
    ),
    "shared index out of bounds": Defect(
        MATH, "warps, kLargestTeam / 32", "warps, kLargestTeam / 64", LARGEST, OVERFLOW, "address"
    ),
    "dynamic shared memory too small": Defect(
        KERNELS, "shared = held * teams_a_block", "shared = held * teams_a_block - 16", TEAM,
        OVERFLOW, "address",
    ),
    "shift by more than a word": Defect(
        MATH, "bits <<= place.mask_shift", "bits <<= place.mask_shift + 32", MASKED,
        "runtime error: shift exponent", "address",
    ),
}  # fmt: skip


SLOW = (
    *("workspace too small", "dynamic shared memory too small"),  # as "read past the end of x"
    "missing barrier in a merge",  # as that between pixels
)


@pytest.mark.parametrize("name", parameters(DEFECTS, SLOW))
def test_a_planted_defect_is_caught(target_of: Callable[..., Any], name: str) -> None:
    assert_caught(target_of, "ibn_norm", DEFECTS[name], check, FLOAT32)


@pytest.mark.parametrize("name", parameters(DEFECTS, SLOW))
def test_the_sound_source_passes_the_same_check(target_of: Callable[..., Any], name: str) -> None:
    defect = DEFECTS[name]
    check(sound_target(target_of, "ibn_norm", defect.checks, FLOAT32), defect.case)
