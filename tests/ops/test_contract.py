"""What every operator promises of its numbers; the rows are in contract_rows.py."""

import functools

import pytest
import torch
import torch.nn.functional as F
from contract_rows import FOR_INFERENCE, ROWS, WHOLE, devices, each_row, every, in_turn
from contract_tools import REFERENCE_ONLY, assert_results_close, results

from ibnvision.ops import reference_ops, why_no_kernel
from ibnvision.ops._kernels import C
from ibnvision.testing import TOLERANCE

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
CLOSE = dict(rtol=1e-6, atol=1e-6)
VARIANTS = C.build_info()["cpu_variants"] if C else []
each_format = pytest.mark.parametrize(
    "row, form",
    [pytest.param(row, form, id=f"{row.name}-{form}") for row in ROWS for form in row.formats],
)
pytestmark = pytest.mark.filterwarnings("ignore:.* runs as plain PyTorch")


def test_every_operator_has_a_row():
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
    ours = {name for name in names if name.startswith("ibnvision::")}
    assert ours == {f"ibnvision::{name}" for name in (*FOR_INFERENCE, *(row.name for row in ROWS))}


@functools.lru_cache(maxsize=8)  # formats and instruction sets share one definition
def defined(row, size, case, dtype, device):
    """By name: the definition's result, that of float64, and how far a kernel may be from it."""
    arguments = row.draw(size, case, dtype=dtype, device=device)
    wide = {
        n: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
        for n, v in arguments.items()
    }
    with reference_ops():
        plain = results(row, arguments, dtype)
        truth = plain if dtype == torch.float64 else results(row, wide, dtype)
    found = {}
    for name, same in plain.items():
        true = truth[name].double()
        bound = 2 * (same.double() - true).abs().max().item()
        if same.dtype in (torch.float32, torch.float64):  # half precision has no other bound
            bound = max(bound, TOLERANCE[same.dtype][0] * max(1.0, true.abs().max().item()))
        found[name] = same, true, bound
    return found


def compare(row, size, case, form, dtype, device="cpu"):
    """The kernel errs at most twice as much as the definition does in the same dtypes."""
    wanted = defined(row, size, case, dtype, device)
    actual = results(row, row.draw(size, case, form, dtype=dtype, device=device), dtype)
    assert actual.keys() == wanted.keys()
    for name, (same, true, bound) in wanted.items():
        got = actual[name]
        assert got.dtype == same.dtype and got.shape == same.shape, (size, name)
        assert (got.double() - true).abs().max().item() <= bound, (size, name)
    y = actual["output 0"]
    assert y.stride() == row.formats[form].lay_out(torch.empty(y.shape)).stride(), size


@every("cases")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@devices
def test_equals_reference(row, case, form, dtype, device):
    x = torch.empty(0, dtype=dtype, device=device)
    reason = why_no_kernel(f"{row.kernel or row.name}_forward", x)
    assert REFERENCE_ONLY or not reason or dtype not in row.dtypes, reason
    for size in row.sizes:
        compare(row, size, case, form, dtype, device)


@pytest.mark.skipif(C is None, reason="no library")
@pytest.mark.parametrize("variant", VARIANTS)
@every()
def test_every_instruction_set(row, case, form, variant):
    active = C.build_info()["capability"]
    try:
        C.set_cpu_capability(variant)
    except ValueError as reason:
        pytest.skip(str(reason))
    try:
        for dtype in DTYPES:
            compare(row, row.lanes, case, form, dtype)
    finally:
        C.set_cpu_capability(active)


@devices
@every(rows=WHOLE)
def test_gradcheck(row, case, form, device):
    arguments = row.draw(row.small, case, form, dtype=torch.float64, device=device)
    function, leaves = row.function(arguments)
    many = sum(leaf.numel() for leaf in leaves) > 250
    torch.autograd.gradcheck(function, leaves, **CLOSE, fast_mode=many)


@devices
@in_turn(rows=WHOLE)
def test_second_derivatives(row, case, form, device):
    dtype = torch.float64 if torch.float64 in row.dtypes else torch.float32
    arguments = row.draw(row.small, case, form, dtype=dtype, device=device)
    function, leaves = row.function(arguments)
    if row.twice:
        torch.autograd.gradgradcheck(function, leaves, **CLOSE)
        return
    if REFERENCE_ONLY:
        pytest.skip("the definition has a double backward")
    objective = sum(y.square().sum() for y in function(*leaves))
    gradients = torch.autograd.grad(objective, leaves, create_graph=True)
    for name, gradient in zip(row.leaves(arguments), gradients, strict=True):
        if name == row.leaves(arguments)[0] or name in row.owned:
            with pytest.raises(RuntimeError, match="no double backward"):
                gradient.sum().backward(retain_graph=True)


STRIDES = {
    "permuted": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "every-other": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    "sliced": lambda t: F.pad(t, (1, 2) * t.dim())[(slice(1, -2),) * t.dim()],
    "expanded": lambda t: t[..., :1].expand_as(t),
}


@devices
@pytest.mark.parametrize("strides", STRIDES)
@each_row
def test_any_strides(row, strides, device):
    """Of every argument, and of the gradients of the outputs."""
    odd = STRIDES[strides]
    arguments = row.draw(row.small, row.brief[0], device=device)
    arguments |= {name: odd(arguments[name]) for name in row.leaves(arguments)}
    plain = {n: v.contiguous() if torch.is_tensor(v) else v for n, v in arguments.items()}
    got = results(row, arguments, change=odd)
    want = results(row, plain, change=lambda dy: odd(dy).contiguous())
    assert_results_close(got, want)
    if row.follows:
        assert got["output 0"].stride() == want["output 0"].stride()


@devices
@each_format
def test_operands_in_several_formats(row, form, device):
    base = row.draw(row.small, row.brief[0], form, device=device)
    want = results(row, base)
    for other in row.formats.keys() - {form}:
        moved = row.draw(row.small, row.brief[0], other, device=device)
        for name in row.leaves(base):
            got = results(row, base | {name: moved[name]})
            assert_results_close(got, want)
            if row.follows:
                layout = row.formats[other if name == row.follows else form]
                y = got["output 0"]
                assert y.stride() == layout.lay_out(torch.empty(y.shape)).stride()


@pytest.mark.skipif(REFERENCE_ONLY, reason="plain PyTorch sums in the order of its threads")
@devices
@each_format
def test_threads_do_not_change_the_result(row, form, device):
    arguments = row.draw(row.large, row.brief[0], form, device=device)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(results(row, arguments))
    finally:
        torch.set_num_threads(threads)
    for result in found[1:]:
        assert all(torch.equal(result[name], value) for name, value in found[0].items())


@devices
@each_row
def test_empty_inputs(row, device):
    for size in row.empty:
        arguments = row.draw(size, row.brief[0], device=device)
        with reference_ops():
            want = results(row, arguments)
        found = results(row, arguments)
        assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in want.items()}
        shapes = [value.shape for name, value in want.items() if name.startswith("output")]
        for result in (found, want):
            assert all(torch.isfinite(value).all() for value in result.values()), size
            if all(shape.numel() == 0 for shape in shapes):  # gradients are 0, not absent
                assert not any(result[f"d {name}"].any() for name in row.leaves(arguments)), size
                kept = row.copies(arguments)
                assert all(torch.equal(result[name], value) for name, value in kept.items())
