"""The CUDA kernels of ibn_norm, run on the host, against the definition in float64."""

import ctypes
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from ibnvision.ops.ibn_norm import ACTIVATIONS, ibn_norm_reference, statistics_dtype
from ibnvision.testing import assert_close

POINTERS = (
    "x residual dy y dx d_residual mask in_weight in_bias bn_weight bn_bias running_mean "
    "running_var mean var d_in_weight d_in_bias d_bn_weight d_bn_bias workspace"
).split()
SIZES = "N C S instance_channels batch_group".split()
FLAGS = "instance_last residual_first batch_stats channels_last".split()
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]  # the index is Dtype
EPS, SLOPE = 1e-5, 0.1
FULL, SMALL = 96 << 10, 256  # bytes a group may take before it is split


class Args(ctypes.Structure):
    """csrc/ibn_norm/ibn_norm.h"""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_int64) for name in SIZES),
        ("eps", ctypes.c_double),
        ("slope", ctypes.c_double),
        ("dtype", ctypes.c_int32),
        ("act", ctypes.c_int32),
        *((name, ctypes.c_bool) for name in FLAGS),
    ]


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...] = (3, 5, 6, 7)
    instance: int = 2
    last: bool = False
    residual: str = ""  # first, after
    act: str = "relu"
    batch_stats: bool = True
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    shared: int = FULL
    seed: int = 0
    affine: bool = True
    batch_group: int = 0  # images that share batch statistics, 0 for all
    mean: float = 1.0
    misaligned: bool = False
    keep_mask: bool = True

    def __str__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if v != getattr(Case(), k)}
        return " ".join(f"{k}={v}" for k, v in shown.items()).replace("torch.", "") or "plain"


@dataclass
class Inputs:
    """Tensors of a case; activations are dense in the case's format."""

    x: Tensor
    residual: Tensor | None
    dy: Tensor
    parameters: list[Tensor | None]
    running: list[Tensor] = field(default_factory=list)


def _draw(case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed)
    channels, rest = case.shape[1], case.shape[1] - case.instance

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def activation(values: Tensor) -> Tensor:
        order = values.movedim(1, -1) if case.channels_last else values
        storage = torch.empty(values.numel() + 1, dtype=case.dtype)[int(case.misaligned) :]
        dense = storage[: values.numel()].view(order.shape).copy_(order)
        return dense.movedim(-1, 1) if case.channels_last else dense

    wide = statistics_dtype(torch.empty(0, dtype=case.dtype))
    scale = (
        1 + torch.arange(channels, dtype=torch.float64).view(-1, *(len(case.shape) - 2) * [1]) % 3
    )
    x = normal(*case.shape) * scale + case.mean * scale
    sizes = (case.instance, case.instance, rest, rest)
    return Inputs(
        activation(x),
        activation(normal(*case.shape)) if case.residual else None,
        activation(normal(*case.shape)),
        [normal(size).to(wide) if case.affine else None for size in sizes],
        [normal(rest).to(wide), normal(rest).square().add(0.5).to(wide)],
    )


def _like(x: Tensor, case: Case) -> Tensor:
    """A dense tensor of NaN in the format of the case."""
    order = x.movedim(1, -1) if case.channels_last else x
    made = torch.full([order.numel() + 1], float("nan"), dtype=x.dtype)[int(case.misaligned) :]
    made = made[: order.numel()].view(order.shape)
    return made.movedim(-1, 1) if case.channels_last else made


