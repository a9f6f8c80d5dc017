"""Cases of detail_conv for its raw CUDA launchers, and the definition in float64 for them."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ibnvision.ops.detail_conv import BIAS_NAMES, NAMES, detail_conv_reference
from ibnvision.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]  # the index is Dtype


@dataclass(frozen=True)
class Case:
    out: int = 5
    wide: int = 7
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    biases: tuple[int, ...] = (0, 1, 2, 3, 4)  # which branches have one
    vanilla: bool = True
    thetas: tuple[float, float] = (1.0, 1.0)
    misaligned: bool = False

    def __str__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if v != getattr(Case(), k)}
        return " ".join(f"{k}={v}" for k, v in shown.items()).replace("torch.", "") or "plain"


def draw(case: Case) -> dict[str, Tensor]:
    """Weights, biases and the gradient of the kernel."""
    generator = torch.Generator().manual_seed(0)
    square, line = (case.out, case.wide, 3, 3), (case.out, case.wide, 3)
    shapes = dict(zip(NAMES, (square, line, line, square, square), strict=True))
    shapes |= {BIAS_NAMES[i]: (case.out,) for i in case.biases} | {"d_weight": square}
    if not case.vanilla:
        del shapes["vanilla"]
    return {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64).to(case.dtype)
        for name, shape in shapes.items()
    }


def _dense(values: Tensor, case: Case, device: torch.device) -> Tensor:
    """A copy on the device in the format of the case, off a multiple of 16 bytes if it says so."""
    last = case.channels_last and values.dim() == 4
    order = values.movedim(1, -1) if last else values
    storage = torch.empty(values.numel() + 1, dtype=case.dtype, device=device)
    dense = storage[int(case.misaligned) :][: values.numel()].view(order.shape).copy_(order)
    return dense.movedim(-1, 1) if last else dense


def run(target: Any, case: Case, inputs: dict[str, Tensor], schedule: int = 0) -> dict[str, Tensor]:
    """Outputs of the forward and the backward kernel; each starts as NaN."""

    def nan(*shape: int) -> Tensor:
        return _dense(torch.full(shape, float("nan")), case, target.device)

    square, line = (case.out, case.wide, 3, 3), (case.out, case.wide, 3)
    outputs = {"weight": nan(*square)}
    if case.biases:
        outputs["bias"] = nan(case.out)
    outputs |= {"d_central": nan(*square), "d_angular": nan(*square)}
    outputs |= {"d_horizontal": nan(*line), "d_vertical": nan(*line)}
    fields = {
        **{name: _dense(value, case, target.device) for name, value in inputs.items()}, **outputs,
        "O": case.out, "I": case.wide, "dtype": DTYPES.index(case.dtype),
        "central_theta": case.thetas[0], "angular_theta": case.thetas[1],
        "channels_last": case.channels_last,
    }  # fmt: skip
    target.settings(schedule, 0)
    target.launch("detail_conv_forward", fields)
    target.launch("detail_conv_backward", fields)
    return {name: output.cpu() for name, output in outputs.items()}


def truth(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in float64 by the definition and autograd."""
    wide = {name: value.double().requires_grad_() for name, value in inputs.items()}
    zeros = torch.zeros_like(wide["central"])
    weights = [wide.get(name, zeros) for name in NAMES]
    biases = [wide.get(name) for name in BIAS_NAMES]
    weight, bias = detail_conv_reference(weights, biases, *case.thetas)
    names = NAMES[:4]
    gradients = torch.autograd.grad(weight, [wide[n] for n in names], wide["d_weight"])
    results = {"weight": weight.detach(), "bias": bias.detach()}
    return results | {f"d_{name}": g for name, g in zip(names, gradients, strict=True)}


def check(target: Any, case: Case) -> None:
    """Run a case and compare every output with the truth; other schedules give the same bits."""
    inputs = draw(case)
    outputs, expected = run(target, case, inputs), truth(case, inputs)
    for name, actual in outputs.items():
        scale = max(1.0, float(expected[name].abs().max()))
        assert_close(actual / scale, expected[name] / scale)
    for schedule in target.schedules[1:]:
        again = run(target, case, inputs, schedule)
        assert all(torch.equal(value, again[name]) for name, value in outputs.items()), schedule


def all_cases() -> list[Case]:
    cases = []
    for dtype in DTYPES:
        for last in (False, True):
            case = Case(dtype=dtype, channels_last=last)
            cases += [case, replace(case, thetas=(0.7, 0.3), misaligned=True)]
    more = [
        Case(out=1, wide=1),
        Case(out=16, wide=8),  # 128 pairs, exactly a block
        Case(out=3, wide=150),  # several blocks, and a row across two
        Case(out=200, wide=1),  # channels_last is contiguous too
        Case(biases=()),
        Case(biases=(1, 4)),
        Case(vanilla=False, biases=()),
    ]
    cases += [replace(case, channels_last=last) for case in more for last in (False, True)]
    return cases
