"""The CUDA kernels of ibn_norm against the definition in float64: on the emulator with the race
detector, in a sanitized process, and on a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ibn_norm_cases import FULL, SMALL, Case, all_cases, check, draw, run, truth


@pytest.fixture(
    scope="module", params=["races", "address", pytest.param("gpu", marks=pytest.mark.gpu)]
)
def target(request: pytest.FixtureRequest, target_of: Callable[..., Any]) -> Any:
    return target_of("ibn_norm", request.param)


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_kernels_equal_the_definition(target: Any, case: Case) -> None:
    check(target, case, schedules=2)


@pytest.mark.parametrize("shape", [(0, 5, 6, 7), (3, 5, 0, 7), (3, 0, 6, 7)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_empty_input_zeroes_the_parameter_gradients(
    target: Any, shape: tuple[int, ...], channels_last: bool
) -> None:
    case = Case(shape=shape, instance=min(2, shape[1]), channels_last=channels_last)
    outputs = run(target, case, draw(case))
    for name in ("d_in_weight", "d_in_bias", "d_bn_weight", "d_bn_bias"):
        assert outputs[name].eq(0).all(), name


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shared", [FULL, SMALL])
def test_statistics_survive_a_mean_of_a_thousand_deviations(
    target: Any, channels_last: bool, shared: int
) -> None:
    case = Case(
        shape=(2, 5, 40, 40), mean=1000.0, channels_last=channels_last, shared=shared, act="none"
    )
    inputs = draw(case)
    outputs = run(target, case, inputs)
    var = inputs.x.double().flatten(2).var(-1, correction=0)[:, : case.instance]
    torch.testing.assert_close(outputs["var"][:, : case.instance].double(), var, rtol=1e-5, atol=0)
    expected = truth(case, inputs)["y"]  # a float32 mean of 1000 is known to 3e-5 deviations
    torch.testing.assert_close(outputs["y"].double(), expected, rtol=0, atol=1.5e-4)


def test_one_value_per_group_gives_the_bias(target: Any) -> None:
    case = Case(shape=(3, 4, 1, 1), instance=4, act="none")
    inputs = draw(case)
    y = run(target, case, inputs)["y"]
    assert torch.equal(y[..., 0, 0], inputs.parameters[1].expand(3, 4))
