"""The CUDA kernels of detail_conv against the definition in float64: on the emulator with the race
detector, in a sanitized process, and on a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detail_conv_cases import Case, all_cases, check, draw, run
from planted import NUMBERS, Defect, assert_caught

KERNELS, MATH = "detail_conv/detail_conv_kernels.cuh", "detail_conv/detail_conv_math.h"
OUTSIDE = "heap-(buffer-overflow|use-after-free)"
LAST = Case(channels_last=True)
DEFECTS = {
    "threads past the last pair": Defect(
        KERNELS, "  if (pair >= pairs) return;\n  const Place", "  const Place", Case(), OUTSIDE,
        "address",
    ),
    "a block less": Defect(
        KERNELS, "(threads + kBlock - 1)", "threads", Case(out=3, wide=150), "nan", "races",
    ),
    "biases by pairs": Defect(
        KERNELS, "pair < args.O &&", "pair < pairs &&", Case(), OUTSIDE, "address",
    ),
    "contiguous places in channels_last": Defect(
        KERNELS, "if (channels_last) {", "if (false) {", LAST, NUMBERS, "races",
    ),
    "row of the wrong width": Defect(
        KERNELS, "quotient * 9 * wide", "quotient * 3 * wide", LAST, NUMBERS, "races",
    ),
    "circle turned round": Defect(
        MATH, "{a[3], a[0], a[1],", "{a[1], a[2], a[5],", Case(), NUMBERS, "races",
    ),
    "gradient not transposed": Defect(
        MATH, "{g[1], g[2], g[5],", "{g[3], g[0], g[1],", Case(), NUMBERS, "races",
    ),
}  # fmt: skip


@pytest.fixture(
    scope="module", params=["races", "address", pytest.param("gpu", marks=pytest.mark.gpu)]
)
def target(request: pytest.FixtureRequest, target_of: Callable[..., Any]) -> Any:
    return target_of("detail_conv", request.param)


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_kernels_equal_the_definition(target: Any, case: Case) -> None:
    check(target, case)


def test_empty_weights_still_have_a_bias(target: Any) -> None:
    case = Case(wide=0)
    inputs = draw(case)
    biases = [value for name, value in inputs.items() if name.endswith("_bias")]
    torch.testing.assert_close(run(target, case, inputs)["bias"], sum(biases))
    assert run(target, Case(out=0), draw(Case(out=0)))["weight"].numel() == 0


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_caught(target_of: Callable[..., Any], name: str) -> None:
    assert_caught(target_of, "detail_conv", DEFECTS[name], check)
