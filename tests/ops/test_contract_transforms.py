"""What every operator promises to the dispatcher and torch.func; rows: contract_rows.py."""

import pytest
import torch
from contract_rows import WHOLE, devices, each_row, every
from contract_tools import REFERENCE_ONLY, outputs
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ibnvision.testing import assert_close

kernels_only = pytest.mark.skipif(REFERENCE_ONLY, reason="no library: no kernel operators")
pytestmark = pytest.mark.filterwarnings("ignore:.* runs as plain PyTorch")


class Kernels(TorchDispatchMode):
    """Keeps the calls of kernel operators and lets them run."""

    def __init__(self):
        super().__init__()
        self.calls = {}  # the first of each kind

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ibnvision":
            assert not kwargs, "a kernel operator takes its arguments by position"
            self.calls.setdefault((func, *(value is None for value in args)), args)
        return func(*args, **(kwargs or {}))


class Entries(TorchFunctionMode):
    """Keeps the calls of composite operators and lets them run."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if isinstance(func, torch._ops.OpOverloadPacket):
            self.calls.append((func.default, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def kernel_calls(row, case, form, **wanted):
    """Operators and arguments of a training step; of the next derivative where there is one."""
    function, leaves = row.function(row.draw(row.small, case, form, **wanted))
    with Kernels() as kernels:
        objective = sum(y.square().sum() for y in function(*leaves))
        gradients = torch.autograd.grad(objective, leaves, create_graph=row.twice)
        if row.twice:
            torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)
    found = {func._schema.name.removeprefix("ibnvision::") for func, *_ in kernels.calls}
    assert found == {f"{row.kernel or row.name}_{step}" for step in ("forward", "backward")}
    for (func, *_), args in kernels.calls.items():
        differentiable = row.twice or func._schema.name.endswith("_forward")
        made = [v.detach() if torch.is_tensor(v) else v for v in args]
        wanted = [torch.is_tensor(v) and v.requires_grad for v in args]
        if differentiable and not any(wanted):  # a call of the last derivative
            wanted = [torch.is_tensor(v) and v.is_floating_point() for v in args]
        for value, wants in zip(made, wanted, strict=True):
            if wants and differentiable:
                value.requires_grad_()
        yield func, tuple(made), differentiable


@kernels_only
@devices
@every(rows=WHOLE)
def test_opcheck_of_kernels(row, case, form, device):
    for func, args, differentiable in kernel_calls(row, case, form, device=device):
        tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
        tests += ("test_autograd_registration",) * differentiable
        torch.library.opcheck(func, args, test_utils=tests)
    for func, args, _ in kernel_calls(row, case, form, device=device, dtype=torch.bfloat16):
        torch.library.opcheck(func, args, test_utils="test_faketensor")


@devices
@every()
def test_opcheck_of_entry(row, case, form, device):
    arguments = row.fresh(row.draw(row.small, case, form, device=device))
    with Entries() as entries:
        row.call(**arguments)
    ((func, args, kwargs),) = entries.calls
    assert func._schema.name == f"ibnvision::{row.name}"
    torch.library.opcheck(func, args, kwargs, test_utils=("test_schema", "test_faketensor"))


@devices
@each_row
def test_forward_mode_runs_the_definition(row, device):
    arguments = row.draw(row.small, row.brief[0], dtype=torch.float64, device=device)
    check = dict(check_forward_ad=True, check_backward_ad=False, fast_mode=True, rtol=1e-6)
    torch.autograd.gradcheck(*row.function(arguments), **check)


@devices
@each_row
def test_vmap_runs_the_definition(row, device):
    for case in row.vmapped or row.brief:
        function, leaves = row.function(row.draw(row.small, case, device=device))
        for batched in (1, len(leaves)):  # the first argument alone, and all
            stacked = [torch.stack([v, 2 * v]) for v in leaves[:batched]]
            axes = (0,) * batched + (None,) * (len(leaves) - batched)
            direct = torch.vmap(function, axes)(*stacked, *leaves[batched:])
            with Entries():  # through the dispatcher
                dispatched = torch.vmap(function, axes)(*stacked, *leaves[batched:])
            for i in (0, 1):
                want = function(*(v[i] for v in stacked), *leaves[batched:])
                for found in (direct, dispatched):
                    for y, wanted in zip(found, want, strict=True):
                        assert_close(y[i], wanted)


@devices
@every()
def test_runs_without_data(row, case, form, device):
    """On the device meta: the shapes, dtypes and strides of the real thing."""
    real = outputs(row.call(**row.draw(row.small, case, form, device=device)))
    meta = outputs(row.call(**row.draw(row.small, case, form, device="meta")))
    for y, wanted in zip(meta, real, strict=True):
        assert y.shape == wanted.shape and y.dtype == wanted.dtype
        assert y.stride() == wanted.stride() or not row.follows
