import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from same_run import assert_same_run, interrupt_at
from torch import nn
from torch.utils.data import ConcatDataset, Dataset

from ibnvision import config, data, engine
from ibnvision.config import Config
from ibnvision.engine import checkpoint, sets
from ibnvision.tasks import segmentation

CLASSES = ("left", "right")


class Toy(Dataset):
    """Two classes told apart by colour; the night domain is four times darker."""

    def __init__(self, domain, split, count=12):
        chance = torch.Generator().manual_seed(hash_of(split))
        self.target = torch.randint(0, 2, (count, 8, 12), generator=chance)
        colour = torch.stack([self.target, 1 - self.target, 0 * self.target], 1).float()
        noise = 0.3 * torch.rand(colour.shape, generator=chance)
        self.image = (0.6 * colour + noise) * (0.25 if domain == "toy_night" else 1)
        self.domain = domain

    def __len__(self):
        return len(self.target)

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError(i)
        return {"image": self.image[i], "target": self.target[i], "domain": self.domain}


def hash_of(split):
    return {"train": 1, "val": 2, "test": 3}[split]


def small_network(*_, num_classes, **__):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),  # draws from the global generator: a resumed run must restore it
        nn.Conv2d(8, num_classes, 1),
    )


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    def build(name, split, **_):
        return Toy(name, split, 0 if name == "toy_empty" else 12)

    for name in ("toy_day", "toy_night", "toy_empty"):
        row = data.Domain("two colours", build, classes=CLASSES)
        monkeypatch.setitem(data.DOMAINS, name, row)
    monkeypatch.setattr(segmentation, "build_model", small_network)


@pytest.fixture
def cfg(tmp_path):
    return Config(
        name="toy",
        train_domains=("toy_day",),
        test_domains=("toy_day", "toy_night"),
        steps=10,
        batch_size=4,
        lr=0.1,
        warmup=2,
        eval_every=4,
        log_every=2,
        device="cpu",
        threads=1,
        out=str(tmp_path / "runs"),
    )


