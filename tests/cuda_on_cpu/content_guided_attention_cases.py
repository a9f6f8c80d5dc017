"""Cases of content_guided_attention for its raw CUDA launchers, held to the float64 definition."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ibnvision.ops.content_guided_attention import (
    content_guided_attention_reference,
    example_inputs,
)
from ibnvision.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]  # the index is Dtype
NAMES = ("x", "ca", "sa", "weight", "bias", "residual", "high")
SHARED = 96 << 10


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int, int] = (2, 3, 5, 6)
    kind: str = "gate"
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    misaligned: bool = False

    def __str__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if v != getattr(Case(), k)}
        return " ".join(f"{k}={v}" for k, v in shown.items()).replace("torch.", "") or "plain"


def draw(case: Case) -> dict[str, Tensor | None]:
    inputs = example_inputs(*case.shape, kind=case.kind, dtype=case.dtype)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(case.shape, generator=generator, dtype=torch.float64).to(case.dtype)
    return {**dict(zip(NAMES, inputs, strict=True)), "dy": dy}


def _dense(values: Tensor, case: Case, device: torch.device) -> Tensor:
    """A copy on the device in the format of the case, off a multiple of 16 bytes if it says so."""
    order = values.movedim(1, -1) if case.channels_last else values
    storage = torch.empty(values.numel() + 1, dtype=values.dtype, device=device)
    dense = storage[int(case.misaligned) :][: values.numel()].view(order.shape).copy_(order)
    return dense.movedim(-1, 1) if case.channels_last else dense


def run(target: Any, case: Case, inputs: dict[str, Tensor | None], schedule: int = 0) -> dict:
    """Outputs of the forward and the backward kernels; each starts as NaN."""
    device, x = target.device, inputs["x"]
    assert x is not None
    fields: dict[str, Any] = {}
    for name, value in inputs.items():
        activation = value is not None and value.shape == x.shape and name not in ("ca", "sa")
        fields[name] = _dense(value, case, device) if activation else value
        if value is not None and not activation:
            fields[name] = value.to(device, copy=True)
    outputs = {}
    for name in ("y", "dx", *(["d_high"] if case.kind == "mixup" else [])):
        outputs[name] = _dense(torch.full_like(x, float("nan")), case, device)
    for name in ("ca", "sa", "weight", "bias"):
        outputs["d_" + name] = torch.full_like(fields[name], float("nan"))
    images, channels, height, width = case.shape
    fields |= outputs | {
        "N": images, "C": channels, "H": height, "W": width,
        "dtype": DTYPES.index(case.dtype), "channels_last": case.channels_last,
    }  # fmt: skip
    target.settings(schedule, SHARED)
    for backward in (False, True):
        name = "content_guided_attention_workspace_bytes"
        held = target.ask(name, backward, fields=fields)
        workspace = torch.full((held,), 255, dtype=torch.uint8, device=device)  # NaN in every type
        name = f"content_guided_attention_{'backward' if backward else 'forward'}"
        target.launch(name, fields | {"workspace": workspace})
    return {name: output.cpu() for name, output in outputs.items()}


def truth(inputs: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """The same in float64 by the definition and autograd."""
    leaves = {
        name: value.double().requires_grad_()
        for name, value in inputs.items()
        if value is not None and name != "dy"
    }
    parameters = [leaves[name] for name in ("ca", "sa", "weight", "bias")]
    y = content_guided_attention_reference(
        leaves["x"], parameters, leaves.get("residual"), leaves.get("high")
    )
    wanted = {name: leaf for name, leaf in leaves.items() if name != "residual"}
    dy = inputs["dy"]
    assert dy is not None
    gradients = torch.autograd.grad(y, list(wanted.values()), dy.double())
    results = {"y": y.detach()}
    for name, gradient in zip(wanted, gradients, strict=True):
        results["dx" if name == "x" else "d_" + name] = gradient
    return results


def check(target: Any, case: Case, schedules: int | None = None) -> None:
    """Run a case and compare every output with the truth, gradients by their size.

    The target's other schedules, or the first of them, must give the same bits.
    """
    inputs = draw(case)
    outputs, expected = run(target, case, inputs), truth(inputs)
    assert outputs.keys() == expected.keys()
    for name, actual in outputs.items():
        scale = max(1.0, float(expected[name].abs().max()))
        assert_close(actual / scale, expected[name] / scale)
    for schedule in target.schedules[1:schedules]:
        again = run(target, case, inputs, schedule)
        for name, value in outputs.items():
            assert torch.equal(value, again[name]), (name, schedule)


def all_cases() -> list[Case]:
    cases = [
        Case(dtype=dtype, channels_last=channels_last, kind=kind)
        for dtype in DTYPES
        for channels_last in (False, True)
        for kind in ("gate", "residual", "mixup")
    ]
    plain = [
        Case(shape=(1, 1, 4, 4)),
        Case(shape=(1, 2, 33, 35)),  # the last tile of a plane is one row and three columns
        Case(shape=(1, 40, 9, 17), kind="mixup"),  # two slabs of pixels, three groups of planes
        Case(shape=(1, 8, 20, 12)),  # aligned pixels, several chunks of them
        Case(shape=(1, 8, 9, 10), misaligned=True),
    ]
    for case in plain:
        for dtype in (torch.float32, torch.bfloat16):
            cases.append(replace(case, dtype=dtype))
            cases.append(replace(case, dtype=dtype, channels_last=True))
    large = Case(shape=(1, 1, 70, 66))  # several chunks of planes
    cases += [large, replace(large, dtype=torch.bfloat16)]
    return list(dict.fromkeys(cases))
