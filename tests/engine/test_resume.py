"""Interrupted, killed and resumed runs."""

import dataclasses
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from same_run import assert_same_run, interrupt_at

from ibnvision import config, engine
from ibnvision.engine import checkpoint
from ibnvision.tasks import segmentation


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"ema": 0.9, "grad_accum": 2, "augment": "jitter"},
    ],
)
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


@pytest.mark.slow
def test_a_killed_training_leaves_a_loadable_checkpoint(cfg):
    script = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = {sys.path!r}
        import pytest
        from colour_toy import add_toys
        from ibnvision import config, engine
        from ibnvision.tasks import segmentation
        from same_run import interrupt_at
        patch = pytest.MonkeyPatch()
        add_toys(patch)
        interrupt_at(patch, segmentation, 7, number=9)
        engine.train(config.from_dict({config.to_dict(cfg)!r}))
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    folder = Path(cfg.out) / "segmentation" / "toy"
    assert checkpoint.load(folder / "last.pt")["step"] == 4
    engine.train(cfg, resume=True)
    whole = engine.train(dataclasses.replace(cfg, name="whole"))
    assert_same_run(folder, whole)


def test_resume_refuses_a_changed_config_and_names_the_keys(cfg):
    with pytest.raises(FileNotFoundError, match=r"nothing to resume: no .*last\.pt"):
        engine.train(cfg, resume=True)
    folder = engine.train(cfg)
    changed = dataclasses.replace(cfg, lr=0.2, batch_size=8, log_every=5)
    with pytest.raises(ValueError, match=r"changed: batch_size \(4 -> 8\), lr \(0.1 -> 0.2\)$"):
        engine.train(changed, resume=True)
    assert engine.train(dataclasses.replace(cfg, log_every=5), resume=True) == folder