def weights_of(folder, name="last.pt"):
    return checkpoint.load(folder / name)["model"]


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


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "grad_accum": 2, "augment": "jitter"}])
@pytest.mark.parametrize(
    ("target", "call", "number"),
    [
        ("compute_loss", 3, signal.SIGINT),  # between two log lines
        ("compute_loss", 7, signal.SIGTERM),
        ("evaluate", 12, signal.SIGINT),  # inside the evaluation of step 4
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    cfg, monkeypatch, capsys, target, call, number, changes
):
    cfg = dataclasses.replace(cfg, **changes)
    whole = engine.train(dataclasses.replace(cfg, name="whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, segmentation, call, target, number)
        with pytest.raises(KeyboardInterrupt):
            engine.train(cfg)
    folder = Path(cfg.out) / "segmentation" / "toy"
    assert 0 < checkpoint.load(folder / "last.pt")["step"] < cfg.steps
    assert f"ibnvision train {folder / 'config.toml'} resume=true" in capsys.readouterr().out
    engine.train(cfg, resume=True)
    assert_same_run(folder, whole)


def test_resuming_a_finished_run_changes_nothing(cfg):
    folder = engine.train(cfg)
    before = (folder / "metrics.jsonl").read_bytes()
    engine.train(cfg, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_killed_training_leaves_a_loadable_checkpoint(cfg, tmp_path):
    script = textwrap.dedent(
        f"""
        import os, sys
        sys.path[:0] = {sys.path!r}
        import pytest, test_engine
        from ibnvision import config, engine
        from ibnvision.tasks import segmentation
        patch = pytest.MonkeyPatch()
        test_engine.toy.__wrapped__(patch)
        test_engine.interrupt_at(patch, segmentation, 7, number=9)
        engine.train(config.from_dict({config.to_dict(cfg)!r}))
        """
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    folder = Path(cfg.out) / "segmentation" / "toy"
    assert checkpoint.load(folder / "last.pt")["step"] == 4
    engine.train(cfg, resume=True)
    whole = engine.train(dataclasses.replace(cfg, name="whole"))
    assert_same_run(folder, whole)


def test_best_is_chosen_on_the_source_val_split_alone(cfg, monkeypatch):
    chosen = iter([60.0, 80.0, 70.0])

    def scripted(cfg, task, model, found, *args, batches=None, **_):
        splits = {dataset.target.sum().item() for dataset in found.values()}
        val = splits == {Toy("toy_day", "val").target.sum().item()}
        score = 0.0 if batches else next(chosen) if val else 99.0
        row = {"images": 1, "miou_pct": score, "pixel_accuracy_pct": 1.0, "iou_pct": {}}
        return dict.fromkeys(found, row)

    monkeypatch.setattr(engine, "_evaluate", scripted)
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

    monkeypatch.setattr(engine, "_evaluate", scripted)
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


def test_synchronized_statistics_are_refused_where_they_cannot_be(cfg, monkeypatch):
    engine.train(dataclasses.replace(cfg, sync_norm=True))  # one process needs none
    several = SimpleNamespace(num_processes=2)
    given = {}
    monkeypatch.setattr(engine, "Accelerator", lambda **kwargs: given.update(kwargs) or several)
    with pytest.raises(ValueError, match="sync_norm must be false under several processes, got"):
        engine.train(dataclasses.replace(cfg, sync_norm=True, name="several"))
    patience = given["kwargs_handlers"][0].timeout  # while one process reads every label
    assert patience.total_seconds() >= 3600


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


def test_workers_change_no_number(cfg):
    one = engine.train(cfg)
    two = engine.train(dataclasses.replace(cfg, name="two", workers=2))
    assert_same_run(one, two)


def test_learning_rate_rises_then_falls():
    cfg = Config(steps=100, warmup=10, lr=0.5)
    assert engine.learning_rate(cfg, 0) == pytest.approx(0.05)
    assert engine.learning_rate(cfg, 50) == pytest.approx(0.5 * 0.5**0.9)
    assert 0 < engine.learning_rate(cfg, 99) < 0.01
    assert engine.learning_rate(dataclasses.replace(cfg, schedule="constant"), 99) == 0.5


@pytest.mark.parametrize(
    ("step", "rate"),  # of the published training code, steps counted from 1
    [
        (1, 9.999999999989144e-05),
        (100_000, 9.891830623632339e-05),
        (375_000, 8.55017856687341e-05),
        (750_000, 5.05e-05),
        (1_125_000, 1.54982143312659e-05),
        (1_499_999, 1.0000000001085656e-06),
        (1_500_000, 1e-06),
    ],
)
def test_cosine_rates_of_dea_net(step, rate):
    cfg = config.load("dehaze_its")
    assert engine.learning_rate(cfg, step - 1) == pytest.approx(rate, rel=1e-12)


def test_cosine_rises_first_and_falls_to_its_end():
    cfg = Config(steps=100, warmup=10, lr=0.5, schedule="cosine", lr_end=0.1)
    assert engine.learning_rate(cfg, 0) == pytest.approx(0.05, rel=1e-2)
    assert engine.learning_rate(cfg, 49) == pytest.approx(0.3)
    assert engine.learning_rate(cfg, 99) == pytest.approx(0.1)


def test_sampler_covers_each_pass_once_and_starts_anywhere():
    batches = list(sets.StepSampler(10, 4, seed=3, start=0, stop=5))
    stream = [i for batch in batches for i in batch]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert list(sets.StepSampler(10, 4, seed=3, start=2, stop=5)) == batches[2:]
    assert list(sets.StepSampler(10, 4, seed=4, start=0, stop=5)) != batches


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


def test_resume_refuses_a_changed_config_and_names_the_keys(cfg):
    with pytest.raises(FileNotFoundError, match=r"nothing to resume: no .*last\.pt"):
        engine.train(cfg, resume=True)
    folder = engine.train(cfg)
    changed = dataclasses.replace(cfg, lr=0.2, batch_size=8, log_every=5)
    with pytest.raises(ValueError, match=r"changed: batch_size \(4 -> 8\), lr \(0.1 -> 0.2\)$"):
        engine.train(changed, resume=True)
    assert engine.train(dataclasses.replace(cfg, log_every=5), resume=True) == folder


def test_a_loss_that_is_not_finite_stops_the_run(cfg, monkeypatch):
    original, calls = segmentation.compute_loss, []

    def exploding(*args):
        calls.append(1)
        return original(*args) * (float("nan") if len(calls) == 6 else 1)

    monkeypatch.setattr(segmentation, "compute_loss", exploding)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 5 \(lr 0.0536\).*last\.pt"):
        engine.train(cfg)
    state = checkpoint.load(Path(cfg.out) / "segmentation" / "toy" / "last.pt")
    assert state["step"] == 4
    assert all(v.isfinite().all() for v in state["model"].values())


def test_an_empty_or_unknown_domain_is_named_before_a_folder_exists(cfg):
    with pytest.raises(ValueError, match="'toy_empty' has no images in its test split"):
        engine.train(dataclasses.replace(cfg, test_domains=("toy_empty",)))
    with pytest.raises(KeyError, match="toy_nigt.*toy_night"):
        engine.train(dataclasses.replace(cfg, test_domains=("toy_nigt",)))
    with pytest.raises(KeyError, match="did you mean 'segmentation'"):
        engine.train(dataclasses.replace(cfg, task="segmentatoin"))
    assert not Path(cfg.out).exists()


def test_domains_must_share_their_classes(cfg):
    with pytest.raises(ValueError, match="share one class list: toy_day has .*streets_day has"):
        engine.train(dataclasses.replace(cfg, test_domains=("streets_day",)))


def test_unreadable_data_shows_before_the_first_step_and_does_not_block_the_name(cfg, monkeypatch):
    def broken(self, i):
        raise OSError(f"cannot read picture of {self.domain}")

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "__getitem__", broken)
        with pytest.raises(OSError, match="cannot read picture of toy_day"):
            engine.train(cfg)
    engine.train(cfg)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_gives_advice(cfg, monkeypatch, error):
    def failing(*_):
        raise error

    monkeypatch.setattr(segmentation, "compute_loss", failing)
    with pytest.raises(RuntimeError, match=r"lower batch_size \(now 4.*size .*precision=bf16"):
        engine.train(cfg)


def test_a_dead_worker_is_named(cfg, monkeypatch):
    def dying(self, i):
        os._exit(1)

    monkeypatch.setattr(Toy, "__getitem__", dying)
    monkeypatch.setattr(engine.sets, "training_set", lambda *_: ConcatDataset([Whole()]))
    with pytest.raises(RuntimeError, match=r"a data worker died \(workers = 1\): use workers=0"):
        engine.train(dataclasses.replace(cfg, workers=1))


class Whole(Toy):
    """Readable in the training process, whatever happens to Toy."""

    def __init__(self):
        super().__init__("toy_day", "train")

    def __getitem__(self, i):
        return {"image": self.image[i], "target": self.target[i], "domain": self.domain}


def test_a_full_disk_leaves_the_previous_checkpoint(cfg, monkeypatch):
    original, saved = os.fsync, []

    def full(descriptor):
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        saved.append(name)
        if saved.count(".last.pt.part") == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*last\.pt: No space left.*free some space"):
        engine.train(cfg)
    folder = Path(cfg.out) / "segmentation" / "toy"
    assert checkpoint.load(folder / "last.pt")["step"] == 4
    assert not list(folder.glob(".*.part"))


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"last\.pt is not a readable checkpoint"):
        checkpoint.load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"must be a run checkpoint .* holds \['state_dict'\]"):
        checkpoint.load(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoint.load(tmp_path / "none.pt")


def test_device_must_exist(cfg):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is present")
    with pytest.raises(ValueError, match="device is cuda, but torch sees no CUDA device"):
        engine.train(dataclasses.replace(cfg, device="cuda"))
