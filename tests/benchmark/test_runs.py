import dataclasses
import json
import multiprocessing
import os
import signal

import pytest
import torch
from waiting import free, until

from ibnvision import config, engine
from ibnvision.benchmark import plans, runs

TINY = ("steps=2", "eval_every=1", "log_every=1")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    out = tmp_path_factory.mktemp("plan")
    return plans.plan("seg_streets_tiny", [0, 1], TINY, out)


def test_plan_differs_only_in_norm_augmentation_seed_and_name(jobs):
    assert [(j.row.name, j.seed) for j in jobs[:4]] == [(r.name, 0) for r in plans.ROWS]
    plain = [config.to_dict(j.cfg) for j in jobs]
    differing = {k for k in plain[0] if len({json.dumps(p[k]) for p in plain}) > 1}
    assert differing == {"model_args", "augment", "seed", "name"}
    assert {j.cfg.model_args["backbone_args"]["ibn"] for j in jobs} == {"none", "a", "b"}
    assert all(j.cfg.threads == 1 for j in jobs)
    assert len({j.folder for j in jobs}) == 8
    assert jobs[1].row.key == "bn_jitter" and plans.Row("A-b, c + d", ()).key == "a_b_c_d"


def test_the_full_rows_are_each_norm_with_and_without_jitter(tmp_path):
    rows = plans.FULL_ROWS
    planned = plans.plan("seg_streets_tiny", [0], TINY, tmp_path, rows=rows)
    assert len(planned) == len({j.row.key for j in planned}) == 10
    assert len({j.protocol for j in planned}) == 10
    by_name = {j.row.name: j.cfg for j in planned}
    for norm in ("BN", "IBN-a", "IBN-b", "ISW", "MixStyle"):
        plain, changed = by_name[norm], by_name[f"{norm} + jitter"]
        assert (plain.augment, changed.augment) == ("flip", "jitter")
        assert plain.model_args == changed.model_args
    start = []
    for name in ("BN", "IBN-a", "IBN-b", "ISW", "MixStyle"):
        cfg = by_name[name]
        torch.manual_seed(0)
        model = engine.build_model(cfg, 8)
        start.append([p for p in model.parameters() if p.dim() == 4])
    for weights in start:  # one start for all rows of a seed
        assert all(torch.equal(a, b) for a, b in zip(start[0], weights, strict=True))


def test_rows_fit_a_published_setting():
    """A plain network gets its norm by placement, and every row keeps the augmentation."""
    published = config.load("seg_gtav_r50")
    made = {row.name: plans.fitted(row, published).overrides for row in plans.FULL_ROWS}
    assert made["BN"] == () and made["IBN-b"] == ("model_args.norm=ibn_b",)
    assert made["BN + jitter"] == ("augment=photometric+jitter",)
    assert made["IBN-a + jitter"] == ("model_args.norm=ibn_a", "augment=photometric+jitter")
    assert made["MixStyle"] == ("model_args.mixstyle=[1,2]",)
    assert len(made["ISW"]) == 1 and made["ISW"][0].startswith("model_args.whitening=")
    drawn = config.load("streets_quick")
    assert all(plans.fitted(row, drawn) == row for row in plans.FULL_ROWS)


def test_roles_leave_stress_and_real_out_of_the_targets(jobs):
    cfg = dataclasses.replace(jobs[0].cfg, test_domains=(*jobs[0].cfg.test_domains, "camvid_dusk"))
    assert plans.roles_of(cfg) == {
        "streets_day": "source",
        "streets_night": "target",
        "streets_sketch": "stress",
        "streets_invert": "stress",
        "camvid_dusk": "real",
    }


def test_protocol_ignores_the_seed_and_sees_everything_else(jobs):
    first, other_seed = jobs[0], jobs[4]
    assert first.protocol == other_seed.protocol
    assert first.protocol != jobs[1].protocol
    prints = plans.fingerprints(first.cfg)
    assert "streets_day train" in prints and "streets_night test" in prints
    assert plans.protocol_of(prints, first.cfg) == first.protocol
    changed = dataclasses.replace(first.cfg, lr=0.01)
    assert plans.protocol_of(prints, changed) != first.protocol
    assert plans.protocol_of({**prints, "streets_night test": ""}, first.cfg) != first.protocol


def test_budget_counts_rounds_of_workers_and_a_reserve():
    # 4 jobs on 2 workers of 60 s each: 120 s and the reserve of 40 s
    assert runs.affordable(100, [50, 70], 4, 2, budget_s=260)
    assert not runs.affordable(101, [50, 70], 4, 2, budget_s=260)
    assert runs.affordable(1e9, [60], 4, 2, budget_s=0)
    assert runs.affordable(1e9, [], 4, 2, budget_s=1)


