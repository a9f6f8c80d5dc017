"""The gate that a run keeps, and `dehaze --gate`."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ibnvision
from ibnvision import cli, config
from ibnvision.engine import checkpoint
from ibnvision.engine.gate import entry, find_gate, gate_of, stored_gate
from ibnvision.engine.restore import restore_files
from ibnvision.methods.gate import Gate


class Darker(nn.Module):
    """Half of every value, so that results are known."""

    def restore(self, x: Tensor, max_memory: int | None = None) -> Tensor:
        return x / 2


def pairs(count: int) -> list[dict]:
    """Grey pairs: clear from 0 to 0.2, hazy from 0.4 to 0.6."""
    levels = [0.2 * i / (count - 1) for i in range(count)]
    full = torch.ones(3, 16, 16)
    return [{"image": (v + 0.4) * full, "target": v * full} for v in levels]


def test_a_run_keeps_the_ends_of_its_pairs():
    found = entry(Darker(), [pairs(51), pairs(51)])
    assert found["gate"] == pytest.approx({"low": 0.19, "high": 0.41}, abs=2e-3)
    many = entry(Darker(), [pairs(5001)])  # 200 of them, evenly
    assert many["gate"] == pytest.approx({"low": 0.19, "high": 0.41}, abs=2e-3)


def test_a_run_without_such_pairs_says_so():
    swapped = [{"image": p["target"], "target": p["image"]} for p in pairs(9)]
    assert entry(Darker(), [swapped]) == {"gate": None}
    assert entry(nn.Conv2d(3, 3, 1), [pairs(3)]) == {}


def test_text_of_a_gate():
    assert gate_of("0.2,0.25") == (0.2, 0.25)
    for text in ("x", "0.2", "0.1,0.2,0.3", "photo.png"):
        with pytest.raises(ValueError, match="--gate-range must read LOW,HIGH"):
            gate_of(text)
    with pytest.raises(ValueError, match="--gate-range: low and high must hold"):
        gate_of("0.3,0.2")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """clear.png and hazy.png, and the checkpoint run.pt of a network with a gate of 0.2 and 0.3."""
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    cv2.imwrite("clear.png", random.randint(0, 90, (20, 30, 3), np.uint8))
    cv2.imwrite("hazy.png", random.randint(160, 250, (20, 30, 3), np.uint8))
    args = {"width": 8, "depths": [1, 1, 1, 1, 1]}
    cfg = config.from_dict({"task": "dehazing", "model": "dea_net", "model_args": args})
    model = ibnvision.create_model("dea_net", **args)
    state = {"task": "dehazing", "config": config.to_dict(cfg), "size": [32, 32], "classes": []}
    state |= {"model": model.state_dict(), "ema": None}
    checkpoint.save(tmp_path / "plain.pt", state)
    checkpoint.save(tmp_path / "run.pt", state | {"gate": {"low": 0.2, "high": 0.3}})
    torch.save(model.state_dict(), "published.pth")
    return tmp_path


def stored(path: str) -> np.ndarray:
    return cv2.imread(path, cv2.IMREAD_UNCHANGED)


def test_files_behind_a_gate(folder):
    report = restore_files(["."], Darker(), "out", gate=Gate(0.2, 0.3), compare=True)
    assert report.failed == [] and len(report.written) == 4
    assert np.array_equal(stored("out/clear.png"), stored("clear.png"))
    assert np.abs(stored("out/hazy.png").astype(int) - stored("hazy.png") // 2).max() <= 1


def test_frames_of_a_video_are_gated_one_by_one(folder):
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in (20, 200):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    assert restore_files(["clip.avi"], Darker(), "out", gate=Gate(0.2, 0.3)).failed == []
    reader = cv2.VideoCapture("out/clip.mp4")
    means = [reader.read()[1].mean() for _ in range(2)]
    assert means == pytest.approx([20, 100], abs=6)


def test_command_takes_the_gate_of_the_run(folder, capsys):
    options = ["--weights", "run.pt", "--gate"]
    assert cli.main(["dehaze", "clear.png", "hazy.png", *options, "--out", "gated"]) == 0
    assert "gate      untouched up to haze 0.200, restored from 0.300 on" in capsys.readouterr().out
    assert cli.main(["dehaze", "clear.png", "hazy.png", *options[:2], "--out", "whole"]) == 0
    assert np.array_equal(stored("gated/clear.png"), stored("clear.png"))
    assert not np.array_equal(stored("whole/clear.png"), stored("clear.png"))
    assert np.array_equal(stored("gated/hazy.png"), stored("whole/hazy.png"))
    words = ["dehaze", "clear.png", "hazy.png", *options, "--max-memory", "400kB"]
    assert cli.main([*words, "--out", "strips"]) == 0
    assert np.array_equal(stored("strips/clear.png"), stored("clear.png"))
    apart = stored("strips/hazy.png").astype(int) - stored("gated/hazy.png")
    assert np.abs(apart).max() <= 1


def test_command_with_thresholds_of_its_own(folder):
    words = ["predict", "hazy.png", "--weights", "published.pth", "--gate-range", "0.9,0.95"]
    assert cli.main([*words, "--out", "out"]) == 0
    assert np.array_equal(stored("out/hazy.png"), stored("hazy.png"))


def test_weights_without_a_gate_are_named(folder, capsys):
    for name in ("published.pth", "plain.pt"):
        assert cli.main(["dehaze", "hazy.png", "--weights", name, "--gate", "--out", "out"]) == 2
        text = capsys.readouterr().err
        assert f"{name} holds none: pass --gate-range LOW,HIGH" in text
    assert not Path("out").exists()
    assert stored_gate("run.pt") == find_gate("run.pt") == (0.2, 0.3)
    assert find_gate("plain.pt") is None and find_gate("published.pth") is None
    assert cli.main(["dehaze", "hazy.png", "--weights", "run.pt", "--gate-range", "1,0"]) == 2
    assert "--gate-range: low and high must hold 0 <= low < high <= 1" in capsys.readouterr().err
