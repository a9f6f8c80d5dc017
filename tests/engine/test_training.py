"""What a training leaves, what decides its numbers, and its switches."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from colour_toy import small_network, weights_of
from same_run import assert_same_run
from torch import nn

from ibnvision import config, data, engine
from ibnvision.engine import checkpoint, processes
from ibnvision.tasks import segmentation


def test_a_run_leaves_what_it_promises_and_learns(cfg):
    cfg = dataclasses.replace(cfg, steps=40, eval_every=20)
    folder = engine.train(cfg)
    assert folder == Path(cfg.out) / "segmentation" / "toy"
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {
        *("config.toml", "env.json", "metrics.jsonl", "log.txt", "last.pt", "best.pt"),
        *("results.png", "confusion_toy_day.png", "confusion_toy_night.png"),
        *(f"overlays/toy_{domain}_{i}.png" for domain in ("day", "night") for i in range(3)),
    }
    assert config.load(folder / "config.toml") == cfg
    rows = engine.read_records(folder)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 20 and losses[-1] < 0.3 * losses[0]
    scores = [row for row in rows if row["kind"] == "eval" and row["step"] == 40]
    assert [(row["split"], row["domain"]) for row in scores] == [
        ("val", "toy_day"),
        ("test", "toy_day"),
        ("test", "toy_night"),
    ]
    assert scores[1]["miou_pct"] > 95 and scores[1]["images"] == 12
    env = json.loads((folder / "env.json").read_text())
    assert env["versions"]["torch"] == str(torch.__version__)
    assert any(name.startswith("ibn_norm") for name in env["ops"])
    assert "source" in env["selection"]
    log = (folder / "log.txt").read_text()
    assert "lr = 0.1" in log and "toy_night (test)" in log and "is left out of the mean" in log


def test_the_same_seed_gives_the_same_run_and_another_seed_another(cfg):
    one = engine.train(cfg)
    two = engine.train(dataclasses.replace(cfg, name="two"))
    other = engine.train(dataclasses.replace(cfg, name="other", seed=1))
    assert_same_run(one, two)
    assert not torch.equal(weights_of(one)["0.weight"], weights_of(other)["0.weight"])


@pytest.mark.slow
def test_workers_change_no_number(cfg):
    one = engine.train(cfg)
    two = engine.train(dataclasses.replace(cfg, name="two", workers=2))
    assert_same_run(one, two)


def test_accumulated_batches_equal_one_large_batch(cfg, monkeypatch):
    def plain(*_, num_classes, **__):  # no batch statistics, no dropout
        return nn.Conv2d(3, num_classes, 3, padding=1)

    monkeypatch.setattr(segmentation, "build_model", plain)
    cfg = dataclasses.replace(cfg, augment="none", test_domains=("toy_day",))
    one = engine.train(dataclasses.replace(cfg, batch_size=6))
    two = engine.train(dataclasses.replace(cfg, name="two", batch_size=2, grad_accum=3))
    torch.testing.assert_close(weights_of(one), weights_of(two))


@pytest.mark.parametrize(
    "changes",
    [{"precision": "bf16"}, {"channels_last": True}, {"workers": 2}, {"optimizer": "adamw"}],
)
def test_every_switch_trains(cfg, changes):
    folder = engine.train(dataclasses.replace(cfg, steps=20, eval_every=0, **changes))
    losses = [row["loss"] for row in engine.read_records(folder) if row["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert all(v.dtype != torch.bfloat16 for v in weights_of(folder).values())


def test_the_backbone_may_learn_at_its_own_rate(cfg, monkeypatch):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return self.head(self.backbone(x))

    monkeypatch.setattr(segmentation, "build_model", lambda *_, **__: Whole())
    still = weights_of(engine.train(dataclasses.replace(cfg, backbone_lr=0.0)))
    torch.manual_seed(cfg.seed)
    start = Whole().state_dict()
    assert torch.equal(still["backbone.weight"], start["backbone.weight"])
    assert not torch.equal(still["head.weight"], start["head.weight"])
    monkeypatch.setattr(segmentation, "build_model", small_network)
    with pytest.raises(ValueError, match="backbone_lr must be 1 for a model without backbone"):
        engine.train(dataclasses.replace(cfg, name="none", backbone_lr=0.1))


def test_synchronized_statistics_are_refused_where_they_cannot_be(cfg, monkeypatch):
    engine.train(dataclasses.replace(cfg, sync_norm=True))  # one process needs none
    several = SimpleNamespace(num_processes=2)
    given = {}
    monkeypatch.setattr(processes, "Accelerator", lambda **kwargs: given.update(kwargs) or several)
    with pytest.raises(ValueError, match="sync_norm must be false under several processes, got"):
        engine.train(dataclasses.replace(cfg, sync_norm=True, name="several"))
    patience = given["kwargs_handlers"][0].timeout  # while one process reads every label
    assert patience.total_seconds() >= 3600


def test_targets_without_a_folder_are_left_out_and_named(cfg, monkeypatch):
    row = dataclasses.replace(data.DOMAINS["toy_day"], data_key="shelf")
    monkeypatch.setitem(data.DOMAINS, "toy_far", row)
    cfg = dataclasses.replace(cfg, test_domains=("toy_day", "toy_far"))
    folder = engine.train(cfg)
    assert "toy_far is left out: no --data shelf=DIR" in (folder / "log.txt").read_text()
    assert config.load(folder / "config.toml").test_domains == ("toy_day",)
    found = engine.train(dataclasses.replace(cfg, name="found", data={"shelf": "somewhere"}))
    assert config.load(found / "config.toml").test_domains == cfg.test_domains
    with pytest.raises(KeyError, match="unknown data key 'shelv': did you mean 'shelf'"):
        engine.train(dataclasses.replace(cfg, name="wrong", data={"shelv": "somewhere"}))


def test_existing_folder_is_kept_until_told_otherwise(cfg):
    folder = engine.train(cfg)
    before = (folder / "last.pt").read_bytes()
    with pytest.raises(FileExistsError, match="resume=true .* overwrite=true"):
        engine.train(cfg)
    assert (folder / "last.pt").read_bytes() == before
    engine.train(dataclasses.replace(cfg, steps=2), overwrite=True)
    assert checkpoint.load(folder / "last.pt")["step"] == 2


def test_a_folder_of_something_else_is_never_overwritten(cfg):
    folder = Path(cfg.out) / "segmentation" / "toy"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no run folder"):
        engine.train(cfg, overwrite=True)
    assert (folder / "thesis.txt").read_text() == "years of work"