def run(library: ctypes.CDLL, case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """Outputs of the forward and the backward kernels; each starts as NaN, the mask as ones."""
    x, wide = inputs.x, statistics_dtype(inputs.x)
    images, channels = x.shape[:2]
    space = x.shape[2:].numel()
    batch = channels - case.instance

    def nan(*shape: int) -> Tensor:
        return torch.full(shape, float("nan"), dtype=wide)

    after = case.residual == "after"
    outputs = {
        "y": _like(x, case),
        "mean": nan(images, channels),
        "var": nan(images, channels),
        "dx": _like(x, case),
        "d_in_weight": nan(case.instance),
        "d_in_bias": nan(case.instance),
        "d_bn_weight": nan(batch),
        "d_bn_bias": nan(batch),
    }
    if after and case.act != "none":
        outputs["d_residual"] = _like(x, case)
    if after and case.act in ("relu", "leaky_relu") and case.keep_mask:
        row = channels if case.channels_last else space
        outputs["mask"] = torch.full((x.numel() // row, (row + 7) // 8), 255, dtype=torch.uint8)
    names = ("in_weight", "in_bias", "bn_weight", "bn_bias", "running_mean", "running_var")
    given = dict(zip(names, inputs.parameters + inputs.running, strict=True))
    given |= {"x": x, "residual": inputs.residual, "dy": inputs.dy}

    args = Args(N=images, C=channels, S=space, instance_channels=case.instance)
    args.batch_group = case.batch_group or images
    args.eps, args.slope = EPS, SLOPE
    args.dtype, args.act = DTYPES.index(case.dtype), ACTIVATIONS.index(case.act)
    args.instance_last, args.residual_first = case.last, case.residual == "first"
    args.batch_stats, args.channels_last = case.batch_stats, case.channels_last
    for name, tensor in {**given, **outputs}.items():
        setattr(args, name, None if tensor is None else tensor.data_ptr())
    library.emulator_settings(ctypes.c_uint64(case.seed), ctypes.c_uint64(case.shared))
    library.ibn_norm_workspace_bytes.restype = ctypes.c_uint64
    for backward in (False, True):
        if backward and "mask" in outputs:
            args.residual = None  # the mask takes its place
        bytes_held = library.ibn_norm_workspace_bytes(ctypes.byref(args), backward)
        workspace = torch.full((bytes_held,), 255, dtype=torch.uint8)  # NaN in every type
        args.workspace = workspace.data_ptr()
        error = ctypes.create_string_buffer(500)
        if library.ibn_norm_run(ctypes.byref(args), backward, error, ctypes.c_uint64(500)):
            raise RuntimeError(error.value.decode())
    return outputs


def truth(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """The same in float64 by the definition and autograd."""

    def leaf(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.double().contiguous().requires_grad_()

    x, residual = leaf(inputs.x), leaf(inputs.residual)
    parameters = [leaf(p) for p in inputs.parameters]
    running = [r.double() for r in inputs.running]
    images = case.batch_group or max(len(inputs.x), 1)
    parts = []
    for start in range(0, len(inputs.x), images):
        part = slice(start, start + images)
        parts.append(
            ibn_norm_reference(
                x[part], (*parameters, *running), None if residual is None else residual[part],
                case.instance, case.last, case.residual == "first", case.act, SLOPE,
                case.batch_stats, EPS,
            )[0]
        )  # fmt: skip
    y = torch.cat(parts)
    leaves = {"dx": x, "d_residual": residual}
    names = ("d_in_weight", "d_in_bias", "d_bn_weight", "d_bn_bias")
    leaves |= dict(zip(names, parameters, strict=True))
    wanted = {name: value for name, value in leaves.items() if value is not None}
    gradients = torch.autograd.grad(y, list(wanted.values()), inputs.dy.double(), allow_unused=True)
    results = {"y": y.detach()}
    for (name, value), gradient in zip(wanted.items(), gradients, strict=True):
        results[name] = torch.zeros_like(value) if gradient is None else gradient
    return results


def check(library: ctypes.CDLL, case: Case) -> dict[str, Tensor]:
    """Run a case and compare every output with the truth; parameter gradients by their size."""
    inputs = _draw(case)
    outputs, expected = run(library, case, inputs), truth(case, inputs)
    for name, actual in outputs.items():
        if name in expected:
            wide = name.endswith(("weight", "bias"))
            scale = max(1.0, float(expected[name].abs().max())) if wide and actual.numel() else 1.0
            assert_close(actual / scale, expected[name] / scale)
    if "mask" in outputs:
        assert outputs["mask"].flatten().tolist() == _sign_bits(case, inputs, expected)
    return outputs


def _sign_bits(case: Case, inputs: Inputs, expected: dict[str, Tensor]) -> list[int]:
    positive = expected["y"] > 0  # relu and leaky_relu keep the sign of their input
    rows = positive.movedim(1, -1) if case.channels_last else positive.flatten(2)
    rows = rows.reshape(-1, rows.shape[-1])
    padded = torch.nn.functional.pad(rows.long(), (0, -rows.shape[1] % 8))
    weights = 2 ** torch.arange(8)
    return (padded.view(len(rows), -1, 8) * weights).sum(-1).flatten().tolist()


@pytest.fixture(scope="module")
def library(build_on_cpu) -> ctypes.CDLL:
    return build_on_cpu("ibn_norm_on_cpu.cpp")


def _cases() -> list[Case]:
    cases = []
    for dtype in DTYPES:
        for channels_last in (False, True):
            for residual in ("", "first", "after"):
                for act in ACTIVATIONS:
                    case = Case(
                        dtype=dtype, channels_last=channels_last, residual=residual, act=act
                    )
                    cases += [
                        case,
                        replace(case, shape=(2, 16, 8, 8), instance=8, last=True, seed=1),
                    ]
    plain = [
        Case(instance=0),
        Case(instance=5),
        Case(last=True),
        Case(affine=False),
        Case(batch_stats=False),
        Case(batch_stats=False, instance=0, act="none"),
        Case(shape=(1, 5, 6, 7)),
        Case(shape=(2, 5, 1, 1)),
        Case(shape=(1, 4, 1, 1)),
        Case(shape=(3, 1, 9), instance=1),
        Case(shape=(2, 3, 4), instance=0),
        Case(shape=(2, 4, 3, 3, 3)),
        Case(shape=(4, 6, 5, 5), batch_group=2),
        Case(shape=(5, 6, 5, 5), batch_group=2, shared=SMALL),
        Case(misaligned=True),
        Case(shape=(2, 16, 8, 8), instance=8, misaligned=True),
        Case(shape=(2, 300, 2, 2), instance=7),  # more channels than a tile
        Case(shape=(1, 3, 70, 40), instance=1),  # 700 vectors: a team of 128
        Case(shape=(2, 2, 96, 96), instance=1),  # 2304 vectors: the largest team
        Case(shape=(70, 3, 2, 2), instance=1),
        Case(residual="after", keep_mask=False),
        Case(shape=(2, 5, 9, 9), residual="after", act="leaky_relu"),
        Case(shape=(2, 4, 96, 96), shared=SMALL, residual="after"),  # several chunks a group
        Case(shape=(3, 5, 11, 9), shared=SMALL, residual="first", act="silu"),
        Case(shape=(3, 5, 11, 9), shared=SMALL, residual="after", batch_stats=False),
    ]
    for case in plain:
        for dtype in (torch.float32, torch.bfloat16):
            cases.append(replace(case, dtype=dtype))
            cases.append(replace(case, dtype=dtype, channels_last=True))
    return cases


@pytest.mark.parametrize("case", _cases(), ids=str)
def test_kernels_equal_the_definition(library: ctypes.CDLL, case: Case) -> None:
    check(library, case)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shared", [FULL, SMALL])
def test_no_schedule_changes_a_bit(library: ctypes.CDLL, channels_last: bool, shared: int) -> None:
    case = Case(shape=(2, 5, 33, 17), channels_last=channels_last, shared=shared, residual="after")
    inputs = _draw(case)
    first = run(library, case, inputs)
    for seed in range(1, 5):
        again = run(library, replace(case, seed=seed), inputs)
        for name, value in first.items():
            assert torch.equal(value, again[name]), (name, seed)


@pytest.mark.parametrize("shape", [(0, 5, 6, 7), (3, 5, 0, 7), (3, 0, 6, 7)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_empty_input_zeroes_the_parameter_gradients(
    library: ctypes.CDLL, shape: tuple[int, ...], channels_last: bool
) -> None:
    case = Case(shape=shape, instance=min(2, shape[1]), channels_last=channels_last)
    outputs = run(library, case, _draw(case))
    for name in ("d_in_weight", "d_in_bias", "d_bn_weight", "d_bn_bias"):
        assert outputs[name].eq(0).all(), name


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shared", [FULL, SMALL])
def test_statistics_survive_a_mean_of_a_thousand_deviations(
    library: ctypes.CDLL, channels_last: bool, shared: int
) -> None:
    case = Case(
        shape=(2, 5, 40, 40), mean=1000.0, channels_last=channels_last, shared=shared, act="none"
    )
    inputs = _draw(case)
    outputs = run(library, case, inputs)
    var = inputs.x.double().flatten(2).var(-1, correction=0)[:, : case.instance]
    torch.testing.assert_close(outputs["var"][:, : case.instance].double(), var, rtol=1e-5, atol=0)
    expected = truth(case, inputs)["y"]  # a float32 mean of 1000 is known to 3e-5 deviations
    torch.testing.assert_close(outputs["y"].double(), expected, rtol=0, atol=1.5e-4)


def test_one_value_per_group_gives_the_bias(library: ctypes.CDLL) -> None:
    case = Case(shape=(3, 4, 1, 1), instance=4, act="none")
    inputs = _draw(case)
    y = run(library, case, inputs)["y"]
    assert torch.equal(y[..., 0, 0], inputs.parameters[1].expand(3, 4))


COMMON, MATH, PLANES, ROWS, MERGE, KERNELS = (
    "cuda_common.cuh",
    *(f"ibn_norm/ibn_norm_{name}.cuh" for name in ("math", "planes", "rows", "merge", "kernels")),
)
BARRIER = "  __syncthreads();\n"
TEAM_CASE = Case(shape=(2, 2, 40, 40))
ROWS_CASE = Case(shape=(2, 16, 8, 8), instance=8, channels_last=True)
DEFECTS: dict[str, tuple[str, str, str, Case]] = {  # file, what stands there, defect, case
    "missing barrier in a team": (MATH, BARRIER, "", TEAM_CASE),
    "missing barrier between pixels": (ROWS, BARRIER, "", ROWS_CASE),
    "missing barrier in a merge": (MERGE, BARRIER, "", ROWS_CASE),
    "barrier of one half": (MATH, BARRIER, "  if (threadIdx.x < 64) __syncthreads();\n", TEAM_CASE),
    "missing lane": (MATH, "int lane = 16;", "int lane = 8;", Case()),
    "missing tail": (COMMON, "i / kWords < count", "i / kWords < count - 1", Case()),
    "read past the end": (PLANES, "smaller(args.S - s, kSize)", "kSize", Case()),
    "wrong alignment": (
        KERNELS,
        "all_aligned(args) && args.S %",
        "args.S %",
        Case(misaligned=True, shape=(1, 4, 4, 4)),
    ),
    "sum of squares": (
        PLANES,
        "sums.shift = total / places[u].count;",
        "",
        Case(mean=1000.0),
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_caught(build_on_cpu, name: str) -> None:
    file, old, new, case = DEFECTS[name]
    broken = build_on_cpu("ibn_norm_on_cpu.cpp", (file, old, new), ("ONLY_FLOAT32",))
    with pytest.raises((AssertionError, RuntimeError)):
        for seed in range(3):
            check(broken, replace(case, seed=seed))
