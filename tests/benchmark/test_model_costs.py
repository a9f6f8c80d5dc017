import argparse

import pytest
import torch
from torch import nn

from ibnvision.benchmark import (
    live_bytes,
    model_costs,
    model_rows,
    model_runs,
    models,
    products,
    record,
)
from ibnvision.benchmark.model_tables import FOLDED, INFERENCE, LATENCY, TRAINING
from ibnvision.benchmark.network_cost import Setup
from ibnvision.layers import IBNAct2d
from ibnvision.ops import why_no_kernel

KERNEL = not why_no_kernel("ibn_norm_forward", torch.empty(0))


class Small(nn.Module):
    """A stem with a mixed norm, a block whose norm folds, a classifier; plain: both norms plain."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()) if plain else IBNAct2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm2(self.conv(self.norm1(self.stem(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def row():
    made = model_rows._row(
        "plain", ((12, 2),) * 3, lambda name, setup, **_: Small(name == "plain"), norms=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model_rows.ROWS, "small", made)
        yield made


@pytest.fixture(scope="module")
def records(row, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "models.jsonl"
    options = ["--what", "table", "--model", "small", "--repeats", "3", "--out", str(path)]
    assert models.main(["--quick", *options]) == 0
    return record.read(path)


def setup(part: str, batch: int = 2) -> Setup:
    return Setup("small", "plain", part, 12, batch, "cpu", "nchw", "fp32")


def test_a_row_is_measured_in_every_part_by_every_backend(records):
    times = [r for r in records if r["metric"] == "time"]
    plain = {(part, b) for part in (LATENCY, INFERENCE, TRAINING) for b in ("fallback", "timm")}
    ours = {(part, "kernel") for part in (LATENCY, INFERENCE, TRAINING)}
    ours |= {(LATENCY, FOLDED), (INFERENCE, FOLDED)}
    assert {(r["pass"], r["backend"]) for r in times} == plain | (ours if KERNEL else set())
    for r in times:
        assert r["shape"] == [1 if r["pass"] == LATENCY else 2, 3, 12, 12]
        assert r["what"] == "table" and r["model"] == "small" and r["plain"] == "plain"
        assert 0 < r["value"] and 0 < r["peak_mb"] and 0 < r["floor_fraction"]
        assert ("kept_mb" in r) == (r["pass"] == TRAINING)
    assert {r["format"] for r in times} == {"channels_last"}
    if KERNEL:
        asked = {r["metric"] for r in records if "low" in r and r["pass"] == INFERENCE}
        assert "times faster than plain timm" in asked
        assert "times faster than plain timm, with ours folded" in asked


def test_records_carry_the_fields_of_timms_tables(records):
    cells = 144
    macs = 9 * 8 * (3 + 8) * cells + 8000
    for r in (r for r in records if r["metric"] == "time"):
        of = "train" if r["pass"] == TRAINING else "infer"
        assert r[f"{of}_batch_size"] == r["shape"][0] and r[f"{of}_img_size"] == 12
        assert r[f"{of}_step_time"] == round(r["wall_ms"], 3)
        assert r[f"{of}_samples_per_sec"] == round(r["images_per_s"], 2)
        assert r["param_count"] == round((9 * 8 * (3 + 8) + 32 + 9000) / 1e6, 2)
        if of == "infer":
            assert r["infer_gmacs"] == round(macs / 1e9, 2)
            assert r["infer_macts"] == round((16 * cells + 1000) / 1e6, 2)
            assert r["flops"] == 2 * macs * r["shape"][0]


def test_fields_of_timm_have_its_units():
    work, network = products.Work(flops=8_179_000_000, bytes=0, activations=22_220_000), Small(True)
    made = model_costs.timm_fields(setup(INFERENCE), 0.5, work, network)
    assert made["infer_samples_per_sec"] == 4 and made["infer_step_time"] == 500
    assert made["infer_gmacs"] == 2.04 and made["infer_macts"] == 11.11  # each of a batch of two
    assert made["param_count"] == 0.01


def test_against_leaves_the_others_out(row):
    found, _ = model_costs.entries(row, setup(INFERENCE), frozenset())
    assert set(found) == {"fallback"} | ({"kernel", FOLDED} if KERNEL else set())
    calls, skipped, spent = model_costs.calls_of(
        row, setup(TRAINING), found, against=frozenset(("timm",)), budget=model_costs.Budget(99.0)
    )
    assert "compiled fallback" not in {**calls, **skipped} and spent == 0


def test_a_spent_budget_leaves_compiling_out_with_its_reason(row):
    skipped: dict[str, str] = {}
    budget = model_costs.Budget(0.0)
    assert model_costs.add_compiled(row, setup(INFERENCE), {}, skipped, budget) == 0
    assert skipped == {"compiled fallback": "--compile-minutes are spent"}


def test_compiling_is_timed_and_taken_off_the_budget(row, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    calls, budget = {}, model_costs.Budget(50.0)
    seconds = model_costs.add_compiled(row, setup(TRAINING), calls, {}, budget)
    assert set(calls) == {"compiled fallback"} and seconds > 0
    assert budget.left_s == pytest.approx(50 - seconds)


def test_what_disagrees_is_not_timed(row):
    found, _ = model_costs.entries(row, setup(INFERENCE), None)
    model_costs.check(row, setup(INFERENCE), found)
    if KERNEL:
        with torch.no_grad():
            found["kernel"].network.head.bias[0] += 1
        with pytest.raises(AssertionError):
            model_costs.check(row, setup(INFERENCE), found)


def test_peak_and_kept_bytes_by_hand():
    x, weight = torch.ones(1000, requires_grad=True), torch.ones(1000)
    with torch.no_grad():
        peak = live_bytes.peak_bytes(lambda: (x * 2).mul_(3) + 1, [x], "cpu")
    assert peak == 3 * 4000
    assert (
        live_bytes.kept_bytes(lambda: (x * weight).exp(), [weight]) == 4000
    )  # exp keeps its result
    assert live_bytes.kept_bytes(lambda: (x.exp() * weight).exp(), [weight]) == 2 * 4000


def test_a_batch_of_one_has_no_inference_beside_its_latency():
    assert model_costs.parts(1) == (LATENCY, TRAINING)
    assert model_costs.parts(4) == (LATENCY, INFERENCE, TRAINING)


def test_names():
    assert model_runs.names_of(None, quick=True) == ["resnet18_ibn_b"]
    assert model_runs.names_of(None, quick=False) == list(model_rows.ROWS)
    assert model_runs.names_of(["dea_net"], quick=True) == ["dea_net"]
    with pytest.raises(KeyError, match="'dea_nte'.*did you mean 'dea_net'"):
        model_runs.names_of(["dea_nte"], quick=False)


def test_defaults_by_device():
    args = argparse.Namespace(
        device="cuda", dtype=None, format=None, model=None, quick=False, compile_minutes=None
    )
    found = list(model_runs.setups(args))
    assert {(s.dtype, s.format, s.device) for s in found} == {("bf16", "channels_last", "cuda")}
    assert {s.model for s in found} == set(model_rows.ROWS)
    assert model_runs.budget_of(args).left_s == float("inf")
    args.device = "cpu"
    assert {s.dtype for s in model_runs.setups(args)} == {"fp32"}
    assert model_runs.budget_of(args).left_s == 60 * model_runs.COMPILE_MINUTES
    args.compile_minutes = 0.5
    assert model_runs.budget_of(args).left_s == 30


def test_model_belongs_to_the_table(capsys):
    with pytest.raises(SystemExit):
        models.main(["--model", "dea_net"])
    assert "--what table" in capsys.readouterr().err


def test_the_dense_counterpart_has_as_many_tokens():
    row, pixels = model_rows.ROWS["vit_small_lambda_patch16"], 32
    made = Setup("vit_small_lambda_patch16", row.plain, INFERENCE, pixels, 1, "cpu", "nchw", "fp32")
    ours, plain = (
        row.subject.make(n, made, depth=1, embed_dim=24, num_heads=3)
        for n in (made.model, made.plain)
    )
    x = torch.randn(1, 3, pixels, pixels)
    assert ours.forward_features(x).shape == plain.forward_features(x).shape == (1, 9, 24)


def test_dea_net_is_folded_for_inference_and_its_counterpart_computes_the_same():
    row = model_rows.ROWS["dea_net"]
    made = Setup("dea_net", row.plain, INFERENCE, 32, 1, "cpu", "nchw", "fp32")
    ours, plain = (row.subject.network(made, n) for n in (made.model, made.plain))
    assert ours.fused and type(ours) is not type(plain)
    given = row.subject.batch(made)
    with torch.no_grad():
        torch.testing.assert_close(
            row.subject.infer(ours, given), row.subject.infer(plain, given), rtol=1e-3, atol=1e-4
        )
