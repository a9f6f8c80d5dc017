"""The CUDA kernels of content_guided_attention against the definition in float64: on the emulator
with the race detector, in a sanitized process, and on a GPU. Defects planted in them are caught."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from content_guided_attention_cases import Case, all_cases, check
from planted import NUMBERS, OVERFLOW, Defect, assert_caught, parameters, sound_target

OP = "content_guided_attention"
FLOAT32 = Path(__file__).parent / f"{OP}_float32.cpp"
TILE, ATTENTION, GRADIENTS, KERNELS = (
    f"{OP}/{OP}_{name}.cuh" for name in ("tile", "attention", "gradients", "kernels")
)


@pytest.fixture(
    scope="module", params=["races", "address", pytest.param("gpu", marks=pytest.mark.gpu)]
)
def target(request: pytest.FixtureRequest, target_of: Callable[..., Any]) -> Any:
    return target_of(OP, request.param)


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_kernels_equal_the_definition(target: Any, case: Case) -> None:
    check(target, case, schedules=2)


RACE = rf"race on shared memory: thread .* at {OP}_\w+.cuh:\d+, .* at {OP}_\w+.cuh:\d+"
PLANES = Case(shape=(1, 2, 9, 10))
PIXELS = Case(shape=(1, 5, 9, 10), channels_last=True)
TILES = Case(shape=(1, 1, 33, 35), kind="mixup")
DEFECTS = {
    "missing barrier before the taps": Defect(
        ATTENTION, "  __syncthreads();\n", "", PLANES, RACE
    ),
    "missing barrier between channels": Defect(
        GRADIENTS, "__syncthreads();  // the slab before has been read\n", "", PLANES, RACE
    ),
    "missing barrier between tiles": Defect(
        GRADIENTS, "__syncthreads();  // the tile before has been read\n", "", PIXELS, RACE
    ),
    "reflection with the border twice": Defect(
        TILE, "2 * (size - 1) - i", "2 * size - 1 - i", PLANES, NUMBERS
    ),
    "forgotten reflections of the gradient": Defect(
        GRADIENTS, "k < down.count() * across.count()", "k < 1", PLANES, NUMBERS
    ),
    "forgotten corners of the gradient": Defect(
        GRADIENTS, "across.at(k % across.count())", "across.at(k < 3 ? k : 0)", PLANES, NUMBERS
    ),
    "taps not turned": Defect(
        TILE, "kMirrored ? kTaps - 1 - tap : tap", "tap", TILES, NUMBERS
    ),
    "gate lost where dx takes its place": Defect(
        GRADIENTS, "acc_t gate = workspace.gate[at];", "acc_t gate = acc_t(0);", PIXELS, NUMBERS
    ),
    "one sigmoid in the mixup": Defect(
        ATTENTION, "const acc_t w = sigmoid(p);", "const acc_t w = p;", TILES, NUMBERS
    ),
    "channels behind the last": Defect(
        GRADIENTS, "if (c >= args.C || (!kPixels", "if ((!kPixels", PIXELS, OVERFLOW, "address"
    ),
    "rows behind the last": Defect(
        TILE, "channel() < args.C && y0 + row() + j < args.H", "channel() < args.C", PLANES,
        OVERFLOW, "address",
    ),
    "workspace too small": Defect(
        KERNELS, "args.C * kSums", "args.C * (kSums - 1)", PIXELS, OVERFLOW, "address"
    ),
    "shared memory too small": Defect(
        ATTENTION, "G::kTile + G::kPlane + G::kTaps2", "G::kTile + G::kPlane", PLANES, OVERFLOW,
        "address",
    ),
    "wrong alignment": Defect(
        KERNELS, "bits % 16 == 0 && ", "", Case((1, 8, 5, 5), channels_last=True, misaligned=True),
        "misaligned __ldg of 16",
    ),
}  # fmt: skip


SLOW = (
    *("rows behind the last", "workspace too small"),  # as "channels behind the last"
    "missing barrier between tiles",  # as that between channels
)


@pytest.mark.parametrize("name", parameters(DEFECTS, SLOW))
def test_a_planted_defect_is_caught(target_of: Callable[..., Any], name: str) -> None:
    assert_caught(target_of, OP, DEFECTS[name], check, FLOAT32)


@pytest.mark.parametrize("name", parameters(DEFECTS, SLOW))
def test_the_sound_source_passes_the_same_check(target_of: Callable[..., Any], name: str) -> None:
    defect = DEFECTS[name]
    check(sound_target(target_of, OP, defect.checks, FLOAT32), defect.case)
