import numpy as np
import pytest
import torch

from ibnvision.benchmark import measure, plans, row_costs
from ibnvision.layers.fold_norm import FoldedConv2d
from ibnvision.ops import reference_ops, why_no_kernel
from ibnvision.tasks import segmentation

IBN = "model_args.backbone_args.ibn"
ROWS = (
    plans.Row("BN", (f"{IBN}=none", "augment=flip")),
    plans.Row("BN + jitter", (f"{IBN}=none", "augment=jitter")),
    plans.Row("IBN-a", (f"{IBN}=a",)),
)
BUILT = not why_no_kernel("ibn_norm_forward", torch.empty(0))
BACKENDS = ["kernel", "fallback"] if BUILT else ["fallback"]
TIMES = {"BN: kernel": 0.5, "BN: fallback": 1.0, "IBN-a: kernel": 0.8, "IBN-a: fallback": 0.4}


def jobs(tmp_path, config="seg_streets_tiny", rows=ROWS, tests=("streets_day",)):
    words = ("steps=2", "eval_every=1")
    return plans.plan_rows(rows, tests, config, [0, 1], words, tmp_path)


def clock(calls, repeats, **options):
    """measure.interleave on a clock of ours; every call runs once."""
    for call in calls.values():
        call()
    wobble = 1 + 0.01 * np.arange(repeats)[:, None]
    return {name: TIMES.get(name, 1.0) * wobble * [9, 1] for name in calls}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Records of the three rows by a clock of ours, and (images, call) -> why it had no kernel."""
    reasons, why = [], {}

    def timed(calls, repeats, **options):
        for name, call in calls.items():
            call()
            count, reason = reasons[-1]
            why[count, name] = reason
        return clock(calls, repeats)

    def predict(model, images):
        assert isinstance(model, torch.nn.Module) and not model.training
        assert not torch.is_grad_enabled() and torch.get_num_threads() == 1
        reasons.append((len(images), why_no_kernel("ibn_norm_forward", images)))
        return images * 2

    monkeypatch.setattr(measure, "interleave", timed)
    monkeypatch.setattr(segmentation, "predict", predict)
    monkeypatch.setattr(row_costs, "network", lambda job: torch.nn.Identity().eval())
    return row_costs.records(jobs(tmp_path), 5), why


def test_rates_ratios_and_memory_by_hand(study):
    found, why = study
    cells = {(r["model"], r["metric"], r["batch"], r["backend"]): r for r in found}
    slow = cells["BN", row_costs.RATE, 8, "fallback"]
    assert slow["value"] == pytest.approx(8 / 1.02) and slow["size"] == [32, 48]  # the median
    assert (slow["n"], slow["spread"]["max"], slow["unit"]) == (5, 8.0, "images/CPU-s")
    assert slow["weights"] == "untrained"
    live = cells["IBN-a", row_costs.LIVE, 1, "fallback"]
    assert live["value"] == 2 * 3 * 32 * 48 * 4 / 1e6  # the image, and as much again
    assert [r["network_of"] for r in found if r["model"] == "BN + jitter"] == ["BN"] * (
        len(found) // 3
    )
    assert set(why) == {
        (n, f"{row}: {b}") for n in (1, 8) for row in ("BN", "IBN-a") for b in BACKENDS
    }
    plain = {reason for (_, name), reason in why.items() if name.endswith("fallback")}
    assert plain == {"reference_ops() is active"}
    if BUILT:
        assert why[8, "IBN-a: kernel"] == ""
        ratio = cells["IBN-a", row_costs.RATIO, 1, "kernel"]
        assert (ratio["value"], ratio["unit"], ratio["n"]) == (pytest.approx(0.5), "x", 5)


@pytest.mark.skipif(not BUILT, reason="needs the compiled kernels")
def test_the_table_names_losses_as_plainly(study):
    found, _ = study
    text, words = row_costs.table(found).split("\n\n")
    head = [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]
    assert head[1:3] == ["batch 1, kernels", "batch 1, plain PyTorch"]
    assert head[-1] == "live MB, plain PyTorch" and len(text.splitlines()) == 2 + len(ROWS)
    assert "pictures of 48x32" in words and "Rows that share a network are measured once" in words
    assert "behind plain PyTorch in: IBN-a at batch 1 (0.50 x), IBN-a at batch 8 (0.50 x);" in words
    assert "ahead of it in: BN at batch 1 (2.00 x), BN at batch 8 (2.00 x) (95 %" in words
    once = [r | {"n": 1} for r in found]
    assert "1 repetition(s) tell no row's kernels" in row_costs.shown(once)
    even = [r | {"low": 0.9, "high": 1.1} if r["metric"] == row_costs.RATIO else r for r in found]
    words = row_costs.shown(even)
    assert "in no row slower; in none faster; not told apart in: BN at batch 1" in words


def test_without_kernels_there_is_nothing_to_compare(study):
    plain = [r for r in study[0] if r["backend"] == "fallback"]
    assert row_costs.shown(plain).endswith("so there is nothing to compare.")
    assert row_costs.table([]) == "" and row_costs.records([], 3) == []


@pytest.mark.parametrize(
    ("config", "domain"),
    [
        ("seg_streets_tiny", "streets_day"),
        ("det_streets_tiny", "streets_day_boxes"),
        ("dehaze_streets_tiny", "haze"),
    ],
)
def test_every_task_runs_folded(tmp_path, monkeypatch, config, domain):
    job, _ = jobs(tmp_path, config, [plans.Row("row", ())], [domain])
    model = row_costs.network(job)
    folded = any(isinstance(m, FoldedConv2d) for m in model.modules())
    assert getattr(model, "fused", folded) and not model.training
    monkeypatch.setattr(row_costs, "network", lambda job: model)
    monkeypatch.setattr(measure, "interleave", clock)
    found = row_costs.records([job], 1)
    rates = [r for r in found if r["metric"] == row_costs.RATE]
    assert [(r["batch"], r["backend"]) for r in rates] == [
        (n, b) for n in (1, job.cfg.batch_size) for b in BACKENDS
    ]
    height, width = rates[0]["size"]
    lives = [r["value"] for r in found if r["metric"] == row_costs.LIVE]
    assert all(value > 3 * height * width * 4 / 1e6 for value in lives)
    with reference_ops():
        assert torch.stack(list(row_costs.images(job.cfg, 2))).shape == (2, 3, height, width)


def test_pictures_of_another_size_are_passed_over(tmp_path, monkeypatch):
    items = [{"image": torch.full((3, side, 4), float(side)), "target": 0} for side in (2, 5, 2)]
    monkeypatch.setattr(row_costs, "dataset_of", lambda *args: items)
    job = jobs(tmp_path)[0]
    batch = row_costs.images(job.cfg, 4)
    assert batch.shape == (4, 3, 2, 4) and batch.unique().tolist() == [2.0]


def test_a_complete_run_gives_its_weights(tmp_path, monkeypatch):
    first, second = jobs(tmp_path, rows=ROWS[:1])
    complete, loaded = {first.cfg.name: None, second.cfg.name: {"streets_day": {}}}, []
    monkeypatch.setattr(row_costs, "final_scores", lambda job: complete[job.cfg.name])

    def load(path):
        loaded.append(path)
        model = row_costs.engine.build_model(second.cfg, 8).eval()
        return row_costs.Trained(model, second.cfg, ("a",) * 8, (32, 48))

    monkeypatch.setattr(row_costs, "load_trained", load)
    monkeypatch.setattr(measure, "interleave", clock)
    assert {r["weights"] for r in row_costs.records([first, second], 1)} == {"trained"}
    assert loaded == [second.folder / "last.pt"]
