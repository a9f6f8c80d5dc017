"""The calls that `ibnvision benchmark attention` times: the operator, its rivals, a network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibnvision.layers import to_lambda
from ibnvision.ops import lambda_attention, reference_ops, why_no_kernel
from ibnvision.ops.lambda_attention import example_inputs

from .attention_rows import PREFIX, WINDOW, visible_pairs
from .measure import Call
from .op_rows import DTYPES
from .ops import in_reference

SIZE, TILE = 64, 8
FORWARD, BOTH = "forward", "forward+backward"
INFERENCE, STEP = "ViT-S/16 inference", "ViT-S/16 training step"
NETWORK = "vit_small_patch16_dinov3"


@dataclass(frozen=True)
class Case:
    """One call on a square grid of `side` patches, or a network on as many patches."""

    part: str
    side: int
    batch: int
    heads: int
    dtype: str
    device: str
    quick: bool

    @property
    def shape(self) -> list[int]:
        return [self.batch, self.heads, PREFIX + self.side**2, SIZE]

    def inputs(self, dtype: str = "") -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as views of a packed projection."""
        options: dict[str, Any] = dict(dtype=DTYPES[dtype or self.dtype], device=self.device)
        shape = (self.batch, self.heads, self.side, self.side)
        return example_inputs(*shape, size=SIZE, prefix=PREFIX, **options)

    @property
    def pairs(self) -> int:
        """Visible pairs of tokens of one head."""
        return visible_pairs(PREFIX, (self.side, self.side), (WINDOW // 2, WINDOW // 2))


def ours(case: Case) -> Callable[..., Tensor]:
    """The operator on the case's grid."""
    options: dict[str, Any] = dict(prefix=PREFIX, grid=(case.side, case.side), window=WINDOW)
    return lambda q, k, v: lambda_attention(q, k, v, **options)


def flex(case: Case) -> Callable[..., Tensor]:
    """Compiled FlexAttention with the same mask, for tokens in the order of `tile_order`."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    order = tile_order(case.side).to(case.device)
    row, column = (order - PREFIX) // case.side, (order - PREFIX) % case.side

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        near = ((row[i] - row[j]).abs() <= WINDOW // 2) & (
            (column[i] - column[j]).abs() <= WINDOW // 2
        )
        return near | (order[i] < PREFIX) | (order[j] < PREFIX)

    tokens = case.shape[2]
    blocks = create_block_mask(visible, None, None, tokens, tokens, case.device, BLOCK_SIZE=64)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=blocks)


def tile_order(side: int) -> Tensor:
    """Tokens with the prefix first, then the patches tile by tile."""
    at = torch.arange(side)
    tile, within = at // TILE, at % TILE
    rank = ((tile[:, None] * side + tile) * TILE + within[:, None]) * TILE + within
    return torch.cat([torch.arange(PREFIX), PREFIX + rank.flatten().argsort(stable=True)])


def call_of(function: Callable[..., Tensor], inputs: Sequence[Tensor], part: str) -> Call:
    """The pass as a call without arguments."""
    if part == FORWARD:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(*inputs)

        return forward
    leaves = [t.detach().requires_grad_() for t in inputs]
    gradient = torch.randn_like(function(*leaves))
    return lambda: torch.autograd.grad(function(*leaves), leaves, gradient)


def operator_calls(case: Case, *, compiled: bool) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls by backend, each checked against dense pairs by mask, and why one is missing."""
    q, k, v = case.inputs()
    separate = [t.contiguous() for t in (q, k, v)]
    calls, skipped = {}, {}
    reason = why_no_kernel("lambda_attention_forward", q)
    if reason:
        skipped["kernel"] = reason
    else:
        calls["kernel"] = call_of(ours(case), (q, k, v), case.part)
        if case.dtype == "fp32":
            calls["kernel bf16"] = call_of(ours(case), case.inputs("bf16"), case.part)
    calls["halo"] = in_reference(call_of(ours(case), (q, k, v), case.part))
    calls["dense"] = call_of(F.scaled_dot_product_attention, separate, case.part)
    if not compiled:
        skipped["flex"] = "--no-compile"
        return calls, skipped
    try:
        torch._dynamo.reset()
        order = tile_order(case.side).to(case.device)
        ordered = [t[:, :, order].contiguous() for t in separate]
        function = flex(case)
        with torch.no_grad(), reference_ops():
            expected = ours(case)(q, k, v)[:, :, order]
        tolerance = 1e-4 if case.dtype == "fp32" else 3e-2
        with torch.no_grad():
            found = function(*ordered)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        calls["flex"] = call_of(function, ordered, case.part)
    except Exception as error:  # one that is missing or fails must not end the others
        skipped["flex"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return calls, skipped


def network_calls(case: Case) -> tuple[dict[str, Call], dict[str, str]]:
    """The whole network, dense as timm has it and converted, on images of case.side patches."""
    pixels, half = 16 * case.side, case.dtype != "fp32"
    calls: dict[str, Call] = {}
    for name in ("kernel", "dense"):
        torch.manual_seed(0)
        arguments: dict[str, Any] = dict(num_classes=10, dynamic_img_size=True)
        arguments |= dict(depth=2) if case.quick else {}
        model: nn.Module = timm.create_model(NETWORK, **arguments)
        model.to(case.device).train(case.part == STEP)
        if name == "kernel":
            to_lambda(model, window=WINDOW)
        x = torch.randn(case.batch, 3, pixels, pixels, device=case.device)
        calls[name] = _network_call(model, x, case, half)
    return calls, {}


def _network_call(model: nn.Module, x: Tensor, case: Case, half: bool) -> Call:
    target = torch.zeros(case.batch, dtype=torch.int64, device=case.device)

    def inference() -> Tensor:
        with torch.no_grad(), torch.autocast(case.device, DTYPES[case.dtype], enabled=half):
            return model(x)

    def step() -> None:
        with torch.autocast(case.device, DTYPES[case.dtype], enabled=half):
            loss = F.cross_entropy(model(x).float(), target)
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step if case.part == STEP else inference