FAKE = """
import json, pathlib, sys
name, folder, text, steps, domains, fails = json.loads(sys.argv[1])
if name in fails:
    sys.exit("error: the lamp went out")
folder = pathlib.Path(folder)
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.toml").write_text(text)
(folder / "last.pt").write_text("")
head = {"kind": "eval", "split": "test", "step": steps, "miou_pct": 10.0, "iou_pct": {}}
lines = [json.dumps(head | {"domain": d}) for d in domains]
(folder / "metrics.jsonl").write_text("\\n".join(lines))
"""


def fake_train(monkeypatch, fails=()):
    """Children that write what a training leaves, and crash for the names in `fails`."""

    def command(job, config_name, *flags):
        cfg = job.cfg
        facts = [cfg.name, str(job.folder), config.dump(cfg), cfg.steps, cfg.test_domains, fails]
        return [runs.sys.executable, "-I", "-c", FAKE, json.dumps(facts)]

    monkeypatch.setattr(plans.Job, "command", command)


def test_a_crashed_training_is_told_and_the_others_go_on_and_are_reused(tmp_path, monkeypatch):
    jobs = plans.plan("seg_streets_tiny", [0], TINY, tmp_path)
    said = []
    fake_train(monkeypatch, fails=["ibn_a_seed0"])
    state = runs.State(tmp_path)
    got = runs.run_jobs(jobs, "seg_streets_tiny", state, workers=2, say=said.append)
    assert sorted(j.row.name for j in got.done) == ["BN", "BN + jitter", "IBN-b"]
    assert "the lamp went out" in got.failed["ibn_a_seed0"]
    assert any("FAILED" in line and "the lamp went out" in line for line in said)

    fake_train(monkeypatch)
    del state  # it holds the folder
    state = runs.State(tmp_path)
    again = runs.run_jobs(jobs, "seg_streets_tiny", state, workers=1, say=said.append)
    assert not again.failed and len(again.done) == 4
    assert again.reused == {"bn_seed0", "bn_jitter_seed0", "ibn_b_seed0"}
    moved = dataclasses.replace(jobs[0].cfg, data={"camvid": "another/place"})
    assert state.same(dataclasses.replace(jobs[0], cfg=moved))  # its hashes are in the protocol

    changed = plans.plan("seg_streets_tiny", [0], (*TINY, "lr=0.01"), tmp_path)
    fresh = runs.run_jobs(changed, "seg_streets_tiny", state, workers=2, say=said.append)
    assert not fresh.reused and len(fresh.done) == 4


def test_a_seed_beyond_the_budget_is_dropped_aloud(tmp_path, monkeypatch):
    jobs = plans.plan("seg_streets_tiny", [0, 1, 2], TINY, tmp_path)
    fake_train(monkeypatch)
    said, state = [], runs.State(tmp_path)
    got = runs.run_jobs(jobs, "seg_streets_tiny", state, workers=2, budget_s=1.0, say=said.append)
    assert got.dropped == [1, 2] and {j.seed for j in got.done} == {0} and len(got.done) == 4
    assert any("seeds [1, 2] dropped" in line for line in said)


LONG = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(json.loads(sys.argv[1])[1])
def save(*_):
    folder.with_name(folder.name + ".saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
folder.parent.mkdir(parents=True, exist_ok=True)
folder.with_name(folder.name + ".started").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_benchmark_that_is_stopped_takes_its_trainings_along(tmp_path, monkeypatch, number):
    jobs = plans.plan("seg_streets_tiny", [0], TINY, tmp_path)
    fake_train(monkeypatch)
    short = plans.Job.command

    def command(job, *words):
        made = short(job, *words)
        endless = job.row.name in ("BN + jitter", "IBN-a")
        return [*made[:3], f"import json{LONG}", made[4]] if endless else made

    def benchmark():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts it in the background
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # however these tests were started
        with open(tmp_path / "said.txt", "a", buffering=1) as file:
            state = runs.State(tmp_path)
            runs.run_jobs(
                jobs, "seg_streets_tiny", state, workers=2, say=lambda t: print(t, file=file)
            )

    def found(ending):
        return {path.stem for path in (tmp_path / "runs" / "segmentation").glob(f"*.{ending}")}

    monkeypatch.setattr(plans.Job, "command", command)
    process = multiprocessing.get_context("fork").Process(target=benchmark)
    process.start()
    long = {"bn_jitter_seed0", "ibn_a_seed0"}
    until(lambda: found("started") == long)
    os.kill(process.pid, number)
    process.join(10)
    until(lambda: found("saved") == long)
    assert process.exitcode == (-number if number == signal.SIGKILL else 1)
    told = f"stopped: 1 of 4 trainings are finished and kept in {tmp_path}; the same command goes"
    assert (told in (tmp_path / "said.txt").read_text()) == (number != signal.SIGKILL)

    until(lambda: free(tmp_path))
    monkeypatch.setattr(plans.Job, "command", short)
    again = runs.run_jobs(jobs, "seg_streets_tiny", runs.State(tmp_path), workers=2)
    assert again.reused == {"bn_seed0"} and len(again.done) == 4 and not again.failed
