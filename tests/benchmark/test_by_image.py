import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from ibnvision import config, data, engine
from ibnvision.benchmark import by_image, plans
from ibnvision.engine import checkpoint
from ibnvision.metrics.by_image import whole

DOMAINS = ("streets_day", "streets_night")
SMALL = ("size=[32,48]", "steps=2")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run that was not trained, with its checkpoint and what its evaluation has logged."""
    out = tmp_path_factory.mktemp("plan")
    (job,) = plans.plan_rows(plans.ROWS[:1], DOMAINS, "seg_streets_tiny", [0], SMALL, out)
    classes = data.classes("streets_day")
    model = engine.build_model(job.cfg, len(classes)).eval()
    job.folder.mkdir(parents=True)
    state = {"config": config.to_dict(job.cfg), "classes": list(classes), "ema": None}
    state |= {"task": "segmentation", "model": model.state_dict(), "size": [32, 48], "step": 2}
    checkpoint.save(job.folder / "last.pt", state)
    found = engine.evaluate(job.cfg, model, domains=DOMAINS)
    head = {"kind": "eval", "split": "test", "step": 2}
    lines = [json.dumps({**head, "domain": d, "miou_pct": r["miou_pct"]}) for d, r in found.items()]
    (job.folder / "metrics.jsonl").write_text("\n".join(lines))
    return job, {domain: row["miou_pct"] for domain, row in found.items()}


@pytest.fixture
def finished(first, tmp_path):
    """The same in a folder of one's own."""
    job, logged = first
    copy = dataclasses.replace(job, cfg=dataclasses.replace(job.cfg, out=str(tmp_path)))
    shutil.copytree(job.folder, copy.folder)
    return copy, logged


def test_images_add_up_to_the_log_and_are_measured_once(finished, monkeypatch):
    job, logged = finished
    said = []
    found = by_image.of_run(by_image.as_trained(job), DOMAINS, said.append)
    assert said == ["BN, seed 0: 32 images one by one"]
    for domain, score in logged.items():
        assert whole(found[domain], "miou_pct") == pytest.approx(score, abs=1e-9)
        assert found[domain]["confusion"].shape == (16, 8, 8)
    day, night = (found[domain] for domain in DOMAINS)
    assert day["scenes"] == night["scenes"] and (day["confusion"] != night["confusion"]).any()

    read = by_image.load_trained
    monkeypatch.setattr(by_image, "load_trained", None)  # again: nothing is loaded
    again = by_image.of_run(by_image.as_trained(job), DOMAINS, said.append)
    assert len(said) == 1
    for domain, statistics in found.items():
        for name, array in statistics.items():
            assert (again[domain][name] == array).all()

    monkeypatch.setattr(by_image, "load_trained", read)
    file = job.folder / "by_image" / "streets_night.npz"
    file.write_bytes(file.read_bytes()[:100])
    assert len(by_image.of_run(by_image.as_trained(job), DOMAINS, said.append)) == 2
    assert said[1:] == ["BN, seed 0: 16 images one by one"]  # the damaged one alone
    assert [path.name for path in sorted(file.parent.iterdir())] == [f"{d}.npz" for d in DOMAINS]


def test_weights_and_log_have_to_belong_together(finished):
    job, _ = finished
    by_image.of_run(by_image.as_trained(job), DOMAINS[:1], str)
    with pytest.raises(ValueError, match=r"in the log of .*bn_seed0, got 'streets_fog'"):
        by_image.of_run(by_image.as_trained(job), ("streets_fog",), str)
    log = job.folder / "metrics.jsonl"
    told = log.read_text()
    log.write_text(told.replace('"miou_pct": ', '"miou_pct": 1'))  # as another run would leave it
    with pytest.raises(ValueError, match="must belong together"):
        by_image.of_run(by_image.as_trained(job), DOMAINS[:1], str)
    log.write_text(told)
    state = checkpoint.load(job.folder / "last.pt")
    for tensor in state["model"].values():
        tensor.copy_(torch.randn_like(tensor.double()).abs())
    checkpoint.save(job.folder / "last.pt", state)  # what was kept is of other weights now
    with pytest.raises(ValueError, match="must belong together, but miou_pct on streets_day is"):
        by_image.of_run(by_image.as_trained(job), DOMAINS[:1], str)
    (job.folder / "last.pt").unlink()
    with pytest.raises(FileNotFoundError, match="last.pt"):
        by_image.of_run(by_image.as_trained(job), DOMAINS[:1], str)


def test_targets_tell_scenes_apart():
    """Of any kind: here boxes by name, as in detection."""

    def scenes(*values):
        found = by_image.hashlib.sha256()
        by_image._update(found, {"boxes": torch.tensor(values), "labels": torch.tensor([1])})
        return found.hexdigest()

    assert scenes(1.0, 2.0) == scenes(1.0, 2.0) != scenes(2.0, 1.0)
    assert scenes() == scenes()


def test_statistics_are_plain_arrays(tmp_path):
    """Whoever reads the file runs no code from it."""
    path = tmp_path / "kept" / "day.npz"
    by_image.write(path, "key", {"images": np.array(2), "scenes": np.array("ab")})
    assert {k: v.item() for k, v in by_image.read(path, "key").items()} == {
        "images": 2,
        "scenes": "ab",
    }
    assert by_image.read(path, "another") is None
    assert by_image.read(tmp_path / "none.npz", "key") is None
