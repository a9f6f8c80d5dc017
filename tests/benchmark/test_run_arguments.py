import pytest

from ibnvision import config
from ibnvision.benchmark import plans, run_arguments

ROWS = [plans.Row("BN", ("lr=0.1",)), plans.Row("IBN-b", ("lr=0.2",))]
PRESETS = {"tiny": ROWS, "quick": ROWS[:1], "full": ROWS}
SEEDS = {"tiny": (0,), "quick": (0, 1), "full": (0, 1, 2)}


def parsed(*argv, shorter=("steps=5",)):
    made = run_arguments.parser("detection", "", PRESETS)
    return run_arguments.parse(made, argv, SEEDS, PRESETS, shorter)


def refused(capsys, *argv):
    with pytest.raises(SystemExit):
        parsed(*argv)
    return capsys.readouterr().err


def test_presets_choose_seeds_rows_and_steps():
    quick = parsed("--preset", "quick")
    assert (quick.seeds, quick.rows, quick.overrides) == ([0, 1], ROWS[:1], ["steps=5"])
    full = parsed("--preset", "full", "--rows", "IBN-b", "--seeds", "4")
    assert (full.seeds, full.rows, full.overrides) == ([4], ROWS[1:], [])


def test_only_the_unchanged_longer_presets_are_conclusive():
    assert parsed("--preset", "full", "--data", "camvid=a b").conclusive
    assert not parsed("--preset", "full", "steps=3").conclusive
    assert not parsed("--preset", "quick").conclusive and not parsed("--preset", "tiny").conclusive
    assert parsed("--preset", "quick", shorter=()).conclusive


def test_a_config_that_is_no_presets_is_a_setting_of_its_own():
    made = run_arguments.parser("detection", "", {"full": "streets_detect"})

    def setting(*argv):
        return run_arguments.parse(made, argv, SEEDS, PRESETS).setting

    assert setting() == setting("--config", "streets_detect") == ""
    assert setting("--config", "det_own") == setting("--config", "a/det_own.toml") == "det_own"


def test_data_folders_become_overrides():
    args = parsed("--preset", "full", "--data", "camvid=/a b/c", "--data", "coco_json:away=x")
    cfg = config.load("streets_quick", args.overrides)
    assert cfg.data == {"camvid": "/a b/c", "coco_json:away": "x"}


def test_a_method_of_ones_own_is_one_file(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "Mine + jitter"\naugment = "jitter"\n[model_args]\nmixstyle = [1, 2]\n'
        '[model_args.backbone_args]\nibn = "a"\n'
    )
    *_, row = parsed("--preset", "full", "--add", str(path)).rows
    cfg = config.load("streets_quick", row.overrides)
    assert row.key == "mine_jitter" and cfg.augment == "jitter"
    assert cfg.model_args["mixstyle"] == [1, 2] and cfg.model_args["output_stride"] == 8
    assert cfg.model_args["backbone_args"]["ibn"] == "a"
    path.write_text('name = "bn"')
    assert "rows that no other row is called like" in refused(capsys, "--add", str(path))
    path.write_text("augment = 'jitter'")
    assert "must hold the row's name" in refused(capsys, "--add", str(path))
    path.write_text("name = ")
    assert "is not valid TOML" in refused(capsys, "--add", str(path))
