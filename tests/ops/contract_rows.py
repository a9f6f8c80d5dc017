"""One row per operator: how the shared tests call it, on which sizes, and where it differs.

A new operator `x` is one more Row in ROWS; nothing else in this folder names operators.

1. `inputs(*size, dtype, device, seed, ...)` gives the first arguments of the public function in
   their order, None where one is absent: `example_inputs` of ops/x.py, or a wrapper above ROWS.
2. `cases` name the ways through x: what each asks of `inputs`, and the options of its call.
   `brief` are the few of them that the slower tests take.
3. `sizes` to `dynamic` are sizes for `inputs`, each for the reason that Row gives.
4. Where the memory formats are not those of images, `formats` are its own; `follows` names the
   argument whose format the result takes, None if there is no such one.

The other fields of Row are for what few operators have: parameters, buffers, second derivatives.
What kernel and definition share, the body that calls either, only tests/ops/test_x.py can judge.
"""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from contract_tools import Case, Format, Row

from ibnvision.ops import (
    content_guided_attention,
    detail_conv,
    fold_detail_conv,
    ibn_norm,
    lambda_attention,
)
from ibnvision.ops.content_guided_attention import example_inputs as content_guided_attention_inputs
from ibnvision.ops.detail_conv import example_inputs as detail_conv_inputs
from ibnvision.ops.ibn_norm import example_inputs as ibn_norm_inputs
from ibnvision.ops.lambda_attention import example_inputs as lambda_attention_inputs
from ibnvision.testing import DEVICES


def ibn_norm_cases() -> Iterator[tuple[str, Case]]:
    """Layouts, residuals, activations and statistics that take their own paths."""
    places, acts = ("plain", "after", "first"), ("none", "relu", "leaky_relu", "silu")
    for place, act, training in itertools.product(places, acts, (True, False)):
        options = dict(residual_first=place == "first", act=act, slope=0.1, training=training)
        yield f"{place}-{act}-{training}", Case(dict(residual=place != "plain"), options)
    yield "last", Case(dict(residual=True), dict(instance_last=True, act="relu"))
    yield "cumulative", Case(dict(residual=True), dict(act="leaky_relu", momentum=None))
    yield "untracked", Case(options=dict.fromkeys(IBN_NORM_BUFFERS))


def convolution_inputs(*size: int, **wanted: Any) -> tuple[Any, ...]:
    """The size is the shape of x and the channels that go out."""
    *shape, out = size
    return detail_conv_inputs(*shape, out=out, **wanted)


def fold_inputs(out: int, channels: int, **wanted: Any) -> tuple[Any, ...]:
    return detail_conv_inputs(1, channels, 1, 1, out=out, **wanted)[1:]


def fold(
    central, horizontal, vertical, angular, vanilla,
    central_bias, horizontal_bias, vertical_bias, angular_bias, vanilla_bias, **thetas,
):  # fmt: skip
    """fold_detail_conv with its arguments one by one."""
    weights = (central, horizontal, vertical, angular, vanilla)
    biases = (central_bias, horizontal_bias, vertical_bias, angular_bias, vanilla_bias)
    weight, bias = fold_detail_conv(weights, biases, **thetas)
    return weight, bias


