"""Cases of lambda_attention for its raw CUDA launchers, held to a dense mask in float64."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from lambda_cases import CASES, dense_attention, result_and_gradients
from torch import Tensor

from ibnvision.ops.lambda_attention import alibi_table, example_inputs
from ibnvision.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]  # the index is Dtype
SHARED = 96 << 10
INPUTS = ("q", "k", "v", "q_prefix", "k_prefix", "d_out")

# as CASES of tests/ops: what only these kernels meet; "far" may name one of the two alone
MORE: dict[str, tuple[int, int, tuple[int, ...], int, dict[str, Any]]] = {
    "slots": (1, 1, (27, 25), 8, {"prefix": 2, "window": 3, "far": True}),
    "slots_causal": (1, 1, (600,), 8, {"prefix": 3, "window": 2, "causal": True, "far": True}),
    "tables_in_memory": (1, 1, (9, 9), 8, {"prefix": 1, "window": (17, 25), "bias": True}),
    "tiles_of_one_worker": (1, 1, (10, 18), 8, {"prefix": 1, "window": 451, "bias": True}),
    "two_tiles_of_prefix": (1, 1, (4, 5), 8, {"prefix": 70, "window": 3, "far": True}),
    "two_tiles_of_causal_prefix": (
        1, 1, (150,), 8, {"prefix": 70, "window": 20, "causal": True, "far": True, "alibi": True},
    ),
    "far_queries": (1, 1, (9, 9), 8, {"prefix": 3, "window": 3, "far": "q"}),
    "far_keys": (1, 1, (80,), 8, {"prefix": 9, "window": 7, "causal": True, "far": "k"}),
    "few_rows": (1, 1, (3, 40), 8, {"prefix": 0, "window": 3}),
    "sizes": (1, 1, (9, 11), 8, {"prefix": 4, "window": 5, "far": True}),
    "wide": (1, 1, (9, 9), 128, {"prefix": 2, "window": 5, "bias": True, "far": True}),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    dtype: torch.dtype = torch.float32
    size: int = 0  # of a head; 0: the named case's
    misaligned: bool = False

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        size = f" D={self.size}" if self.size else ""
        return f"{self.name} {kind}{size}{' misaligned' * self.misaligned}"


def draw(case: Case) -> dict[str, Any]:
    """Tensors by the names of the operator's arguments, its options, and d_out."""
    batch, heads, space, size, facts = (CASES | MORE)[case.name]
    size = case.size or size
    options = {k: v for k, v in facts.items() if k not in ("bias", "alibi", "far")}
    options.setdefault("causal", False)
    prefix = options["prefix"]
    q, k, v = example_inputs(batch, heads, *space, size=size, prefix=prefix, dtype=case.dtype)
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    drawn = {"q": q, "k": k, "v": v, "d_out": normal(*q.shape, dtype=case.dtype), **options}
    window = options["window"]
    if not options["causal"] and len(space) == 1:
        drawn["grid"], window = (1, q.shape[2] - prefix), (1, 2 * window - 1)
    elif not options["causal"]:
        drawn["grid"] = space
    drawn["window"] = window if isinstance(window, tuple) else (window, window)
    if facts.get("bias"):
        drawn["bias_table"] = normal(heads, *drawn["window"], dtype=torch.float32)
    if facts.get("alibi"):
        drawn["alibi_slopes"] = 2.0 ** -torch.arange(1, heads + 1).float()
    if facts.get("far") in (True, "q"):
        drawn["q_prefix"] = normal(*q.shape, dtype=case.dtype)
    if facts.get("far") in (True, "k"):
        drawn["k_prefix"] = normal(batch, heads, prefix, size, dtype=case.dtype)
    return drawn


def _rows(x: Tensor, case: Case, device: torch.device) -> tuple[Any, ...]:
    """(memory that begins with x's first number and ends with its last, strides of x) of a copy.

    The copy has x's strides; its first number is off a multiple of 16 bytes if the case says so.
    """
    ends = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    span = 1 + ends if x.numel() else 0
    first = int(case.misaligned)
    storage = torch.zeros(span + first, dtype=x.dtype, device=device)
    copy = torch.as_strided(storage, x.shape, x.stride(), first).copy_(x)
    return storage[first:], *copy.stride()[:3]


