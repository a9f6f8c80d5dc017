"""What stops a run, and what it says then."""

import dataclasses
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from colour_toy import CLASSES, Toy, small_network
from torch.utils.data import ConcatDataset

from ibnvision import engine
from ibnvision.engine import checkpoint, evaluation, processes, sets
from ibnvision.engine.progress import Interrupted, StopRequest
from ibnvision.tasks import segmentation


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
    monkeypatch.setattr(sets, "training_set", lambda *_: ConcatDataset([Whole()]))
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


def test_processes_stop_together(cfg, monkeypatch):
    """One that was told to stop may not leave the others waiting for it."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        group = torch.distributed.new_group(backend="gloo")
        assert processes.any_of(True, group) and not processes.any_of(False, group)
    finally:
        torch.distributed.destroy_process_group()
    assert processes.any_of(True, None) and not processes.any_of(False, None)
    monkeypatch.setattr(evaluation, "broadcast", lambda values: values)
    others = [True]
    monkeypatch.setattr(
        evaluation, "gather_object", lambda s: [*s, *((s[0][0], o) for o in others)]
    )
    two = SimpleNamespace(
        num_processes=2, process_index=0, is_main_process=True, device=torch.device("cpu")
    )
    found = {"toy_day": sets.build(cfg, "toy_day", "val")}
    words = (cfg, segmentation, small_network("", num_classes=len(CLASSES)), found, "val", CLASSES)
    with pytest.raises(Interrupted):
        evaluation.evaluate_sets(*words, two, stop=StopRequest())
    others.clear()
    assert list(evaluation.evaluate_sets(*words, two, stop=StopRequest())) == ["toy_day"]
