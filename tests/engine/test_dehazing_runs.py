"""Dehazing through the engine of all tasks: drawn items, exact resume, its own numbers."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from hazy_toy import HEIGHT, WIDTH, DrawnHazyToy, HazyToy, add_domains
from same_run import assert_same_run, interrupt_at, losses_of, rows_of

from ibnvision import config, data, engine
from ibnvision.config import Config
from ibnvision.engine import checkpoint, predict, sets
from ibnvision.metrics import PROTOCOLS, RestorationMetric
from ibnvision.tasks import dehazing


@pytest.fixture(autouse=True)
def domains(monkeypatch):
    add_domains(monkeypatch, "toy_haze", "toy_dense", "toy_ragged")
    add_domains(monkeypatch, "toy_plain", kind=HazyToy)


@pytest.fixture
def cfg(tmp_path):
    return Config(
        task="dehazing",
        name="toy",
        model="dea_net",
        model_args={"width": 4, "depths": [1, 0, 1, 0, 0], "reductions": [4, 2]},
        train_domains=("toy_haze",),
        test_domains=("toy_haze", "toy_ragged"),
        size=(16, 20),
        augment="none",
        steps=6,
        batch_size=4,
        optimizer="adam",
        lr=2e-3,
        weight_decay=0,
        schedule="cosine",
        lr_end=1e-5,
        warmup=2,
        eval_every=3,
        log_every=1,
        device="cpu",
        threads=1,
        out=str(tmp_path / "runs"),
    )


def test_a_run_leaves_what_it_promises_and_learns(cfg, tmp_path):
    cfg = dataclasses.replace(cfg, steps=40, eval_every=20, log_every=5)
    folder = engine.train(cfg)
    assert folder == Path(cfg.out) / "dehazing" / "toy"
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {
        *("config.toml", "env.json", "metrics.jsonl", "log.txt", "last.pt", "best.pt"),
        "results.png",
        *(f"overlays/toy_{domain}_{i}.png" for domain in ("haze", "ragged") for i in range(3)),
    }
    assert config.load(folder / "config.toml") == cfg
    losses = losses_of(folder)
    assert losses[-1] < 0.7 * losses[0]
    scores = [row for row in rows_of(folder, "eval") if row["step"] == 40]
    assert [(row["split"], row["domain"]) for row in scores] == [
        ("val", "toy_haze"),
        ("test", "toy_haze"),
        ("test", "toy_ragged"),
    ]
    told = ("kind", "step", "split", "domain", "weights", "images", "facts", "selection")
    assert set(scores[0]) == {*PROTOCOLS, *told}
    log = (folder / "log.txt").read_text()
    assert "toy_ragged (test)" in log and "%" not in log and "in studio range" in log
    assert f"psnr rgb dB: {PROTOCOLS['psnr_rgb_db'][:40]}" in log
    score = f"{scores[1]['psnr_rgb_db']:.2f}"
    assert score in log and f"psnr_rgb dB: source {score}, mean of 1 targets" in log
    state = checkpoint.load(folder / "last.pt")
    assert (state["size"], state["classes"], state["task"]) == ([16, 20], [], "dehazing")

    trained = predict.load_trained(predict.find_weights(None, cfg.out, "dehazing"))
    metric, test = RestorationMetric(), HazyToy("toy_ragged", "test")
    for item in test:
        restored = trained.model.restore(item["image"][None])
        metric.update(restored, item["target"][None])
    for key, value in metric.compute().items():
        assert scores[2][key] == pytest.approx(value)
    results = engine.evaluate(cfg, trained.model, domains=["toy_ragged"], out=tmp_path / "eval")
    assert results["toy_ragged"]["psnr_rgb_db"] == scores[2]["psnr_rgb_db"]
    assert results["toy_ragged"]["images"] == 6


@pytest.mark.parametrize(
    ("target", "call", "changes"),
    [
        pytest.param("compute_loss", 2, {}, marks=pytest.mark.slow),
        pytest.param("compute_loss", 5, {"workers": 2}, marks=pytest.mark.slow),
        pytest.param(  # inside the evaluation of step 3
            "predict", 10, {"workers": 2, "ema": 0.9}, marks=pytest.mark.slow
        ),
        ("compute_loss", 9, {"ema": 0.9, "grad_accum": 2, "augment": "flip"}),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(cfg, monkeypatch, target, call, changes):
    cfg = dataclasses.replace(cfg, **changes)
    whole = engine.train(dataclasses.replace(cfg, name="whole", workers=0))
    with monkeypatch.context() as patch:
        interrupt_at(patch, dehazing, call, target)
        with pytest.raises(KeyboardInterrupt):
            engine.train(cfg)
    folder = Path(cfg.out) / "dehazing" / "toy"
    assert 0 < checkpoint.load(folder / "last.pt")["step"] < cfg.steps
    engine.train(cfg, resume=True)
    assert_same_run(folder, whole)


def test_items_are_drawn_by_seed_and_position_alone(cfg):
    training = sets.training_set(cfg)
    one = [training[sets.Drawn(4, position)]["image"] for position in (0, 1, 1)]
    assert one[0].shape == (3, 16, 20)
    assert torch.equal(one[1], one[2]) and not torch.equal(one[0], one[1])
    other = sets.training_set(dataclasses.replace(cfg, seed=1))
    assert not torch.equal(other[sets.Drawn(4, 0)]["image"], one[0])
    indices = [i for batch in sets.order(cfg, training, 2, 4) for i in batch]
    assert [i.position for i in indices] == list(range(8, 16))
    plain = [i for batch in sets.StepSampler(6, 4, cfg.seed, 2, 4) for i in batch]
    assert [i.item for i in indices] == plain


def test_the_crop_is_the_presets_where_no_size_is_given(cfg):
    training = sets.training_set(dataclasses.replace(cfg, size=(), preset="tiny"))
    preset = data.PRESETS["tiny"]
    assert training.size == (preset.height, preset.width)


def test_sets_that_draw_and_sets_that_do_not_train_together(cfg, monkeypatch):
    both = dataclasses.replace(
        cfg, train_domains=("toy_plain", "toy_dense"), size=(HEIGHT, WIDTH), steps=2, eval_every=0
    )
    training = sets.training_set(both)
    for index in range(6):
        item = training[sets.Drawn(index, 3)]
        assert torch.equal(item["image"], HazyToy("toy_plain", "train")[index]["image"])
        item = training[sets.Drawn(6 + index, 3)]
        generator = sets.step_generator(cfg.seed, 3, 1)
        drawn = DrawnHazyToy("toy_dense", "train").draw(index, generator, (HEIGHT, WIDTH))
        assert torch.equal(item["image"], drawn["image"])
    assert len(losses_of(engine.train(both))) == 2
    plain = sets.training_set(dataclasses.replace(both, train_domains=("toy_plain",)))
    assert not isinstance(plain, sets.DrawnSet)


def test_averaged_weights_are_evaluated(cfg):
    folder = engine.train(dataclasses.replace(cfg, ema=0.5))
    state = checkpoint.load(folder / "last.pt")
    trained = predict.load_trained(folder / "last.pt")
    averaged, last = checkpoint.weights(state), state["model"]
    assert not torch.equal(averaged["up3.0.weight"], last["up3.0.weight"])
    assert torch.equal(trained.model.up3[0].weight, averaged["up3.0.weight"])
    row = rows_of(folder, "eval")[-1]
    found = engine.evaluate(cfg, trained.model)["toy_ragged"]["psnr_rgb_db"]
    assert (row["weights"], row["psnr_rgb_db"]) == ("ema", pytest.approx(found))


@pytest.mark.parametrize(
    "changes",
    [{"precision": "bf16"}, {"optimizer": "adamw"}, {"channels_last": True}],
)
def test_every_switch_trains(cfg, changes):
    folder = engine.train(dataclasses.replace(cfg, steps=30, eval_every=0, log_every=5, **changes))
    losses = losses_of(folder)
    assert losses[-1] < 0.8 * losses[0]
    model = checkpoint.load(folder / "last.pt")["model"]
    assert all(value.dtype == torch.float32 for value in model.values())


@pytest.mark.slow
def test_adam_decays_in_the_gradient_and_adamw_beside_it(cfg):
    folders = {
        (kind, decay): engine.train(
            dataclasses.replace(
                cfg, name=f"{kind}{decay}", optimizer=kind, weight_decay=decay, steps=2
            )
        )
        for kind in ("adam", "adamw")
        for decay in (0, 0.5)
    }
    weights = {k: checkpoint.load(f / "last.pt")["model"] for k, f in folders.items()}

    def same(one, two):
        return all(torch.equal(v, weights[two][k]) for k, v in weights[one].items())

    assert same(("adam", 0), ("adamw", 0))
    assert not same(("adam", 0.5), ("adamw", 0.5)) and not same(("adam", 0), ("adam", 0.5))


def test_a_loss_that_is_not_finite_stops_the_run(cfg, monkeypatch):
    original, calls = dehazing.compute_loss, []

    def exploding(*args):
        calls.append(1)
        return original(*args) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(dehazing, "compute_loss", exploding)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 4.*last\.pt"):
        engine.train(cfg)
    state = checkpoint.load(Path(cfg.out) / "dehazing" / "toy" / "last.pt")
    assert state["step"] == 3 and all(v.isfinite().all() for v in state["model"].values())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"test_domains": ("toy_haze", "streets_day")},
            ValueError,
            "needs domains of that task, but 'streets_day' is for segmentation; .*toy",
        ),
        (
            {"task": "segmentation"},
            ValueError,
            "task segmentation needs domains of that task, but 'toy_haze' is for dehazing; .*str",
        ),
        ({"loss_args": {"contrast": 0.1}}, ValueError, "loss_args.vgg must choose the weights"),
        ({"loss_args": {"vg": "x"}}, KeyError, "did you mean 'vgg'"),
        ({"mean": (0.5, 0.5, 0.5)}, ValueError, "mean and std must be left out in dehazing"),
        ({"augment": "jitter"}, ValueError, "augment must be one of none, flip in dehazing"),
        (
            {"task": "segmentation", "loss_args": {"contrast": 1}},
            KeyError,
            r"unknown loss_args key 'contrast' \(known: auxiliary, whitening\)",
        ),
    ],
)
def test_what_does_not_fit_is_named_before_a_folder_exists(cfg, changes, error, message):
    with pytest.raises(error, match=message):
        engine.train(dataclasses.replace(cfg, **changes))
    assert not Path(cfg.out).exists()


def test_another_tasks_domain_is_refused_by_evaluate_too(cfg):
    model = dehazing.build_model("dea_net", **cfg.model_args)
    with pytest.raises(ValueError, match="'streets_fog' is for segmentation"):
        engine.evaluate(cfg, model, domains=["streets_fog"])


def test_the_newest_dehazing_run_is_found_among_others(cfg, tmp_path):
    with pytest.raises(FileNotFoundError, match="ibnvision train streets_dehaze"):
        predict.find_weights(None, cfg.out, "dehazing")
    folder = engine.train(dataclasses.replace(cfg, steps=1))
    newer = tmp_path / "runs" / "other" / "last.pt"
    newer.parent.mkdir()
    state = checkpoint.load(folder / "last.pt")
    checkpoint.save(newer, {**state, "task": "segmentation"})
    broken = newer.with_name("dehazer.pt")
    broken.write_bytes(b"not a checkpoint")
    for age, path in enumerate((broken, newer, folder / "last.pt")):
        os.utime(path, (2e9 - age, 2e9 - age))
    assert predict.find_weights(None, cfg.out, "dehazing") == folder / "last.pt"
    assert predict.find_weights(None, cfg.out, "segmentation") == newer
    checkpoint.save(broken, state)
    os.utime(broken, (2e9, 2e9))
    assert predict.find_weights(None, cfg.out, "dehazing") == broken


def test_a_run_from_before_these_keys_existed_resumes(cfg):
    folder = engine.train(cfg)
    state = checkpoint.load(folder / "last.pt")
    del state["config"]["loss_args"]
    checkpoint.save(folder / "last.pt", state)
    assert engine.train(cfg, resume=True) == folder
    with pytest.raises(ValueError, match=r"changed: loss_args \(\{\} -> \{'contrast': 0\}\)$"):
        engine.train(dataclasses.replace(cfg, loss_args={"contrast": 0}), resume=True)


def test_curves_carry_the_unit_of_the_score(cfg, monkeypatch, tmp_path):
    from matplotlib.axes import Axes

    from ibnvision.engine import pictures

    labels, limits = [], []
    original = Axes.set

    def noted(self, **options):
        labels.append(options.get("ylabel"))
        return original(self, **options)

    monkeypatch.setattr(Axes, "set", noted)
    monkeypatch.setattr(Axes, "set_ylim", lambda self, *at: limits.append(at))
    head = {"kind": "eval", "domain": "d", "split": "test", "step": 1}
    for score in ("psnr_rgb_db", "miou_pct"):
        pictures.save_curves([{**head, score: 20.0}], score, tmp_path / f"{score}.png")
    assert [label for label in labels if "(" in label] == ["psnr_rgb (dB)", "miou (%)"]
    assert limits == [(0, 100)]