def fields_of(drawn: dict[str, Any], case: Case, device: torch.device) -> dict[str, Any]:
    """Fields of Args, but for those that come out."""
    q, window, causal = drawn["q"], drawn["window"], drawn["causal"]
    batch, heads, tokens, size = q.shape
    height, width = drawn.get("grid", (0, 0))
    limit = drawn.get("limit", math.inf)
    table, slopes = drawn.get("bias_table"), drawn.get("alibi_slopes")
    if slopes is not None and not causal:
        near = alibi_table(slopes, window, limit)
        table, slopes = near if table is None else table + near, None
    fields = {name: _rows(drawn[name], case, device) for name in INPUTS if name in drawn}
    return fields | {
        "table": None if table is None else table.to(device, copy=True),
        "slopes": None if slopes is None else slopes.to(device, copy=True),
        "B": batch, "heads": heads, "N": tokens, "D": size, "prefix": drawn["prefix"],
        "height": height, "width": width if height else 0,
        "reach_y": 0 if causal else window[0] // 2,
        "reach_x": window[1] - 1 if causal else window[1] // 2,
        "scale": drawn.get("scale", size**-0.5), "limit": limit, "causal": causal,
        "dtype": DTYPES.index(case.dtype),
    }  # fmt: skip


def run(target: Any, case: Case, drawn: dict[str, Any], schedule: int = 0) -> dict[str, Tensor]:
    """Outputs of the forward and the backward kernels; each starts as NaN."""
    fields = fields_of(drawn, case, target.device)
    q = drawn["q"]

    def joined(x: Tensor) -> Tensor:
        shape = (x.shape[0], x.shape[2], x.shape[1], x.shape[3])
        return torch.full(shape, math.nan, dtype=x.dtype, device=target.device)

    outputs = {name: joined(q) for name in ("out", "dq", "dk", "dv")}
    outputs["lse"] = torch.full(q.shape[:3], math.nan, device=target.device)
    for name in ("q_prefix", "k_prefix"):
        if name in drawn:
            outputs[f"d_{name}"] = joined(drawn[name])
    if fields["table"] is not None:
        outputs["d_table"] = torch.full_like(fields["table"], math.nan)
    fields |= outputs
    target.settings(schedule, SHARED)
    for backward in (False, True):
        if backward:
            fields["out_rows"] = _rows(outputs["out"].transpose(1, 2), case, target.device)
        held = target.ask("lambda_attention_workspace_bytes", backward, fields=fields)
        workspace = torch.full((held,), 255, dtype=torch.uint8, device=target.device)  # NaN
        name = f"lambda_attention_{'backward' if backward else 'forward'}"
        target.launch(name, fields | {"workspace": workspace})
    dense = {name: t.transpose(1, 2) if t.dim() == 4 else t for name, t in outputs.items()}
    return {name: t.cpu() for name, t in dense.items()}


def truth(drawn: dict[str, Any]) -> dict[str, Tensor]:
    """The same in float64 by the definition and autograd."""
    wide = {
        name: value.double() if isinstance(value, Tensor) else value
        for name, value in drawn.items()
    }
    d_out = wide.pop("d_out")
    tensors = tuple(wide.pop(name) for name in "qkv")
    if wide["causal"] or "grid" not in wide:
        wide["window"] = wide["window"][0]
    alibi = "alibi_slopes" in wide and not wide["causal"]
    if alibi:  # the kernels learn of it as a table, whose gradient they give too
        table = alibi_table(wide.pop("alibi_slopes"), wide["window"], wide.pop("limit", math.inf))
        wide["bias_table"] = table + wide.get("bias_table", 0.0)
    results = result_and_gradients(dense_attention, tensors, wide, d_out)
    if "d_bias_table" in results:
        results["d_table"] = results.pop("d_bias_table")
    return results


def check(target: Any, case: Case, schedules: int | None = None) -> None:
    """Run a case and compare every output with the truth, gradients by their size.

    The target's other schedules, or the first of them, must give the same bits.
    """
    drawn = draw(case)
    outputs, expected = run(target, case, drawn), truth(drawn)
    assert torch.isfinite(outputs.pop("lse")).all(), "nan in lse"
    assert outputs.keys() == expected.keys()
    for name, actual in outputs.items():
        if expected[name].numel() == 0:
            continue
        scale = max(1.0, float(expected[name].abs().max()))
        assert_close(actual / scale, expected[name] / scale, case.dtype)
    for schedule in target.schedules[1:schedules]:
        again = run(target, case, drawn, schedule)
        for name, value in outputs.items():
            assert torch.equal(value, again[name]), (name, schedule)


def all_cases() -> list[Case]:
    once = {"tiles_of_one_worker": torch.bfloat16, "grid_scaled": torch.float32}  # large
    cases = [
        Case(name, dtype)
        for dtype in (torch.bfloat16, torch.float32)
        for name in CASES | MORE
        if once.get(name, dtype) == dtype
    ]
    cases += [Case(name, torch.float16) for name in ("grid_bias", "causal_far_alibi")]
    cases += [
        Case("sizes", dtype, size=size)
        for dtype in (torch.float32, torch.bfloat16)
        for size in (40, 72, 128)
    ]
    cases += [Case("grid_bias", dtype, misaligned=True) for dtype in DTYPES]
    return cases
