"""Runs every operator on a device for the tools that watch: sanitizers and profilers.

python benchmarks/gpu_cases.py check --device cuda      small cases, each result compared
python benchmarks/gpu_cases.py once OP --shape 64,256,56,56 --dtype bf16 --format nchw
    forward and backward of one case after a warm-up, between the profiler's start and stop;
    with --trace it is torch's profiler that watches, and the kernels are printed as JSON lines.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ibnvision.benchmark.op_rows import DTYPES, FORMATS, OPS, Case
from ibnvision.ops import (
    content_guided_attention,
    detail_conv,
    ibn_norm,
    lambda_attention,
    reference_ops,
    why_no_kernel,
)
from ibnvision.ops.content_guided_attention import (
    example_inputs as content_guided_attention_inputs,
)
from ibnvision.ops.detail_conv import example_inputs as detail_conv_inputs
from ibnvision.ops.ibn_norm import example_inputs
from ibnvision.ops.lambda_attention import example_inputs as lambda_attention_inputs
from ibnvision.testing import assert_close

Function = Callable[..., Tensor]


def ibn_norm_cases() -> Iterator[tuple[str, Function, tuple]]:
    """Groups that fit a block and groups that are split, aligned rows and odd ones, both passes."""
    ways = [("none", False, True), ("relu", True, True), ("silu", True, True)]
    ways += [("leaky_relu", False, False)]
    cases = [
        (shape, dtype, last)
        for shape in ((3, 7, 5, 3), (1, 4, 200, 200), (4, 40, 9, 9))
        for dtype in (torch.float32, torch.bfloat16)
        for last in (False, True)
    ]
    cases += [((3, 7, 5, 3), dtype, False) for dtype in (torch.float16, torch.float64)]
    for number, (shape, dtype, last) in enumerate(cases):
        act, residual, training = ways[number % len(ways)]
        made = example_inputs(*shape, dtype=dtype, channels_last=last, residual=residual)
        for value in (*made[:5], made[8]):  # the image, the parameters, the residual
            if value is not None:
                value.requires_grad_()
        layout = "channels_last" if last else "contiguous"

        def call(*inputs: Tensor, act: str = act, training: bool = training) -> Tensor:
            return ibn_norm(*inputs, act=act, training=training)  # type: ignore[arg-type]

        yield f"ibn_norm {shape} {dtype} {layout} {act} training={training}", call, made


def content_guided_attention_cases() -> Iterator[tuple[str, Function, tuple]]:
    """Tiles at every border of an image, aligned channels and odd ones, both passes."""
    for shape in ((2, 8, 33, 18), (1, 37, 9, 35)):
        for number, dtype in enumerate((torch.float32, torch.bfloat16, torch.float64)):
            for last in (False, True):
                kind = ("residual", "mixup", "gate")[number]
                made = content_guided_attention_inputs(
                    *shape, kind=kind, dtype=dtype, channels_last=last
                )
                for value in made:
                    if value is not None:
                        value.requires_grad_()
                layout = "channels_last" if last else "contiguous"
                name = f"content_guided_attention {shape} {dtype} {layout} {kind}"
                yield name, content_guided_attention, made


def detail_conv_cases() -> Iterator[tuple[str, Function, tuple]]:
    """Part of a block of pairs, several blocks, both formats of the weights, both passes."""
    for out, wide in ((5, 7), (3, 150)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            for last in (False, True):
                made = detail_conv_inputs(1, wide, 4, 4, out=out, dtype=dtype, channels_last=last)
                for value in made:
                    value.requires_grad_()

                def call(*inputs: Tensor) -> Tensor:
                    return detail_conv(*inputs, central_theta=0.7, angular_theta=0.3)

                layout = "channels_last" if last else "contiguous"
                yield f"detail_conv {out}x{wide} {dtype} {layout}", call, made


def lambda_attention_cases() -> Iterator[tuple[str, Function, tuple]]:
    """Tiles at every border, slots of the prefix, far pairs, heads filled up, both passes."""
    ways: list[tuple[tuple[int, ...], dict]] = [
        ((27, 21), dict(grid=(27, 21), window=(5, 7))),
        ((1, 70), dict(grid=(1, 70), window=9)),
        ((150,), dict(causal=True, window=20, limit=9.0)),
    ]
    for number, (space, options) in enumerate(ways):
        for dtype, size in ((torch.float32, 24), (torch.bfloat16, 64), (torch.float16, 104)):
            q, k, v = lambda_attention_inputs(1, 2, *space, size=size, prefix=5, dtype=dtype)
            far, slopes = (q.flip(2), k[:, :, :5].flip(2)), torch.tensor([0.5, 0.25])
            made = [t.detach().requires_grad_() for t in (q, k, v, *far)] + [slopes]

            def call(q, k, v, q_far, k_far, slopes, options=options) -> Tensor:  # type: ignore[no-untyped-def]
                further = dict(q_prefix=q_far, k_prefix=k_far, alibi_slopes=slopes)
                return lambda_attention(q, k, v, prefix=5, **further, **options)

            yield f"lambda_attention {space} {dtype} D={size} way {number}", call, tuple(made)
            if "causal" in options:
                continue
            window = options["window"] if number == 0 else (9, 9)
            table = torch.linspace(-1, 1, 2 * window[0] * window[1]).view(2, *window)
            made[5] = table.requires_grad_()

            def learned(q, k, v, q_far, k_far, table, options=options) -> Tensor:  # type: ignore[no-untyped-def]
                further = dict(q_prefix=q_far, k_prefix=k_far, bias_table=table)
                return lambda_attention(q, k, v, prefix=5, **further, **options)

            yield f"lambda_attention {space} {dtype} D={size} table", learned, tuple(made)


CASES = {
    "content_guided_attention": content_guided_attention_cases,
    "detail_conv": detail_conv_cases,
    "ibn_norm": ibn_norm_cases,
    "lambda_attention": lambda_attention_cases,
}  # one row an operator: (name, function, CPU inputs)


def results(function: Function, inputs: Sequence, device: str, dtype: torch.dtype) -> list[Tensor]:
    """The result and every gradient asked for, computed on `device`, brought to the CPU.

    Inputs are made on the CPU and copied: on a GPU our kernels are almost all that runs. float64
    widens every floating-point input.
    """
    made = []
    for value in inputs:
        if torch.is_tensor(value):
            wide = dtype if value.is_floating_point() and dtype == torch.float64 else value.dtype
            leaf = value.detach().clone().to(wide).to(device)
            value = leaf.requires_grad_(value.requires_grad)
        made.append(value)
    y = function(*made)
    wanted = [v for v in made if torch.is_tensor(v) and v.requires_grad]
    dy = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    gradients = torch.autograd.grad(y, wanted, dy.to(device))
    return [t.detach().cpu() for t in (y, *gradients)]


def check(device: str) -> int:
    """Compare every case with its definition in float64; the number of cases."""
    count = 0
    for make in CASES.values():
        for name, function, inputs in make():
            dtype = inputs[0].dtype
            got = results(function, inputs, device, dtype)
            with reference_ops():
                wanted = results(function, inputs, "cpu", torch.float64)
            for value, true in zip(got, wanted, strict=True):
                scale = max(1.0, float(true.abs().max()))
                try:
                    assert_close(value.double() / scale, true / scale, dtype)
                except AssertionError as error:
                    raise SystemExit(f"{name}: {error}") from error
            count += 1
    return count


def once(case: Case, trace: bool) -> list[dict]:
    """One forward and backward of a row's layer; what ran, where torch's profiler watches."""
    x, dy = case.tensor(0).requires_grad_(), case.tensor(1)
    layer = case.module(OPS[case.op].layer)
    leaves = [x, *layer.parameters()]

    def work() -> None:
        torch.autograd.grad(layer(x), leaves, dy)

    cuda = case.device == "cuda"
    for _ in range(3):
        work()
    if trace:
        with torch.profiler.profile() as seen:
            work()
            torch.cuda.synchronize() if cuda else None
        return [
            {"kernel": event.name, "seconds": event.time_range.elapsed_us() / 1e6}
            for event in seen.events()
            if case.op in event.name and cuda == (event.device_type.name == "CUDA")
        ]
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
    work()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
    return []


def main(argv: Sequence[str]) -> int:
    """Run what is asked; 0 when every number was right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check")
    one = verbs.add_parser("once")
    one.add_argument("op", choices=sorted(CASES))
    one.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), required=True)
    one.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    one.add_argument("--format", choices=sorted(FORMATS), default="nchw")
    one.add_argument("--trace", action="store_true")
    args = parser.parse_args(argv)
    for op in CASES:
        reason = why_no_kernel(f"{op}_forward", torch.empty(0, device=args.device))
        if reason:
            raise SystemExit(f"{op} has no kernel on {args.device}: {reason}")
    if args.verb == "check":
        print(f"{check(args.device)} cases equal the definition")
        return 0
    case = Case(args.op, args.shape, args.dtype, args.format, args.device)
    for row in once(case, args.trace):
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
