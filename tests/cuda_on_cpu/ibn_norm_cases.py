"""Cases of ibn_norm for its raw CUDA launchers, and the definition in float64 to hold them to."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ibnvision.ops.ibn_norm import ACTIVATIONS, ibn_norm_reference, statistics_dtype
from ibnvision.testing import assert_close

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]  # the index is Dtype
EPS, SLOPE = 1e-5, 0.1
FULL, SMALL = 96 << 10, 256  # bytes a group may take before it is split


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
    momentum: float = 0.1
    batches: int = 0  # seen with this one: the running statistics are their average; 0 for momentum

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


def draw(case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed)
    channels, rest = case.shape[1], case.shape[1] - case.instance

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    wide = statistics_dtype(torch.empty(0, dtype=case.dtype))
    scale = 1 + torch.arange(channels, dtype=torch.float64) % 3
    scale = scale.view(-1, *(len(case.shape) - 2) * [1])
    x = normal(*case.shape) * scale + case.mean * scale
    sizes = (case.instance, case.instance, rest, rest)
    return Inputs(
        x.to(case.dtype),
        normal(*case.shape).to(case.dtype) if case.residual else None,
        normal(*case.shape).to(case.dtype),
        [normal(size).to(wide) if case.affine else None for size in sizes],
        [normal(rest).to(wide), normal(rest).square().add(0.5).to(wide)],
    )


def _dense(values: Tensor, case: Case, device: torch.device) -> Tensor:
    """A copy on the device in the format of the case, off a multiple of 16 bytes if it says so."""
    order = values.movedim(1, -1) if case.channels_last else values
    storage = torch.empty(values.numel() + 1, dtype=case.dtype, device=device)
    dense = storage[int(case.misaligned) :][: values.numel()].view(order.shape).copy_(order)
    return dense.movedim(-1, 1) if case.channels_last else dense


def run(target: Any, case: Case, inputs: Inputs, schedule: int = 0) -> dict[str, Tensor]:
    """Outputs of the forward and the backward kernels; each starts as NaN, the mask as ones."""
    device = target.device
    wide = statistics_dtype(inputs.x)
    images, channels = case.shape[:2]
    space = inputs.x.shape[2:].numel()
    batch = channels - case.instance

    def nan(*shape: int) -> Tensor:
        return torch.full(shape, float("nan"), dtype=wide, device=device)

    def activation(values: Tensor | None) -> Tensor | None:
        return None if values is None else _dense(values, case, device)

    def move(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(device, copy=True)

    nothing = torch.full_like(inputs.x, float("nan"))
    after = case.residual == "after"
    outputs = {
        "y": activation(nothing),
        "mean": nan(images, channels),
        "var": nan(images, channels),
        "dx": activation(nothing),
        "d_in_weight": nan(case.instance),
        "d_in_bias": nan(case.instance),
        "d_bn_weight": nan(batch),
        "d_bn_bias": nan(batch),
    }
    if after and case.act != "none":
        outputs["d_residual"] = activation(nothing)
    if after and case.act in ("relu", "leaky_relu") and case.keep_mask:
        row = channels if case.channels_last else space
        size = (inputs.x.numel() // row, (row + 7) // 8)
        outputs["mask"] = torch.full(size, 255, dtype=torch.uint8, device=device)
    names = ("in_weight", "in_bias", "bn_weight", "bn_bias", "running_mean", "running_var")
    values = [move(value) for value in inputs.parameters + inputs.running]
    given = dict(zip(names, values, strict=True))
    given |= {"x": activation(inputs.x), "residual": activation(inputs.residual)}
    given["dy"] = activation(inputs.dy)
    given["num_batches_tracked"] = move(torch.tensor(case.batches)) if case.batches else None
    moves = case.batch_stats and not case.batch_group
    if moves:
        outputs |= {name: given.pop(name) for name in ("running_mean", "running_var")}

    fields = {
        **given, **outputs,
        "N": images, "C": channels, "S": space, "instance_channels": case.instance,
        "batch_group": case.batch_group or images, "eps": EPS, "slope": SLOPE,
        "dtype": DTYPES.index(case.dtype), "act": ACTIVATIONS.index(case.act),
        "instance_last": case.last, "residual_first": case.residual == "first",
        "batch_stats": case.batch_stats, "channels_last": case.channels_last,
        "moves": moves, "momentum": case.momentum,
    }  # fmt: skip
    target.settings(schedule, case.shared)
    for backward in (False, True):
        if backward and "mask" in outputs:
            fields["residual"] = None  # the mask takes its place
        held = target.ask("ibn_norm_workspace_bytes", backward, fields=fields)
        workspace = torch.full((held,), 255, dtype=torch.uint8, device=device)  # NaN in every type
        name = "ibn_norm_backward" if backward else "ibn_norm_forward"
        target.launch(name, fields | {"workspace": workspace})
    return {name: output.cpu() for name, output in outputs.items()}


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
    tracks = case.batch_stats and not case.batch_group and case.instance < case.shape[1]
    if tracks and x is not None and x.numel():
        z = x.detach() + (residual.detach() if case.residual == "first" else 0)
        batch = z[:, : -case.instance or None] if case.last else z[:, case.instance :]
        values, share = batch.transpose(0, 1).flatten(1), 1 / (case.batches or 1 / case.momentum)
        found = values.mean(1), values.var(1, correction=int(values.shape[1] > 1))
        for name, before, now in zip(("running_mean", "running_var"), running, found, strict=True):
            results[name] = before + (now - before) * share
    for (name, value), gradient in zip(wanted.items(), gradients, strict=True):
        results[name] = torch.zeros_like(value) if gradient is None else gradient
    return results


def check(target: Any, case: Case, schedules: int | None = None) -> dict[str, Tensor]:
    """Run a case and compare every output with the truth; parameter gradients by their size.

    The target's other schedules, or the first of them, must give the same bits.
    """
    inputs = draw(case)
    outputs, expected = run(target, case, inputs), truth(case, inputs)
    for name, actual in outputs.items():
        if name in expected:
            wide = name.endswith(("weight", "bias"))
            scale = max(1.0, float(expected[name].abs().max())) if wide and actual.numel() else 1.0
            assert_close(actual / scale, expected[name] / scale)
    if "mask" in outputs:
        assert outputs["mask"].flatten().tolist() == _sign_bits(case, inputs, expected)
    for schedule in target.schedules[1:schedules]:
        again = run(target, case, inputs, schedule)
        for name, value in outputs.items():
            assert torch.equal(value, again[name]), (name, schedule)
    return outputs


def _sign_bits(case: Case, inputs: Inputs, expected: dict[str, Tensor]) -> list[int]:
    positive = expected["y"] > 0  # relu and leaky_relu keep the sign of their input
    rows = positive.movedim(1, -1) if case.channels_last else positive.flatten(2)
    rows = rows.reshape(-1, rows.shape[-1])
    padded = torch.nn.functional.pad(rows.long(), (0, -rows.shape[1] % 8))
    weights = 2 ** torch.arange(8)
    return (padded.view(len(rows), -1, 8) * weights).sum(-1).flatten().tolist()


def all_cases() -> list[Case]:
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
        Case(momentum=1.0),
        Case(batches=3),
        Case(shape=(3, 5, 11, 9), shared=SMALL, momentum=0.9, residual="first"),
        Case(shape=(3, 5, 11, 9), shared=SMALL, batches=1),
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
