"""Pictures and videos in; overlays, colours, class ids and shares out."""

import copy
import csv
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ibnvision import config, data
from ibnvision.config import Config
from ibnvision.engine import checkpoint
from ibnvision.engine.label import label_files, mean_shares
from ibnvision.engine.photo import to_image
from ibnvision.engine.predict import Trained, label_function, load_trained, usable_device
from ibnvision.models import create_segmenter

CLASSES = ("road", "sky", "a, b")


def brightest(image: Tensor) -> Tensor:
    """The class of a pixel is its brightest channel; refuses images that are all white."""
    if image.min() == 1:
        raise ValueError("too white")
    return image.argmax(0).to(torch.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    small = random.randint(0, 256, (21, 30, 4), np.uint8)
    cv2.imwrite("in/colour.png", small[..., :3])
    cv2.imwrite("in/grey.png", small[..., 0])
    cv2.imwrite("in/alpha.png", small)
    cv2.imwrite("in/deep/long.png", random.randint(0, 65536, (21, 30, 3)).astype(np.uint16))
    return tmp_path


def stored(path: str | Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def table(path: str | Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_every_picture_gets_overlay_colours_and_ids(folder):
    report, shares = label_files(["in"], brightest, CLASSES, "out", opacity=0.25)
    assert report.failed == [] and len(report.written) == 12 and len(shares) == 4
    palette = data.palette(CLASSES)
    for name in ("colour", "grey", "alpha", "deep/long"):
        pixels = stored(f"in/{name}.png")
        bgr = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels[..., :3]
        ids = stored(f"out/{name}_label.png")
        assert ids.dtype == np.uint8 and np.array_equal(ids, bgr[..., ::-1].argmax(2))
        colours = stored(f"out/{name}_color.png")
        assert np.array_equal(colours[..., ::-1], palette[ids])
        full = 65535 if pixels.dtype == np.uint16 else 255
        mixed = 0.75 * 255 * (bgr / full) + 0.25 * colours
        overlay = stored(f"out/{name}_overlay.png")
        assert overlay.dtype == np.uint8 and np.abs(overlay - mixed).max() <= 0.51
    assert stored("out/legend.png").shape == (22 * 3 + 4, 16 + 8 * 4, 3)
    assert not list(Path("out").rglob(".*"))


def test_large_pictures_are_painted_in_bands(folder, monkeypatch):
    whole, _ = label_files(["in/colour.png"], brightest, CLASSES, "whole")
    monkeypatch.setattr("ibnvision.engine.paint._ROWS", 4)
    bands, _ = label_files(["in/colour.png"], brightest, CLASSES, "bands")
    assert np.array_equal(stored(whole.written[0]), stored(bands.written[0]))


def test_shares_add_up_and_are_written(folder):
    _, shares = label_files(["in"], brightest, CLASSES, "out")
    head, *rows = table("out/shares.csv")
    assert head == ["file", "frame", "road_pct", "sky_pct", "a, b_pct"]
    assert [row[0] for row in rows] == [f"in/{n}.png" for n in (
        "alpha", "colour", "deep/long", "grey",
    )]  # fmt: skip
    for row, share in zip(rows, shares, strict=True):
        ids = stored(row[0].replace("in/", "out/").replace(".png", "_label.png"))
        counted = 100 * np.bincount(ids.ravel(), minlength=3) / ids.size
        assert row[1] == "" and sum(share.percent) == pytest.approx(100)
        assert np.array(row[2:], float) == pytest.approx(counted, abs=1e-6)
    assert sum(mean_shares(shares)) == pytest.approx(100)
    assert shares[3].percent == [100, 0, 0]  # grey: the first of equal channels


def make_video(path, frames=5, size=(48, 64)):
    """Every frame one colour: blue first, then green, then red."""
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 6, size[::-1])
    for i in range(frames):
        frame = np.full((*size, 3), 30, np.uint8)
        frame[..., i % 3] = 220
        writer.write(frame)
    writer.release()


def frames_of(path):
    reader, frames = cv2.VideoCapture(str(path)), []
    while (read := reader.read())[0]:
        frames.append(read[1])
    return frames, reader.get(cv2.CAP_PROP_FPS)


def test_videos(folder):
    make_video("in/clip.avi")
    report, shares = label_files(["in/clip.avi"], brightest, CLASSES, "out", stride=2)
    assert report.failed == []
    assert [p.name for p in report.written] == ["clip_overlay.mp4", "clip_color.mp4"]
    assert [share.frame for share in shares] == [0, 2, 4]
    assert [share.percent for share in shares] == [[0, 0, 100], [100, 0, 0], [0, 100, 0]]
    frames, rate = frames_of("out/clip_color.mp4")
    assert len(frames) == 3 and rate == 3
    palette = data.palette(CLASSES).astype(float)
    for frame, k in zip(frames, (2, 0, 1), strict=True):
        assert np.abs(frame.mean((0, 1))[::-1] - palette[k]).max() < 8
    overlay = frames_of("out/clip_overlay.mp4")[0][0].mean((0, 1))
    expected = 0.4 * np.array([220, 30, 30]) + 0.6 * palette[2][::-1]
    assert np.abs(overlay - expected).max() < 8
    assert mean_shares(shares) == pytest.approx([100 / 3] * 3)


def test_a_video_counts_as_one_file_in_the_mean(folder):
    make_video("in/deep/clip.avi", frames=4)
    cv2.imwrite("in/deep/red.png", np.full((4, 4, 3), (0, 0, 200), np.uint8))
    _, shares = label_files(["in/deep/clip.avi", "in/deep/red.png"], brightest, CLASSES, "out")
    assert mean_shares(shares) == pytest.approx([(25 + 100) / 2, 12.5, 25])


def test_only_what_is_asked_for(folder):
    make_video("in/clip.avi")
    report, shares = label_files(["in"], brightest, CLASSES, "out", only=["label"])
    assert {p.name for p in report.written} == {
        *("alpha_label.png", "colour_label.png", "grey_label.png", "long_label.png")
    }
    assert [str(path) for path, _ in report.failed] == ["in/clip.avi"]
    assert "only must name overlay or color for a video" in report.failed[0][1]
    assert len(shares) == 4 and not list(Path("out").rglob("*.mp4"))


def test_broken_files_are_listed_and_the_rest_is_done(folder):
    Path("in/broken.png").write_bytes(b"not a picture")
    Path("in/broken.mp4").write_bytes(b"not a video")
    Path("in/notes.txt").write_text("text")
    cv2.imwrite("in/white.png", np.full((9, 9, 3), 255, np.uint8))
    report, shares = label_files(["in", "in/notes.txt"], brightest, CLASSES, "out")
    assert len(shares) == 4 and len(report.written) == 12
    reasons = {path.name: reason for path, reason in report.failed}
    assert reasons["broken.png"] == "in/broken.png cannot be read as a picture"
    assert reasons["broken.mp4"] == "in/broken.mp4 cannot be read as a video"
    assert reasons["white.png"] == "too white"
    assert "must be a picture or a video" in reasons["notes.txt"]
    with pytest.raises(ValueError, match=r"4 files failed.*in/white\.png: too white"):
        report.check()
    assert len(table("out/shares.csv")) == 5 and not list(Path("out").rglob(".*"))


def test_a_video_that_fails_midway_leaves_nothing(folder):
    make_video("in/clip.avi")
    seen = []

    def failing(image):
        seen.append(1)
        if len(seen) == 3:
            raise RuntimeError("no memory")
        return brightest(image)

    report, shares = label_files(["in/clip.avi"], failing, CLASSES, "out")
    assert report.failed == [(Path("in/clip.avi"), "no memory")]
    assert shares == [] and list(Path("out").iterdir()) == []


def test_shares_of_what_is_done_survive_an_interruption(folder):
    seen = []

    def interrupted(image):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return brightest(image)

    with pytest.raises(KeyboardInterrupt):
        label_files(["in"], interrupted, CLASSES, "out")
    assert len(table("out/shares.csv")) == 3


@pytest.mark.parametrize("name", ["deep/long_color.png", "shares.csv", "legend.png"])
def test_nothing_is_replaced_unless_asked(folder, name):
    (folder / "out" / "deep").mkdir(parents=True)
    Path("out", name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"out/{name} exists: pass --overwrite"):
        label_files(["in"], brightest, CLASSES, "out")
    assert sum(p.is_file() for p in Path("out").rglob("*")) == 1
    report, _ = label_files(["in"], brightest, CLASSES, "out", overwrite=True)
    assert report.failed == [] and Path("out", name).read_bytes() != b"mine"


def test_arguments_are_checked_before_anything_is_written(folder):
    for how, message in [
        ({"opacity": 1.1}, "opacity must be in"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"only": []}, "only must name at least one of overlay, color, label"),
    ]:
        with pytest.raises(ValueError, match=message):
            label_files(["in"], brightest, CLASSES, "out", **how)
    with pytest.raises(KeyError, match="'colour': did you mean 'color'"):
        label_files(["in"], brightest, CLASSES, "out", only=["colour"])
    with pytest.raises(FileNotFoundError, match="no file, folder or match for gone"):
        label_files(["gone"], brightest, CLASSES, "out")
    assert not Path("out").exists()


def trained(cfg, classes=CLASSES):
    class Brightest(nn.Conv2d):
        def forward(self, x):
            self.seen = tuple(x.shape[2:])
            return super().forward(x)

    model = Brightest(3, 3, 1, bias=False)
    model.weight.data = torch.eye(3)[..., None, None]
    return Trained(model, cfg, classes, (16, 24))


def test_a_model_of_crops_sees_pictures_at_their_size(folder):
    image = to_image(stored("in/colour.png"))
    run = trained(Config())._replace(crops=True)
    assert torch.equal(label_function(run)(image), brightest(image))
    assert run.model.seen == (16, 24)
    other = trained(Config())
    label_function(other)(image)
    assert other.model.seen == (16, 24)  # 21 x 30 at height 16
    label_function(other, scale=2.0, whole=True)(image)
    assert other.model.seen == (42, 60)


def test_labels_of_a_folded_model_agree_but_for_ties():
    torch.manual_seed(0)
    model = create_segmenter("resnet18_ibn_b", 3, head="deeplabv3plus", head_channels=16).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)
    plain = copy.deepcopy(model)
    run = Trained(model, Config(), CLASSES, (64, 96))
    image = torch.rand(3, 64, 96)
    label = label_function(run)
    with torch.no_grad():
        want, scores = plain(image[None])[0], model(image[None])[0]
    tolerance = 1e-5 * want.abs().max()
    assert 0 < (scores - want).abs().max() < tolerance  # folded, and the same
    best, second = want.topk(2, dim=0).values
    clear = best - second > 2 * tolerance
    assert clear.float().mean() > 0.9
    assert torch.equal(label(image)[clear], want.argmax(0).to(torch.uint8)[clear])
    with pytest.raises(RuntimeError, match="was folded"):
        model.train()


