"""`ibnvision analyze` from runs to table, file and picture."""

import io
import json
import math
from pathlib import Path

import cv2
import pytest
from hazy_toy import add_domains
from rich.console import Console

from ibnvision import cli, data
from ibnvision.engine import checkpoint
from ibnvision.engine.analyze_report import analyze_runs, report_table, save_report

LAYERS = ["act1", *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of the tiny config, with and without instance norm."""
    out = tmp_path_factory.mktemp("analyze")
    for ibn in ("none", "a"):
        words = [f"name={ibn}", f"model_args.backbone_args.ibn={ibn}", "steps=1", "eval_every=0"]
        words += [f"out={out}", "threads=1", "device=cpu"]
        assert cli.main(["train", "seg_streets_tiny", *words]) == 0
    return out / "segmentation"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def error_of(capsys, *words):
    assert cli.main(["analyze", *map(str, words)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


@pytest.mark.slow
def test_two_runs_from_the_command_line(runs, tmp_path, capsys):
    assert cli.main(["analyze", str(runs / "none"), str(runs / "a" / "last.pt")]) == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "runs" / "analyze" / "divergence.json").read_text())
    assert (report["source"], report["targets"]) == ("streets_day", ["streets_night"])
    assert report["images"] == {"streets_day": 16, "streets_night": 16}
    day = data.build_domain("streets_day", "test", preset="tiny")
    assert report["fingerprints"]["streets_day"] == day.fingerprint()
    assert list(report["runs"]) == ["none", "a"]
    rows = report["runs"]["a"]["layers"]
    assert [name.removeprefix("network.backbone.") for name in rows] == LAYERS
    row = rows["network.backbone.act1"]
    assert row["channels"] == row["divergence"]["streets_night"]["channels"] == 8
    moved, null = row["divergence"]["streets_night"]["mean"], row["null"]["streets_day"]["mean"]
    assert moved > 5 * null and f"{null:#.3g}" in text
    assert "│ layer4.1 │" in text and "streets_night against streets_day test, 16 images" in text
    picture = cv2.imread(str(tmp_path / "runs" / "analyze" / "divergence.png"))
    assert picture.std() > 10
    assert cli.main(["analyze", str(runs / "a"), "--layers", "layer1.*", "--images", "8"]) == 0
    second = json.loads((tmp_path / "runs" / "analyze2" / "divergence.json").read_text())
    assert len(second["runs"]["a"]["layers"]) > 2 and second["images"]["streets_day"] == 8
    assert "a: features against streets_day test, 8 images" in capsys.readouterr().out


def test_domains_split_and_folder_are_options(runs, capsys):
    words = ["--domains", "streets_fog", "streets_rain", "--split", "val", "--out", "here/there"]
    assert cli.main(["analyze", str(runs / "a"), *words]) == 0
    with open("here/there/divergence.json") as file:
        report = json.load(file)
    assert (report["source"], report["split"]) == ("streets_fog", "val")
    assert list(report["runs"]["a"]["layers"]["network.backbone.act1"]["divergence"]) == [
        "streets_rain"
    ]


def test_wrong_words_are_named(runs, capsys):
    run = runs / "a"
    assert "did you mean 'streets_fog'" in error_of(
        capsys, run, "--domains", "streets_day", "streets_fgo"
    )
    assert "at least one target" in error_of(capsys, run, "--domains", "streets_day")
    assert "domains must differ" in error_of(capsys, run, "--domains", "haze", "haze")
    assert "nearest is" in error_of(capsys, run, "--layers", "leyer1")
    assert "images must be at least 2, got 0" in error_of(capsys, run, "--images", "0")
    assert "--data must read NAME=DIR" in error_of(capsys, run, "--data", "x")
    camvid = ["--domains", "streets_day", "camvid_day", "--data", "camvid=no_such"]
    assert "no_such" in error_of(capsys, run, *camvid)
    assert "camvid=DIR" in error_of(capsys, run, "--domains", "streets_day", "camvid_day")
    assert "RUN must name files that differ" in error_of(capsys, run, run)
    assert "must be a checkpoint or a folder" in error_of(capsys, "gone")
    Path("file").write_text("kept")
    assert "--out must be a folder, file is a file" in error_of(capsys, run, "--out", "file")


def test_runs_that_saw_other_images_are_not_compared(runs, tmp_path, capsys):
    state = checkpoint.load(runs / "a" / "last.pt")
    state["config"] |= {"preset": "quick", "name": "larger"}
    checkpoint.save(tmp_path / "larger.pt", state)
    assert "must see the same images" in error_of(capsys, runs / "none", "larger.pt", "--images", 4)


def test_the_first_run_decides_the_domains(runs, tmp_path):
    state = checkpoint.load(runs / "a" / "last.pt")
    state["config"] |= {"test_domains": ["streets_fog", "streets_rain"], "name": "other"}
    checkpoint.save(tmp_path / "other.pt", state)
    report = analyze_runs([runs / "none" / "last.pt", "other.pt"], layers=["act1"])
    assert report["targets"] == ["streets_night"] and list(report["runs"]) == ["none", "other"]
    report = analyze_runs(["other.pt", runs / "none" / "last.pt"], layers=["act1"], images=2)
    assert report["targets"] == ["streets_fog", "streets_rain"]


def test_runs_of_one_name_go_by_their_files(runs):
    paths = [runs / "a" / "last.pt", runs / "a" / "best.pt"]
    report = analyze_runs(paths, layers=["act1"])
    assert list(report["runs"]) == list(map(str, paths))


def test_a_dehazing_run_in_sizes_of_its_pictures(tmp_path, monkeypatch):
    """Pictures one by one, padded to a size that runs, 24 x 28 and 24 x 23."""
    for name in ("haze", "haze_ragged"):
        monkeypatch.delitem(data.DOMAINS, name, raising=False)
    add_domains(monkeypatch, "haze", "haze_ragged")
    kind = type(data.build_domain("haze", "test"))
    monkeypatch.setattr(kind, "fingerprint", lambda self: self.domain, raising=False)
    words = ["steps=1", "eval_every=0", "size=[16,16]", "threads=1", "device=cpu"]
    words += ['test_domains=["haze","haze_ragged"]', "name=mine"]
    assert cli.main(["train", "dehaze_streets_tiny", *words]) == 0
    assert cli.main(["analyze", "runs/dehazing/mine", "--out", "out"]) == 0
    with open("out/divergence.json") as file:
        report = json.load(file)
    rows = report["runs"]["mine"]["layers"]
    assert list(rows)[2] == "level3_block1" and len(rows) == 5
    row = rows["level3_block1"]
    assert row["null"] == {"haze": None, "haze_ragged": None}  # of 6 pictures
    assert row["divergence"]["haze_ragged"]["mean"] > 0


def made(value: float | None, null: float | None = 0.25) -> dict:
    """A report of one run and two layers of made numbers."""
    facts = {"mean": value, "channels": 9, "constant_in_both": 2, "constant_in_one": 1}
    row = {"channels": 9, "null": {"x": null and {"mean": null}}, "divergence": {"y_z": facts}}
    layers = {"net.b.one": row, "net.b.two": row}
    run = {"weights": "w", "model": "m", "layers": layers, "left_out": {"net.c": "it did not run"}}
    head = {"source": "x", "targets": ["y_z"], "split": "test", "images": {"x": 3, "y_z": 3}}
    return {**head, "runs": {"mine": run}}


def shown(report: dict) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report_table(report))
    return console.export_text()


def test_table_says_what_it_leaves_out():
    text = shown(made(12345.6))
    assert "│ one   │ 12,346 │ 0.250 │" in text
    assert "mine: of 18 channels by target, 4 are constant in both domains and 2 in one" in text
    assert "mine: left out net.c, it did not run" in text
    assert "│ two   │  - │    - │" in shown(made(None, None))
    report = made(1.0)
    report["runs"]["mine"]["left_out"] = dict.fromkeys("abcde", "it did not run")
    assert "left out a, it did not run; b, it did not run; c, it did not run; and 2 more" in shown(
        report
    )


def test_runs_with_other_layers_have_gaps(tmp_path):
    report = made(2.0)
    row = made(3.0)["runs"]["mine"]["layers"]["net.b.one"]
    report["runs"]["other"] = report["runs"]["mine"] | {"layers": {"net.b.three": row}}
    text = shown(report)
    assert "│ one   │ 2.00 (0.250) │        - (-) │" in text
    assert "│ three │        - (-) │ 3.00 (0.250) │" in text
    assert [path.name for path in save_report(report, tmp_path / "a" / "b")] == [
        "divergence.json",
        "divergence.png",
    ]


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    """A number that JSON has no word for stops before a file is there."""
    with pytest.raises(ValueError, match="JSON"):
        save_report(made(math.inf), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
