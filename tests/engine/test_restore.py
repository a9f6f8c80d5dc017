"""Photographs and videos in, the same kind of file out; and the command around it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ibnvision
from ibnvision import cli
from ibnvision.engine.photo import encode_png, read_photo
from ibnvision.engine.restore import restore_files


class Darker(nn.Module):
    """Half of every value, so that results are known; refuses images that are all white."""

    def restore(self, x: Tensor, max_memory: int | None = None) -> Tensor:
        if x.min() == 1:
            raise ValueError("too white")
        return x / 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    small = random.randint(0, 256, (20, 30, 4), np.uint8)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    cv2.imwrite("in/colour.png", small[..., :3])
    cv2.imwrite("in/grey.png", small[..., 0])
    cv2.imwrite("in/alpha.png", small)
    cv2.imwrite("in/deep/long.png", random.randint(0, 65536, (20, 30, 3)).astype(np.uint16))
    cv2.imwrite("in/deep/colour.jpg", small[..., :3])
    return tmp_path


def stored(path: str | Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_kinds_of_pictures_are_kept(folder):
    report = restore_files(["in"], Darker(), "out")
    assert report.failed == [] and len(report.written) == 5
    for name in ("colour", "grey", "deep/long"):
        before, after = stored(f"in/{name}.png"), stored(f"out/{name}.png")
        assert after.dtype == before.dtype and after.shape == before.shape
        assert np.abs(after.astype(int) - before // 2).max() <= 1
    before, after = stored("in/alpha.png"), stored("out/alpha.png")
    assert np.array_equal(after[..., 3], before[..., 3])
    assert np.abs(after[..., :3].astype(int) - before[..., :3] // 2).max() <= 1
    assert stored("out/deep/colour.png").shape == (20, 30, 3)
    assert [p for p in (folder / "out").rglob(".*")] == []


def test_an_unchanged_picture_comes_back_to_the_bit(folder):
    for name in ("colour", "grey", "alpha", "deep/long"):
        photo = read_photo(Path(f"in/{name}.png"))
        Path("again.png").write_bytes(encode_png(photo.image, photo))
        assert np.array_equal(stored("again.png"), stored(f"in/{name}.png")), name


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation])
    exif += b"\0\0\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


def test_orientation_of_a_phone_is_applied(folder):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 200  # bright on the left
    plain = cv2.imencode(".jpg", pixels)[1].tobytes()
    Path("turned.jpg").write_bytes(with_orientation(plain, 6))  # a quarter turn clockwise
    assert restore_files(["turned.jpg"], Darker(), "out").failed == []
    after = stored("out/turned.png")
    assert after.shape == (32, 16, 3)
    assert after[:12].mean() > 90 and after[20:].mean() < 10


def test_alpha_turns_with_the_colours(folder, monkeypatch):
    read = cv2.imread

    def turned(path, flags):  # as OpenCV does for a file with an orientation
        pixels = read(path, flags)
        return pixels if flags == cv2.IMREAD_UNCHANGED else np.rot90(pixels[:, ::-1], 1).copy()

    monkeypatch.setattr(cv2, "imread", turned)
    photo = read_photo(Path("in/alpha.png"))
    assert photo.image.shape == (3, 30, 20)
    alpha = read("in/alpha.png", cv2.IMREAD_UNCHANGED)[..., 3]
    assert np.array_equal(photo.alpha, np.rot90(alpha[:, ::-1], 1))


def test_before_beside_after(folder):
    report = restore_files(["in/colour.png"], Darker(), "out", compare=True)
    assert [p.name for p in report.written] == ["colour.png", "colour_compare.png"]
    pair = stored("out/colour_compare.png")
    assert np.array_equal(pair[:, :30], stored("in/colour.png"))
    assert np.array_equal(pair[:, 30:], stored("out/colour.png"))


def test_broken_files_are_listed_and_the_rest_is_done(folder):
    Path("in/broken.png").write_bytes(b"not a picture")
    Path("in/broken.mp4").write_bytes(b"not a video")
    cv2.imwrite("in/white.png", np.full((9, 9, 3), 255, np.uint8))
    Path("in/notes.txt").write_text("no picture, not looked at in a folder")
    report = restore_files(["in", "in/notes.txt"], Darker(), "out")
    assert len(report.written) == 5
    reasons = {path.name: reason for path, reason in report.failed}
    assert reasons["broken.png"] == "in/broken.png cannot be read as a picture"
    assert reasons["broken.mp4"] == "in/broken.mp4 cannot be read as a video"
    assert reasons["white.png"] == "too white"
    assert "must be a picture or a video" in reasons["notes.txt"]
    assert not Path("out/white.png").exists() and not list(Path("out").rglob(".*"))


def test_nothing_is_replaced_unless_asked(folder):
    restore_files(["in/colour.png"], Darker(), "out")
    with pytest.raises(FileExistsError, match="out/colour.png exists: pass --overwrite"):
        restore_files(["in"], Darker(), "out")
    assert not Path("out/grey.png").exists()
    assert restore_files(["in"], Darker(), "out", overwrite=True).failed == []
    with pytest.raises(FileNotFoundError, match="no file, folder or match for gone"):
        restore_files(["gone*.png"], Darker(), "new")


def test_same_names_get_numbers_and_results_are_no_input(folder):
    report = restore_files(["in/*.png", "in/deep/colour.jpg"], Darker(), "in/out")
    assert sorted(p.name for p in report.written) == [
        "alpha.png", "colour.png", "colour_2.png", "grey.png",
    ]  # fmt: skip
    assert len(restore_files(["in"], Darker(), "in/out", overwrite=True).written) == 5


def test_videos(folder):
    writer = cv2.VideoWriter("in/clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for i in range(4):
        writer.write(np.full((48, 64, 3), 40 * i + 20, np.uint8))
    writer.release()
    report = restore_files(["in/clip.avi"], Darker(), "out", compare=True)
    assert report.failed == []
    assert [p.name for p in report.written] == ["clip.mp4", "clip_compare.mp4"]
    means = []
    reader = cv2.VideoCapture("out/clip_compare.mp4")
    while (read := reader.read())[0]:
        means.append((read[1][:, :64].mean(), read[1][:, 64:].mean()))
    assert reader.get(cv2.CAP_PROP_FPS) == 5 and len(means) == 4
    for i, (before, after) in enumerate(means):
        assert abs(before - 40 * i - 20) < 6 and abs(after - 20 * i - 10) < 6


@pytest.fixture
def weights(folder) -> str:
    model = ibnvision.create_model("dea_net", width=8, depths=(1, 1, 1, 1, 1))
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, "net.pk")
    return "net.pk"


def error_of(capsys, *words: str) -> str:
    assert cli.main(list(words)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("verb", ["predict", "dehaze"])
def test_command_with_a_published_file(weights, folder, capsys, verb):
    options = ["--weights", weights, "--out", "out"]
    assert cli.main([verb, "in", *options, "--compare"]) == 0
    assert "restored  out/deep/long.png" in capsys.readouterr().out
    assert len(list(Path("out").rglob("*_compare.png"))) == 5
    whole = stored("out/deep/long.png").astype(int)
    assert cli.main([verb, "in/deep/long.png", *options[:3], "strips", "--max-memory", "1MB"]) == 0
    assert np.abs(stored("strips/long.png").astype(int) - whole).max() <= 6  # 1e-4 of 65535


def test_command_says_what_is_wrong(weights, folder, capsys):
    options = ["--weights", weights, "--out", "out"]
    tight = error_of(capsys, "dehaze", "in/colour.png", *options, "--max-memory", "10kB")
    assert "in/colour.png: max_memory must be at least" in tight and "stage up_level" in tight
    Path("in/broken.png").write_bytes(b"no")
    broken = error_of(capsys, "dehaze", "in", *options)
    assert "1 files failed, the others are done: in/broken.png cannot be read" in broken
    assert Path("out/colour.png").is_file()
    assert "PATH must name pictures" in error_of(capsys, "dehaze", *options)
    wrong = error_of(capsys, "segment", "in/colour.png", *options)
    assert "segment needs weights of a run of segmentation, got net.pk" in wrong
    assert "must read like 2GB" in error_of(capsys, "dehaze", "in", *options, "--max-memory", "x")
    assert "--device cuda" in error_of(capsys, "dehaze", "in", *options, "--half")
    nothing = error_of(capsys, "dehaze", "in")
    assert "of dehazing below runs: train first (ibnvision train streets_dehaze), or" in nothing
