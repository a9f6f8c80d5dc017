"""The numbers of a run, and which checkpoint they choose."""

import dataclasses

import torch
from colour_toy import CLASSES, Toy, small_network, weights_of

from ibnvision import data, engine
from ibnvision.engine import checkpoint, training
from ibnvision.tasks import segmentation


def test_best_is_chosen_on_the_source_val_split_alone(cfg, monkeypatch):
    chosen = iter([60.0, 80.0, 70.0])

    def scripted(cfg, task, model, found, *args, batches=None, **_):
        splits = {dataset.target.sum().item() for dataset in found.values()}
        val = splits == {Toy("toy_day", "val").target.sum().item()}
        score = 0.0 if batches else next(chosen) if val else 99.0
        row = {"images": 1, "miou_pct": score, "pixel_accuracy_pct": 1.0, "iou_pct": {}}
        return dict.fromkeys(found, row)

    monkeypatch.setattr(training, "evaluate_sets", scripted)
    folder = engine.train(cfg)
    assert checkpoint.load(folder / "best.pt")["step"] == 8
    assert checkpoint.load(folder / "best.pt")["best"] == 80.0
    assert checkpoint.load(folder / "last.pt")["step"] == 10


def test_a_choice_on_the_targets_has_a_name_that_says_so(cfg, monkeypatch):
    scores = iter([60.0, 80.0, 70.0])

    def scripted(cfg, task, model, found, split, *args, batches=None, **_):
        score = 0.0 if batches else next(scores) if split == "test" else 50.0
        row = {"images": 1, "miou_pct": score, "pixel_accuracy_pct": 1.0, "iou_pct": {}}
        return dict.fromkeys(found, row)

    monkeypatch.setattr(training, "evaluate_sets", scripted)
    folder = engine.train(dataclasses.replace(cfg, oracle=True))
    assert checkpoint.load(folder / "best_on_target.pt")["step"] == 8
    assert checkpoint.load(folder / "best_on_target.pt")["oracle"] == 80.0
    assert checkpoint.load(folder / "best.pt")["step"] == 4
    scores = iter([60.0, 80.0, 70.0])
    plain = engine.train(dataclasses.replace(cfg, name="plain"))
    assert not (plain / "best_on_target.pt").exists()


def test_a_source_without_val_split_selects_nothing(cfg, monkeypatch):
    row = dataclasses.replace(data.DOMAINS["toy_day"], splits=("train", "test"))
    monkeypatch.setitem(data.DOMAINS, "toy_day", row)
    folder = engine.train(cfg)
    assert (folder / "last.pt").is_file() and not (folder / "best.pt").exists()
    rows = [r for r in engine.read_records(folder) if r["kind"] == "eval"]
    assert {r["split"] for r in rows} == {"test"}
    assert rows[-1]["selection"] == "last of the fixed steps" and rows[0]["selection"] == "step 4"
    assert "best on source val" not in (folder / "log.txt").read_text()


def test_what_was_evaluated_stands_beside_the_numbers(cfg):
    folder = engine.train(cfg)
    facts = engine.read_records(folder)[-1]["facts"]
    assert facts == {
        "input": "the size that the run reads it at, under every protocol",
        "split": "test",
        "images": 12,
        "files_sha256": None,
        "protocol": "native",
        "windows": "whole image",
        "eval_scales": [1.0],
        "eval_flip": False,
    }
    log = (folder / "log.txt").read_text()
    assert "toy_night (test): input the size that the run reads it at" in log
    assert "split test, images 12" in log


class Ragged(Toy):
    """Pictures of two sizes, as files have them."""

    protocol = "native"

    def __getitem__(self, i):
        item = super().__getitem__(i)
        cut = slice(None, 6) if i % 2 else slice(None)
        return item | {"image": item["image"][:, cut], "target": item["target"][cut]}


def test_pictures_of_any_size_are_evaluated_one_by_one(cfg, monkeypatch):
    row = data.Domain("two sizes", lambda *_, **__: Ragged("toy_day", "test"), classes=CLASSES)
    monkeypatch.setitem(data.DOMAINS, "toy_ragged", row)
    model = small_network(num_classes=2)
    results = engine.evaluate(cfg, model, domains=["toy_ragged"])["toy_ragged"]
    metric = segmentation.new_metric(CLASSES)
    with torch.no_grad():
        for i in range(12):
            item = Ragged("toy_day", "test")[i]
            batch = {k: item[k][None] for k in ("image", "target")}
            metric.update(*segmentation.evaluate(model.eval(), batch, cfg))
    assert results["miou_pct"] == metric.compute()["miou_pct"]
    assert results["ece_pct"] == metric.compute()["ece_pct"]


def test_evaluate_gives_the_numbers_of_the_run(cfg, tmp_path):
    folder = engine.train(cfg)
    model = small_network(num_classes=2)
    model.load_state_dict(weights_of(folder))
    results = engine.evaluate(cfg, model, out=tmp_path / "eval")
    rows = [r for r in engine.read_records(folder) if r["kind"] == "eval" and r["split"] == "test"]
    assert [results[r["domain"]]["miou_pct"] for r in rows[-2:]] == [
        r["miou_pct"] for r in rows[-2:]
    ]
    assert (tmp_path / "eval" / "confusion_toy_night.png").is_file()
    assert model.training  # as it was given


def test_averaged_weights_are_evaluated_and_saved(cfg):
    folder = engine.train(dataclasses.replace(cfg, ema=0.5))
    state = checkpoint.load(folder / "last.pt")
    averaged = checkpoint.weights(state)
    assert not torch.equal(averaged["0.weight"], state["model"]["0.weight"])
    assert torch.equal(averaged["1.running_mean"], state["model"]["1.running_mean"])
    model = small_network(num_classes=2)
    model.load_state_dict(averaged)
    results = engine.evaluate(cfg, model)
    assert results["toy_night"]["miou_pct"] == engine.read_records(folder)[-1]["miou_pct"]