def attention_inputs(
    *size: int, grid: bool = False, table: bool = False, slopes: bool = False, turned: bool = False,
    packed: bool = True, **wanted: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """The arguments of lambda_attention in their order; a sequence is as long as the grid."""
    heads, height, width = size[1:]
    prefix, window = 3, 3
    q, k, v = lambda_attention_inputs(*size, size=8, prefix=prefix, **wanted)
    if not packed:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(q)

    return (
        q, k, v, prefix, (height, width) if grid else None, window, False, None,
        draw(heads, window, window) if table else None,
        draw(heads).abs() if slopes else None, None,
        draw(*q.shape) if turned else None,
        draw(q.shape[0], heads, prefix, 8) if turned else None,
    )  # fmt: skip


def heads_joined(t: torch.Tensor) -> torch.Tensor:
    return t.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


IBN_NORM_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
BRANCHES = tuple(inspect.signature(fold).parameters)[:10]
THETAS = dict(central_theta=0.7, angular_theta=0.3)
ROWS = (
    Row(
        "ibn_norm", ibn_norm, ibn_norm_inputs,
        cases=dict(ibn_norm_cases()),
        brief=("plain-silu-True", "cumulative", "first-relu-False"),
        sizes=((3, 7, 5, 3), (2, 40, 9, 9), (2, 6, 33), (2, 5, 3, 4, 2)),
        small=(2, 4, 3, 2),
        lanes=(2, 37, 7, 7),
        large=(4, 34, 65, 33),
        empty=((0, 6, 4, 4), (2, 6, 0, 4)),
        dynamic=((3, 6, 5, 7), (2, 6, 3, 9)),
        owned=("in_weight", "in_bias", "bn_weight", "bn_bias"),
        buffers=IBN_NORM_BUFFERS,
        vmapped=("first-relu-False", "untracked"),
    ),
    Row(
        "content_guided_attention", content_guided_attention, content_guided_attention_inputs,
        cases={kind: Case(dict(kind=kind)) for kind in ("gate", "residual", "mixup")},
        brief=("mixup", "residual", "gate"),
        sizes=((2, 3, 4, 4), (2, 19, 9, 37), (1, 2, 100, 5), (1, 2, 5, 600), (1, 18, 70, 102)),
        small=(2, 2, 4, 5),
        lanes=(1, 19, 5, 37),
        large=(2, 37, 70, 45),
        empty=((0, 3, 5, 5),),
        dynamic=((3, 6, 5, 7), (2, 6, 4, 9)),
        compiled=("residual", "mixup"),
        owned=("weight", "bias"),
    ),
    Row(
        "detail_conv", detail_conv, convolution_inputs,
        cases={
            "padded": Case(options=dict(padding=(1, 1), **THETAS)),
            "unbiased": Case(dict(bias=False), dict(padding=(1, 1), **THETAS)),
        },
        brief=("padded", "unbiased"),
        sizes=((2, 3, 6, 5, 4),),
        small=(2, 2, 4, 3, 2),
        lanes=(1, 37, 5, 5, 5),
        large=(2, 70, 9, 9, 65),
        empty=((0, 3, 5, 5, 2),),
        dynamic=((8, 6, 5, 7, 4), (2, 6, 3, 9, 4)),
        owned=BRANCHES,
        follows=None,
        twice=True,
        recompiles=True,  # torch 2.13 for a new width, with its own convolution alone too
    ),
    Row(
        "detail_conv_fold", fold, fold_inputs,
        cases={"official": Case(), "thetas": Case(options=THETAS)},
        brief=("thetas",),
        sizes=((1, 1), (5, 3), (3, 150), (40, 37), (2, 1100)),
        small=(2, 3),
        lanes=(3, 133),
        large=(65, 70),
        empty=((0, 3), (3, 0)),
        dynamic=((6, 4), (5, 3)),
        follows="vanilla",
        kernel="detail_conv",
        twice=True,
        part_of="detail_conv",
    ),
    Row(
        "lambda_attention", lambda_attention, attention_inputs,
        cases={
            "grid": Case(dict(grid=True, table=True)),
            "distances": Case(dict(grid=True, slopes=True), dict(limit=2.0, scale=0.3)),
            "causal": Case(dict(slopes=True, turned=True), dict(causal=True, limit=4.0)),
            "sequence": Case(),
        },
        brief=("grid", "causal"),
        # fewer tokens: half precision's out, which the backward reads, errs more than gradients
        sizes=((2, 2, 2, 1), (2, 3, 5, 7), (1, 2, 3, 45)),
        small=(1, 2, 2, 3),
        lanes=(1, 2, 5, 7),
        large=(3, 3, 13, 11),
        empty=((0, 2, 3, 3),),
        dynamic=((3, 2, 4, 5), (2, 2, 4, 5)),  # a layer's grid is not a tensor
        owned=("bias_table",),
        buffers=("alibi_slopes",),
        formats=dict(
            packed=Format({}, heads_joined), separate=Format(dict(packed=False), heads_joined)
        ),
        follows=None,
        dtypes=(torch.float32, torch.float16, torch.bfloat16),
        scripts=False,  # options that go by name alone
    ),
)  # fmt: skip
FOR_INFERENCE = ("conv3x3",)  # no kernel backward: tests/ops/test_conv3x3.py
WHOLE = [row for row in ROWS if not row.part_of]
devices = pytest.mark.parametrize("device", DEVICES)
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def every(cases: str = "brief", rows: Sequence[Row] = ROWS) -> pytest.MarkDecorator:
    """Parametrize by row, by the cases that this field of it names, and by format."""
    found = [(r, case, form) for r in rows for case in getattr(r, cases) for form in r.formats]
    return _parametrize(found)


def in_turn(cases: str = "brief", rows: Sequence[Row] = ROWS) -> pytest.MarkDecorator:
    """As `every`, but each case with the next format, until all of both have come."""
    found = []
    for row in rows:
        names, forms = getattr(row, cases) or row.brief[:1], list(row.formats)
        for i in range(max(len(names), len(forms))):
            found.append((row, names[i % len(names)], forms[i % len(forms)]))
    return _parametrize(found)


def _parametrize(found: list[tuple[Row, str, str]]) -> pytest.MarkDecorator:
    ids = [f"{row.name}-{case}-{form}" for row, case, form in found]
    return pytest.mark.parametrize("row, case, form", found, ids=ids)
