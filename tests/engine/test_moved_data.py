"""A run that is resumed after its training set has moved."""

import dataclasses
import json
from pathlib import Path

import miniature_segmentation as mini
import pytest
from colour_toy import small_network
from miniature_detection import coco
from same_run import assert_same_run, interrupt_at

from ibnvision import config, engine
from ibnvision.engine import checkpoint, run_folder, sets
from ibnvision.tasks import segmentation


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setattr(segmentation, "build_model", small_network)
    for name in ("save_curves", "save_confusion"):
        monkeypatch.setattr(f"ibnvision.engine.pictures.{name}", lambda *args: args[-1].touch())
    return config.Config(
        name="moved",
        train_domains=("bdd100k",),
        data={"bdd100k": str(mini.bdd100k(tmp_path / "old"))},
        size=(16, 16),
        steps=4,
        batch_size=2,
        log_every=1,
        device="cpu",
        threads=1,
        out=str(tmp_path / "runs"),
    )


@pytest.fixture
def stopped(cfg, tmp_path):
    """A run interrupted at step 2 whose set then lies in another folder; its new config."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, segmentation, 2)
        with pytest.raises(KeyboardInterrupt):
            engine.train(cfg)
    new = tmp_path / "another disk"
    new.mkdir()
    (tmp_path / "old").rename(new / "bdd100k")
    return dataclasses.replace(cfg, data={"bdd100k": str(new)})


def test_a_set_may_move(cfg, stopped):
    folder = engine.train(stopped, resume=True)
    whole = engine.train(dataclasses.replace(stopped, name="whole"))
    assert_same_run(folder, whole)
    assert config.load(folder / "config.toml").data == stopped.data
    engine.train(stopped, resume=True)


def test_a_moved_set_may_not_change(stopped, tmp_path):
    images = tmp_path / "another disk" / "bdd100k" / "images" / "10k" / "train"
    first, second = sorted(images.iterdir())
    folder = Path(stopped.out) / "segmentation" / "moved"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    kept = first.read_bytes()
    first.write_bytes(kept + b"0")
    with pytest.raises(ValueError, match=r"bdd100k \(.*old -> .*disk\) has other ones; changed: f"):
        engine.train(stopped, resume=True)
    first.write_bytes(kept)
    second.unlink()
    with pytest.raises(ValueError, match=r"changed: images \(2 -> 1\), files_sha256 \(\w+ -> \w+"):
        engine.train(stopped, resume=True)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_change_of_the_config_is_named_before_the_data(stopped):
    with pytest.raises(ValueError, match=r"changed: lr \(0.01 -> 0.2\)$"):
        engine.train(dataclasses.replace(stopped, lr=0.2), resume=True)


def test_a_set_without_a_hash_may_not_move(stopped):
    path = Path(stopped.out) / "segmentation" / "moved" / "env.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"training": {}}))
    with pytest.raises(ValueError, match=r"has moved, and .*env\.json holds no hash of its files"):
        engine.train(stopped, resume=True)


def test_boxes_of_a_moved_set_may_not_change(tmp_path):
    cfg = config.Config(
        task="detection", name="moved", train_domains=("coco_json",), out=str(tmp_path / "runs")
    )
    folder = tmp_path / "runs" / "detection" / "moved"
    folder.mkdir(parents=True)
    there = dataclasses.replace(cfg, data={"coco_json": str(coco(tmp_path / "old"))})
    facts = sets.training_facts(sets.training_set(there))
    (folder / "env.json").write_text(json.dumps({"training": facts}))
    checkpoint.save(folder / "last.pt", {"config": config.to_dict(there)})
    (tmp_path / "old").rename(tmp_path / "new")
    here = dataclasses.replace(cfg, data={"coco_json": str(tmp_path / "new")})
    assert run_folder.claim(here, resume=True, overwrite=False)
    (path,) = (tmp_path / "new").rglob("*train*.json")
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match="changed: annotations_sha256"):
        run_folder.claim(here, resume=True, overwrite=False)
