"""The CUDA kernels of lambda_attention against a dense mask in float64: on the emulator with the
race detector, in a sanitized process, and on a GPU. Defects planted in them are caught."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lambda_attention_cases import Case, all_cases, check
from planted import NUMBERS, OVERFLOW, Defect, assert_caught, parameters, sound_target

OP = "lambda_attention"
BFLOAT16 = Path(__file__).parent / f"{OP}_bfloat16.cpp"
GEOMETRY, TILE, WALK, FORWARD, GRADIENTS, KERNELS = (
    f"{OP}/{OP}_{name}.cuh"
    for name in ("geometry", "tile", "walk", "forward", "gradients", "kernels")
)


@pytest.fixture(
    scope="module", params=["races", "address", pytest.param("gpu", marks=pytest.mark.gpu)]
)
def target(request: pytest.FixtureRequest, target_of: Callable[..., Any]) -> Any:
    return target_of(OP, request.param)


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_kernels_equal_the_definition(target: Any, case: Case) -> None:
    check(target, case, schedules=2)


def case(name: str, **options: Any) -> Case:
    return Case(name, torch.bfloat16, **options)


RACE = rf"race on shared memory: thread .* at {OP}_\w+.cuh:\d+, .* at {OP}_\w+.cuh:\d+"
DEFECTS = {
    "missing barrier before a chunk": Defect(
        WALK, "__syncthreads();  // all threads' copies of this chunk are there", "",
        case("grid"), "race on shared memory",
    ),
    "missing barrier behind a chunk": Defect(
        WALK, "__syncthreads();  // nobody reads what the next copies overwrite", "",
        case("grid_bias"), "race on shared memory",
    ),
    "missing barrier in a table": Defect(
        GRADIENTS, "      __syncwarp();\n", "", case("grid_bias"), RACE
    ),
    "window off by one": Defect(
        GEOMETRY, "kOwnKeys ? -plan.behind_x : -plan.before_x",
        "kOwnKeys ? -plan.behind_x : 1 - plan.before_x", case("grid"), NUMBERS,
    ),
    "window of keys not turned": Defect(
        GEOMETRY, "kOwnKeys ? plan.before_x : plan.behind_x", "plan.behind_x", case("causal"),
        NUMBERS,
    ),
    "prefix counted twice": Defect(
        GEOMETRY, "far.high_x = -distance", "far.high_x = 1 - distance", case("causal"), NUMBERS
    ),
    "halo wrapped around a row": Defect(
        GEOMETRY, "most(work.x0 + low, 0)", "work.x0 + low", case("grid"), NUMBERS
    ),
    "halo behind the last row": Defect(
        GEOMETRY, "least(y1, space.height - 1) - y + 1", "y1 - y + 1", case("grid"), OVERFLOW,
        "address",
    ),
    "wrong fragment": Defect(
        TILE, "a[i] = pack(weights[i / 2]", "a[i] = pack(weights[i % 2]", case("grid"), NUMBERS
    ),
    "columns behind the head": Defect(
        TILE, "token >= 0 && column < D", "token >= 0", case("grid"), f"{NUMBERS}|nan"
    ),
    "slots joined without their maxima": Defect(
        FORWARD, "exp2f(part[args.D] - top)", "1.0f", case("slots"), NUMBERS
    ),
    "a slot forgotten": Defect(
        GRADIENTS, "slot < merge.slots", "slot < merge.slots - 1", case("causal"), NUMBERS
    ),
    "workspace too small": Defect(
        KERNELS, "args.D + 2) * sizeof", "args.D + 1) * sizeof", case("grid"), OVERFLOW, "address"
    ),
    "shared memory too small": Defect(
        TILE, "2 * kStages * kChunkElements", "kStages * kChunkElements", case("grid"),
        "must lie in shared memory", "address",
    ),
    "wrong alignment": Defect(
        KERNELS, "!rows_are(*rows)) return false", "!rows_are(*rows)) return true",
        case("grid", misaligned=True), "the source of cp.async must be a multiple of its size",
    ),
}  # fmt: skip


SLOW = (
    *("workspace too small", "shared memory too small"),  # as "halo behind the last row"
    *("columns behind the head", "halo wrapped around a row"),  # as well
    "missing barrier in a table",  # as that before a chunk
    "slots joined without their maxima",  # as "a slot forgotten"
)


@pytest.mark.parametrize("name", parameters(DEFECTS, SLOW))
def test_a_planted_defect_is_caught(target_of: Callable[..., Any], name: str) -> None:
    assert_caught(target_of, OP, DEFECTS[name], check, BFLOAT16)


SOUND = {(defect.checks, defect.case): name for name, defect in DEFECTS.items()}
SOUND |= {(d.checks, d.case): name for name, d in DEFECTS.items() if name not in SLOW}


@pytest.mark.parametrize("name", parameters(sorted(SOUND.values()), SLOW))
def test_the_sound_source_passes_the_same_check(target_of: Callable[..., Any], name: str) -> None:
    defect = DEFECTS[name]
    check(sound_target(target_of, OP, defect.checks, BFLOAT16), defect.case)
