import json
import shutil

import cv2
import pytest
import torch
from hazy_toy import add_domains

from ibnvision import cli, config
from ibnvision.engine import checkpoint, read_records
from ibnvision.metrics import PROTOCOLS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the tiny config with the real model, data and command line."""
    out = tmp_path_factory.mktemp("cli") / "runs"
    assert cli.main(["train", "seg_streets_tiny", f"out={out}", "threads=1", "device=cpu"]) == 0
    return out / "segmentation" / "seg_streets_tiny"


@pytest.fixture(scope="module")
def dehazing(tmp_path_factory):
    """The same with the tiny config of dehazing, on a stand-in where its domains are missing."""
    out = tmp_path_factory.mktemp("cli") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        add_domains(patch, "haze", "haze_dense")
        words = [f"out={out}", "threads=1", "device=cpu", "size=[16,16]"]
        assert cli.main(["train", "dehaze_streets_tiny", *words]) == 0
        yield out / "dehazing" / "dehaze_streets_tiny"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def error_of(capsys, *words):
    assert cli.main(words) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


def test_train_with_the_tiny_config_lowers_its_loss(trained):
    rows = read_records(trained)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < 0.9 * losses[0]
    assert {(row["split"], row["domain"]) for row in rows if row["kind"] == "eval"} == {
        ("val", "streets_day"),
        ("test", "streets_day"),
        ("test", "streets_night"),
    }
    assert checkpoint.load(trained / "last.pt")["size"] == [32, 48]


def test_train_again_says_what_to_do(trained, capsys):
    words = ["train", str(trained / "config.toml")]
    assert "resume=true" in error_of(capsys, *words)
    assert "changed: lr (0.05 -> 0.1)" in error_of(capsys, *words, "resume=true", "lr=0.1")
    assert cli.main([*words, "resume=true"]) == 0
    assert "done in" in capsys.readouterr().out
    assert "resume must be true or false, got 'yes'" in error_of(capsys, *words, "resume=yes")


def test_eval_repeats_the_numbers_of_the_run(trained, tmp_path, capsys):
    out = tmp_path / "eval"
    assert cli.main(["eval", str(trained), "--out", str(out)]) == 0
    assert "streets_night" in capsys.readouterr().out
    report = json.loads((out / "eval.json").read_text())
    last = read_records(trained)[-1]
    assert last["domain"] == "streets_night"
    found = report["domains"]["streets_night"]
    assert found["miou_pct"] == pytest.approx(last["miou_pct"], abs=1e-9)
    assert found["iou_pct"] == pytest.approx(last["iou_pct"], nan_ok=True)
    assert "left out of the mean" in report["absent_rule"]
    assert (out / "confusion_streets_day.png").is_file()
    assert report["selection"] == last["selection"] == "last of the fixed steps"
    best = checkpoint.load(trained / "best.pt")["step"]
    assert cli.main(["eval", str(trained / "best.pt"), "--domains", "streets_day"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"(best on the source's val split, step {best}) on test" in said


def test_predict_without_a_path_draws_scenes_with_the_newest_run(trained, tmp_path, capsys):
    assert "train first" in error_of(capsys, "predict")
    shutil.copytree(trained, tmp_path / "runs" / "segmentation" / "mine")
    assert cli.main(["predict"]) == 0
    assert "runs/segmentation/mine/last.pt" in capsys.readouterr().out
    overlays = sorted((tmp_path / "runs" / "predict").glob("*_overlay.png"))
    assert len(overlays) == 8 and overlays[0].name == "streets_day_0_overlay.png"
    label = cv2.imread(str(overlays[0]).replace("overlay", "label"), cv2.IMREAD_UNCHANGED)
    assert label.shape == (32, 48) and label.max() < 8
    assert cli.main(["segment"]) == 0
    assert (tmp_path / "runs" / "predict2").is_dir()


def test_predict_takes_files_folders_patterns_and_videos(trained, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = (torch.rand(60, 100, 3) * 255).byte().numpy()
    cv2.imwrite(str(folder / "a.png"), pixels)
    cv2.imwrite(str(folder / "b.jpg"), pixels)
    (folder / "notes.txt").write_text("no picture")
    video = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64)
    )
    for _ in range(5):
        video.write((torch.rand(64, 96, 3) * 255).byte().numpy())
    video.release()
    weights = ["--weights", str(trained)]

    def names(out):
        return sorted(p.name for p in (tmp_path / out).glob("*_overlay.png"))

    assert cli.main(["predict", "pictures", *weights, "--out", "one"]) == 0
    assert names("one") == ["a_overlay.png", "b_overlay.png"]
    label = cv2.imread(str(tmp_path / "one" / "a_label.png"), cv2.IMREAD_UNCHANGED)
    assert label.shape == (60, 100)
    words = ["predict", "pictures/*.png", "pictures/b.jpg", "pictures/a.png", *weights]
    assert cli.main([*words, "--out", "two"]) == 0
    assert names("two") == ["a_2_overlay.png", "a_overlay.png", "b_overlay.png"]
    capsys.readouterr()
    assert cli.main(["predict", "clip.avi", *weights, "--out", "three", "--stride", "2"]) == 0
    text = capsys.readouterr().out
    assert "labelled  three/clip_overlay.mp4" in text and "vegetation" in text
    rows = (tmp_path / "three" / "shares.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["frame", "0", "2", "4"]
    assert all(abs(sum(map(float, row.split(",")[2:])) - 100) < 1e-4 for row in rows[1:])
    assert "a_overlay.png exists" in error_of(
        capsys, "predict", "pictures", *weights, "--out", "one"
    )
    assert cli.main(["predict", "pictures", *weights, "--out", "one", "--overwrite"]) == 0


def test_segment_takes_sizes_windows_and_styles(trained, tmp_path, capsys):
    pixels = (torch.rand(61, 90, 3) * 255).byte().numpy()
    cv2.imwrite("a.png", pixels)
    words = ["segment", "a.png", "--weights", str(trained)]

    def label(out, *options):
        assert cli.main([*words, "--out", out, *options]) == 0
        return cv2.imread(f"{out}/a_label.png", cv2.IMREAD_UNCHANGED)

    whole = label("whole", "--scale", "1", "--whole")
    windows = label("windows", "--scale", "1", "--window", "40", "48", "--overlap", "0.5")
    assert whole.shape == windows.shape == (61, 90)
    assert 0.5 < (whole == windows).mean() < 1
    one = label("one", "--height", "61", "--window", "100", "200")
    large = label("large", "--scale", "1", "--window", "100", "200")
    assert (large == whole).all() and (one != whole).any()  # the width is 88 there
    cv2.imwrite("black.png", 0 * pixels)
    black = ["segment", "black.png", *words[2:], "--out", "few", "--only", "overlay,label"]
    assert cli.main([*black, "--opacity", "0"]) == 0
    assert sorted(p.name for p in (tmp_path / "few").iterdir()) == [
        *("black_label.png", "black_overlay.png", "legend.png", "shares.csv")
    ]
    assert cv2.imread("few/black_overlay.png").max() == 0
    assert "only names the unknown result 'mask'" in error_of(capsys, *words, "--only", "mask")
    assert "whole and window must not both" in error_of(
        capsys, *words, "--whole", "--window", "9", "9"
    )
    assert "overlap must be at least 0" in error_of(capsys, *words, "--overlap", "1")
    assert not (tmp_path / "runs").exists()


def test_predict_refuses_options_of_another_task(trained, dehazing, tmp_path, capsys):
    cv2.imwrite("a.png", (torch.rand(32, 48, 3) * 255).byte().numpy())
    words = ["predict", "a.png", "--weights"]
    wrong = error_of(capsys, *words, str(trained), "--compare")
    assert "--compare needs weights of dehazing" in wrong
    assert "--max-memory needs" in error_of(capsys, *words, str(trained), "--max-memory", "2GB")
    wrong = error_of(capsys, *words, str(dehazing), "--window", "9", "9")
    assert "--window needs weights of segmentation" in wrong
    wrong = error_of(capsys, "segment", "a.png", "--weights", str(dehazing))
    assert "segment needs weights of segmentation" in wrong
    assert "holds those of dehazing: use ibnvision predict" in wrong
    assert "come with --device cuda" in error_of(capsys, *words, str(trained), "--half")
    if not torch.cuda.is_available():
        wrong = error_of(capsys, *words, str(trained), "--device", "cuda")
        assert "torch sees no CUDA device" in wrong
    assert not list(tmp_path.glob("runs"))


def test_predict_goes_on_after_a_file_that_fails(trained, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    cv2.imwrite("in/a.png", (torch.rand(32, 48, 3) * 255).byte().numpy())
    (tmp_path / "in" / "bad.png").write_bytes(b"not a png")
    assert cli.main(["segment", "in", "--weights", str(trained), "--out", "out"]) == 2
    found = capsys.readouterr()
    assert "labelled  out/a_label.png" in found.out and "building" in found.out
    assert found.err.startswith("error: 1 files failed, the others are done: in/bad.png cannot be")


def test_predict_names_what_it_cannot_use(trained, tmp_path, capsys):
    weights = ["--weights", str(trained)]
    assert "no file, folder or match for gone.png" in error_of(
        capsys, "predict", "gone.png", *weights
    )
    (tmp_path / "empty").mkdir()
    assert "no pictures" in error_of(capsys, "predict", "empty", *weights)
    (tmp_path / "notes.txt").write_text("text")
    assert "notes.txt: must be a picture or a video" in error_of(
        capsys, "predict", "notes.txt", *weights
    )
    (tmp_path / "bad.png").write_bytes(b"not a png")
    assert "bad.png cannot be read as a picture" in error_of(capsys, "predict", "bad.png", *weights)
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    assert "bad.mp4 cannot be read as a video" in error_of(capsys, "predict", "bad.mp4", *weights)
    assert "must be a checkpoint or a folder" in error_of(capsys, "predict", "--weights", "empty")
    words = ["predict", "bad.mp4", *weights, "--stride", "0"]
    assert "stride must be at least 1" in error_of(capsys, *words)
    assert "need a PATH" in error_of(capsys, "predict", *weights, "--only", "label")


def test_dehazing_trains_measures_and_restores(dehazing, trained, tmp_path, capsys):
    losses = [row["loss"] for row in read_records(dehazing) if row["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert cli.main(["eval", str(dehazing), "--out", "eval"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "haze_dense" in text and "ITU-R BT.601 in studio range" in text
    report = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert report["protocols"] == PROTOCOLS and "absent_rule" not in report
    last = read_records(dehazing)[-1]
    for key in PROTOCOLS:
        assert report["domains"]["haze_dense"][key] == pytest.approx(last[key])
    assert len(list((tmp_path / "eval" / "overlays").iterdir())) == 6
    shutil.copytree(dehazing, tmp_path / "runs" / "dehazing" / "mine")
    shutil.copytree(trained, tmp_path / "runs" / "segmentation" / "newer")
    (tmp_path / "runs" / "segmentation" / "newer" / "last.pt").touch()
    cv2.imwrite("photo.png", (torch.rand(21, 30, 3) * 255).byte().numpy())
    assert cli.main(["dehaze", "photo.png", "--out", "out"]) == 0
    assert "runs/dehazing/mine/last.pt" in capsys.readouterr().out
    assert cv2.imread("out/photo.png").shape == (21, 30, 3)
    wrong = error_of(capsys, "dehaze", "photo.png", "--weights", str(trained))
    assert "dehaze needs weights of dehazing" in wrong and "holds those of segmentation" in wrong


def test_weights_that_do_not_fit_are_named(trained, tmp_path, capsys):
    state = checkpoint.load(trained / "last.pt")
    state["model"].popitem()
    torch.save(state, tmp_path / "torn.pt")
    assert "torn.pt does not fit the model" in error_of(capsys, "eval", "torn.pt")


def test_unknown_names_come_with_the_nearest(trained, capsys):
    assert "did you mean 'train'" in error_of(capsys, "trian")
    assert "did you mean 'streets_quick'" in error_of(capsys, "train", "streets_quik")
    assert "did you mean 'momentum'" in error_of(capsys, "train", "streets_quick", "momentun=1")
    contrast = ["loss_args.contrst=1", "task=dehazing"]
    assert "did you mean 'contrast'" in error_of(capsys, "train", "streets_quick", *contrast)
    assert "did you mean 'ops'" in error_of(capsys, "benchmark", "op")
    assert "streets_fog" in error_of(capsys, "eval", str(trained), "--domains", "streets_fgo")
    assert "--data must read NAME=DIR" in error_of(capsys, "eval", str(trained), "--data", "x")


def test_debug_raises(capsys):
    with pytest.raises(KeyError, match="streets_quick"):
        cli.main(["--debug", "train", "streets_quik"])


def test_data_option_reaches_the_config(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "ibnvision.engine.train", lambda cfg, **flags: seen.update(cfg=cfg, **flags)
    )
    words = ["train", "seg_streets_tiny", "lr=0.2", "--data", "camvid=/x", "overwrite=true"]
    assert cli.main(words) == 0
    assert (seen["cfg"].data, seen["cfg"].lr) == ({"camvid": "/x"}, 0.2)
    assert (seen["resume"], seen["overwrite"]) == (False, True)


def test_list_and_info_name_what_there_is(capsys):
    assert cli.main(["list"]) == 0
    text = capsys.readouterr().out
    for name in (*config.names(), "streets_night", "camvid_dusk", "resnet50_ibn_a"):
        assert name in text
    assert cli.main(["list", "configs"]) == 0
    assert "resnet50_ibn_a" not in capsys.readouterr().out
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"torch: {torch.__version__}" in text and "ibn_norm" in text


def test_data_make_writes_a_set(tmp_path, capsys):
    words = ["data", "make", "--out", "set", "--preset", "tiny", "--limit", "2"]
    assert cli.main(words) == 0
    assert (tmp_path / "set" / "contact_sheet.png").is_file()
    assert len(list((tmp_path / "set" / "images").iterdir())) == 2
    assert "exists" in error_of(capsys, *words)


def test_data_check_reads_a_set_and_counts_problems(tmp_path, capsys):
    for folder, width in (("hazy", 8), ("clear", 8), ("hazy", 9)):
        (tmp_path / "own" / folder).mkdir(parents=True, exist_ok=True)
        name = tmp_path / "own" / folder / f"{'b' if width == 9 else 'a'}.png"
        cv2.imwrite(str(name), torch.zeros(8, width, 3).numpy())
    words = ["data", "check", "paired_folder=own"]
    assert cli.main(words) == 2
    text = capsys.readouterr().out
    assert "paired_folder test" in text and "b.png': looked for b" in text
    cv2.imwrite(str(tmp_path / "own" / "clear" / "b.png"), torch.zeros(8, 8, 3).numpy())
    assert cli.main(words) == 2
    text = capsys.readouterr().out
    assert "2 items, 1 problem\n" in text and "b.png' must have the size" in text
    for folder in ("hazy", "clear"):
        (tmp_path / "own" / "train" / folder).mkdir(parents=True)
        for name in ("1", "2", "3"):
            file = tmp_path / "own" / "train" / folder / f"{name}.png"
            cv2.imwrite(str(file), torch.zeros(8, 8, 3).numpy())
    cv2.imwrite(str(tmp_path / "own" / "hazy" / "b.png"), torch.zeros(8, 8, 3).numpy())
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "train      2 items, 0 problems" in text and "val        1 items" in text
    assert cli.main(["data", "check", "--size", "16", "16", "paired_folder=own"]) == 2
    assert "a crop of 16x16" in capsys.readouterr().out
    assert "data check must read NAME=DIR" in error_of(capsys, "data", "check", "own")
    assert "followed by NAME=DIR" in error_of(capsys, "data", "check")
    assert "unknown set 'ist'" in error_of(capsys, "data", "check", "ist=own")
    assert "--out DIR and no NAME=DIR" in error_of(capsys, "data", "make")
