import dataclasses

import pytest
import torch

from ibnvision.benchmark import ceilings, op_rows, op_tables, ops, record
from ibnvision.ops import why_no_kernel

KERNEL = not why_no_kernel("ibn_norm_forward", torch.empty(0))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("ops") / "ops.jsonl"
    threads = torch.get_num_threads()
    options = ["--op", "ibn_norm", "--no-compile", "--repeats", "2", "--out", str(path)]
    assert ops.main(["--quick", *options]) == 0
    assert torch.get_num_threads() == threads
    return record.read(path)


def test_quick_measures_every_backend_pass_and_format(quick):
    found = {(r["backend"], r["pass"], r["format"]) for r in quick if r["metric"] == "time"}
    names = ["eager", "fallback", "batch norm", "copy"] + ["kernel"] * KERNEL
    assert found == {(b, p, f) for b in names for p in op_rows.PASSES for f in op_rows.FORMATS}
    for r in (r for r in quick if r["metric"] != "ceiling"):
        assert r["value"] > 0 and r["quick"] and r["op"] == "ibn_norm" and r["threads"] == 1
        if r["metric"] == "time":
            assert r["spread"]["min"] <= r["value"] <= r["spread"]["max"] and r["n"] == 2


def test_times_carry_their_floor(quick):
    """Least bytes over the copy's rate, which is measured in the same run."""
    rate = 1e9 * next(r["value"] for r in quick if r["metric"] == "ceiling" and r["unit"] == "GB/s")
    size = 4 * 2 * 64 * 28 * 28
    moved = {"forward": 2.5 * size, "forward+backward": 6.5 * size, "eval": 2 * size}
    for r in quick:
        if r["metric"] == "time" and r["backend"] == "eager":
            assert r["bytes"] == moved[r["pass"]]
            assert r["floor_fraction"] >= r["bytes"] / rate / (r["value"] / 1e3) * (1 - 1e-9)
            assert r["flops"] / r["bytes"] < 1 and 0 < r["floor_fraction"] < 1


def test_a_rival_that_cannot_run_is_skipped_with_its_reason(monkeypatch):
    def fails(shape):
        raise RuntimeError("no such kernel here")

    row = dataclasses.replace(op_rows.OPS["ibn_norm"], rivals={"theirs": fails})
    monkeypatch.setitem(op_rows.OPS, "ibn_norm", row)
    case = op_rows.Case("ibn_norm", (2, 6, 5, 5), "fp32", "nchw", "cpu")
    calls, skipped = ops.backends(case, "forward", compiled=False)
    assert skipped["theirs"] == "RuntimeError: no such kernel here" and "theirs" not in calls
    assert {"eager", "fallback", "copy"} <= set(calls)
    calls, skipped = ops.backends(case, "forward", compiled=True, against=frozenset())
    assert "theirs" not in {**calls, **skipped} and "compiled" not in {**calls, **skipped}


def test_ways_to_compute_a_detail_conv_agree():
    """All but the folded form, which has one kernel for the sum."""
    case = op_rows.Case("detail_conv_layer", (2, 6, 5, 7), "fp32", "nchw", "cpu")
    row, x = op_rows.OPS[case.op], case.tensor(0)
    layer, index, five = (
        case.module(m) for m in (row.layer, row.official, row.rivals["five convolutions"])
    )
    for other in (index, five):
        other.load_state_dict(layer.state_dict())
        torch.testing.assert_close(other(x), layer(x), rtol=1e-4, atol=1e-4)
    fused = row.rivals["folded"](case.shape)
    assert [p.shape for p in fused.parameters()] == [p.shape for p in layer.fuse().parameters()]
    assert row.operations("eval", case.shape) == 18 * 6 * case.size


def test_attention_row_floors_its_rivals_by_their_function():
    """A mask and FlexAttention compute the row's function, attention over all pairs another."""
    case = op_rows.Case("lambda_attention", (1, 2, 5 + 9**2, 64), "bf16", "nchw", "cpu")
    best = ceilings.Ceilings(1e9, {"bf16": 1e12, "fp32": 1e9})
    flex = ops._floor(case, "forward", "flex", 1.0, best)
    pairs = int(op_rows.OPS[case.op].official(case.shape).mask.sum())
    assert flex["flops"] == pytest.approx(4 * 2 * 64 * pairs)
    assert flex["bytes"] == 4 * 2 * case.size and flex["floor_fraction"] == flex["bytes"] / 1e9
    assert ops._floor(case, "forward", "sdpa", 1.0, best) == {}
    calls, _ = ops.backends(case, "forward", compiled=False, against=frozenset(("sdpa",)))
    assert {"eager", "fallback", "sdpa", "copy"} <= set(calls)
    assert all(p.dtype == torch.bfloat16 for p in case.module(op_rows.LambdaHeads).parameters())


def test_a_layer_that_computes_something_else_is_not_timed():
    case = op_rows.Case("detail_conv_layer", (1, 8, 16, 16), "bf16", "nchw", "cpu")
    official, x = case.module(op_rows.IndexDetailConv), case.tensor(0)
    layer = case.module(op_rows.DetailConv)
    layer.load_state_dict(official.state_dict())
    ops.check(case, layer, official, x)  # bf16 rounds the five kernels and their sum differently
    with torch.no_grad():
        layer.conv1_5.bias += 0.5
    with pytest.raises(AssertionError):
        ops.check(case, layer, official, x)


