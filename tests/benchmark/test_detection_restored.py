import dataclasses

import numpy as np
import pytest
import torch

from ibnvision import config, engine
from ibnvision.benchmark import by_image, detection_restored, plans, row_costs
from ibnvision.engine import checkpoint
from ibnvision.engine.predict import load_trained

DOMAINS = ["streets_fog_boxes"]
ONE_TIME = np.ones(1)
GATE = {"low": 0.9, "high": 1.0}  # which no picture here opens


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The checkpoint of a restorer that was never trained."""
    torch.manual_seed(0)
    cfg, path = config.load("dehaze_streets_tiny"), tmp_path_factory.mktemp("restorer") / "last.pt"
    saved = {"task": "dehazing", "config": config.to_dict(cfg), "step": 8, "ema": None}
    state = engine.build_model(cfg, 3).state_dict()
    checkpoint.save(path, {**saved, "model": state, "gate": GATE})
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a row, as of `run_results.rows_of`, after one step."""
    words = ["steps=1", "eval_every=0", "threads=1", "test_domains=[]"]
    words += ["model_args.detector=fcos", "model_args.score_thresh=0"]
    cfg = config.load("det_streets_tiny", [*words, f"out={tmp_path_factory.mktemp('runs')}"])
    return {"seed": 3, "folder": str(engine.train(cfg)), "cpu_s": 60.0, "wall_s": 9.0, "found": {}}


def test_facts_say_which_restorer_it_was(weights):
    restorer, facts = detection_restored.load(weights)
    small = {"width": 8, "depths": [1, 1, 1, 1, 1], "reductions": [4, 2]}
    assert (facts["model"], facts["args"], facts["gate"]) == ("dea_net", small, [0.9, 1.0])
    assert (facts["trained_on"], facts["steps"], facts["seed"]) == (["haze"], 8, 0)
    assert len(facts["sha256"]) == 64 and restorer["state"].keys()


def test_rows_of_faster_r_cnn_are_measured_once_more(weights, run):
    names = ["Faster R-CNN IBN-b", "FCOS BN"]
    rows = [{"name": n, "command": "x", "runs": [run], "failed": {}} for n in names]
    restorer, _ = detection_restored.load(weights)
    said = []
    found = detection_restored.rows(rows, restorer, DOMAINS, said.append)
    assert found[:2] == rows and run["found"] == {}
    assert [row["name"] for row in found[2:]] == ["Faster R-CNN IBN-b, restored"]
    assert said == ["Faster R-CNN IBN-b, restored, seed 3: measured"]
    (again,) = found[2]["runs"]
    assert again["seed"] == 3 and again["cpu_s"] is None
    alone = load_trained(f"{run['folder']}/last.pt")
    plain = engine.evaluate(alone.cfg, alone.model, domains=DOMAINS, classes=alone.classes)
    assert again["found"] == checkpoint.finite(plain)  # the gate is shut


@torch.no_grad()
def test_the_detector_sees_what_the_restorer_makes_of_an_image(weights, run):
    restorer, _ = detection_restored.load(weights)
    image = torch.rand(3, 64, 96)
    alone = detection_restored.trained(run, None).model.eval()
    shut = detection_restored.trained(run | {"restored": True}, restorer).model.eval()
    open_ = detection_restored.trained(run | {"restored": True}, restorer | {"gate": None})
    behind = open_.model.eval()
    behind.restorer.restore = lambda images: 1 - images
    scores = [model([image])[0]["scores"] for model in (alone, shut, behind)]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[2], alone([1 - image])[0]["scores"])
    assert not torch.equal(scores[0], scores[2])


def test_images_of_a_restored_run_come_to_its_score_and_its_network_is_timed(
    weights, tmp_path, monkeypatch
):
    row = plans.Row("Faster R-CNN BN", ("model_args.score_thresh=0",))
    words = ("steps=1", "eval_every=0")
    (job,) = plans.plan_rows([row], DOMAINS, "det_streets_tiny", [3], words, tmp_path)
    run = {"seed": 3, "folder": str(engine.train(job.cfg)), "found": {}}
    rows = [{"name": row.name, "command": "x", "runs": [run], "failed": {}}]
    restorer, facts = detection_restored.load(weights)
    assert restorer["gate"] is not None  # shut on clear pictures
    measured = detection_restored.rows(rows, restorer, DOMAINS, str)
    (again,) = detection_restored.again(measured, [job], restorer, facts["sha256"])
    assert again.row == "Faster R-CNN BN, restored" and again.job == job

    found = by_image.of_run(again, DOMAINS, str)[DOMAINS[0]]  # which compares it with the score
    plain = by_image.of_run(by_image.as_trained(job), DOMAINS, str)[DOMAINS[0]]
    assert int(found["images"]) == int(plain["images"]) and found["scenes"] == plain["scenes"]
    kept = job.folder / "by_image"
    assert {p.relative_to(kept).as_posix() for p in kept.rglob("*.npz")} == {
        f"{DOMAINS[0]}.npz",
        f"faster_r_cnn_bn_restored/{DOMAINS[0]}.npz",
    }
    other = dataclasses.replace(again, made_of="another restorer")
    monkeypatch.setattr(by_image, "measured", lambda *_: 1 / 0)
    assert by_image.of_run(again, DOMAINS, str)[DOMAINS[0]]["images"] == found["images"]
    with pytest.raises(ZeroDivisionError):  # it is measured anew
        by_image.of_run(other, DOMAINS, str)

    monkeypatch.setattr(row_costs, "_interleaved", lambda calls, n: dict.fromkeys(calls, ONE_TIME))
    costs = row_costs.records([job], 1, [dataclasses.replace(again, load=None)])
    live = {r["model"]: r["value"] for r in costs if r["metric"] == row_costs.LIVE}
    assert set(live) == {row.name, again.row}
    assert {r["model"] for r in costs if "beside" in r} == {again.row}
    assert "timed with their gate open" in row_costs.table(costs)

    for load, times in ((again.load, 0), (again.at_work, 1)):  # on a clear picture
        called, network = [], load().model.eval()
        network.restorer.restore = lambda images, to=called: (to.append(1), images)[1]
        network([torch.rand(3, 64, 96)])
        assert len(called) == times