def test_a_checkpoint_is_loaded_without_fetching_other_weights(folder, monkeypatch):
    built = []

    def build(_, *, num_classes, mean, std, **args):
        built.append(args)
        return nn.Conv2d(3, num_classes, 1)

    monkeypatch.setattr("ibnvision.tasks.segmentation.build_model", build)
    cfg = Config(model_args={"pretrained": True, "ibn": "b"})
    state = {"config": config.to_dict(cfg), "classes": ["a", "b"], "size": [16, 24], "ema": None}
    state["step"] = 3
    checkpoint.save(Path("last.pt"), state | {"model": nn.Conv2d(3, 2, 1).state_dict()})
    assert load_trained("last.pt").cfg == cfg
    assert built == [{"pretrained": False, "ibn": "b"}]


def test_what_cannot_be_labelled_is_refused(folder):
    cfg = dataclasses.replace(Config(), task="dehazing")
    with pytest.raises(ValueError, match="of the task segmentation, got 'dehazing'"):
        label_function(trained(cfg))
    many = tuple(map(str, range(256)))
    with pytest.raises(ValueError, match="at most 255 classes, got 256"):
        label_function(trained(Config(), many))
    with pytest.raises(ValueError, match="device must be cpu or cuda, got 'gpu'"):
        usable_device("gpu")