def test_format_keeps_what_a_row_has():
    names, dtypes = ["ibn_norm", "detail_conv"], ["fp32"]
    made = ops.cases(names, dtypes, "cpu", quick=True, formats=["channels_last"])
    assert [(c.op, c.format) for c in made] == [("ibn_norm", "channels_last")]


def test_standing_says_losses_and_wins_by_quartiles():
    def time(backend, value, shape):
        quartiles = {"q1": value - 1, "q3": value + 1}
        made = {"op": "ibn_norm", "dtype": "fp32", "format": "nchw", "launch": "launches"}
        made |= {"pass": "eval", "shape": shape, "backend": backend, "value": value}
        return made | {"spread": quartiles}

    group = [time("kernel", 10.0, [1]), time("kernel", 10.0, [2])]
    group += [time("eager", 40.0, [1]), time("eager", 11.0, [2]), time("compiled", 5.0, [1])]
    assert op_tables.standing(group, ["eager", "compiled", "batch norm"]) == (
        "ibn_norm, fp32, nchw: by quartiles the kernel is ahead of eager in 1 of 2 (4 x); "
        "behind compiled in 1 of 1 (0.5 x); not told apart from eager in 1 of 2 (1.1 x)."
    )
    assert op_tables.standing(group[2:], ["eager"]) == ""


def test_kept_bytes_of_the_official_layer(quick):
    """It keeps the input in two halves, for the norms, and the activation's result: twice x."""
    size = 4 * 2 * 64 * 28 * 28
    kept = {(r["backend"], r["pass"]): r["value"] for r in quick if r["metric"] == "kept"}
    assert kept["eager", "norm+act"] == 2 * size
    if KERNEL:
        assert kept["kernel", "norm+act"] == size
        assert kept["kernel", "norm+residual+act"] <= size * (1 + 1 / 32)


def test_kept_bytes_count_a_storage_once():
    x = torch.randn(4, 64, 8, 8, requires_grad=True)
    assert ops.kept_bytes(lambda t: t * t, x) == 4 * x.numel()
    assert ops.kept_bytes(lambda t: t * t.exp(), x) == 2 * 4 * x.numel()


def test_fold_row_is_measured_against_index_assignments(tmp_path):
    path = tmp_path / "ops.jsonl"
    options = ["--op", "detail_conv", "--no-compile", "--repeats", "2", "--out", str(path)]
    assert ops.main(["--quick", *options]) == 0
    records = record.read(path)
    assert {r["metric"] for r in records} == {"ceiling", "time"}
    timed = [r for r in records if r["metric"] == "time"]
    names = ["eager", "fallback", "copy"] + ["kernel"] * KERNEL
    assert {(r["backend"], r["pass"]) for r in timed} == {
        (b, p) for b in names for p in op_rows.PASSES
    }
    for r in timed:
        if r["backend"] != "copy":
            moved = {"forward": 42, "forward+backward": 75, "eval": 42}[r["pass"]]
            assert r["bytes"] == pytest.approx(4 * moved * 16 * 16)


def test_convolution_row_is_measured_in_inference_alone(tmp_path):
    path = tmp_path / "ops.jsonl"
    options = ["--op", "conv3x3", "--no-compile", "--repeats", "2", "--out", str(path)]
    assert ops.main(["--quick", *options]) == 0
    timed = [r for r in record.read(path) if r["metric"] == "time"]
    names = ["eager", "fallback", "copy"] + ["kernel"] * KERNEL
    found = {(r["backend"], r["pass"], r["format"]) for r in timed}
    assert found == {(b, "eval", "channels_last") for b in names}
    row = op_rows.OPS["conv3x3"]
    assert row.operations("eval", (2, 32, 5, 7)) == 8 * 32 * 2 * 32 * 35
    assert all(r["flops"] == 8 * 16 * 16**3 for r in timed if r["backend"] != "copy")
    case = op_rows.Case("conv3x3", (1, 16, 16, 16), "bf16", "channels_last", "cpu")
    calls, skipped = ops.backends(case, "eval", compiled=False)
    assert "kernel" not in calls and (not KERNEL or "bfloat16" in skipped["kernel"])


def test_official_layer_is_what_it_says():
    x = torch.randn(2, 6, 5, 5)
    layer = op_rows.OfficialIBN(6)
    first = torch.nn.functional.instance_norm(x[:, :3])
    second = torch.nn.functional.batch_norm(x[:, 3:], None, None, training=True)
    expected = torch.cat([first, second], 1).relu()
    torch.testing.assert_close(layer(x), expected)


def test_tables_count_in_copies(quick):
    values = {("kernel", 1.0), ("eager", 8.0), ("copy", 0.5), ("compiled", 3.0)}
    base = next(r for r in quick if r["metric"] == "time")
    made = [base | {"backend": b, "value": v, "pass": "eval"} for b, v in values]
    row = next(x for x in op_tables.tables(made).splitlines() if x.startswith("| eval ("))
    assert [c.strip() for c in row.split("|")][2:9] == ["1", "2", "16", "-", "6", "8", "3"]


@pytest.mark.parametrize("argv", [["--threads", "0"], ["--repeats", "0"], ["--op", "nothing"]])
def test_bad_arguments_end_with_a_message(argv, capsys):
    with pytest.raises(SystemExit):
        ops.main(argv)
    assert argv[0] in capsys.readouterr().err
