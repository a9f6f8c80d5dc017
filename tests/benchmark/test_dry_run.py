import pytest

from ibnvision import config
from ibnvision.benchmark import dry_run, generalization, plans


def test_it_names_sets_rows_and_time_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "bench"
    argv = ["--preset", "tiny", "--dry-run", "--out", str(out), "--rows", "BN", "IBN-b"]
    assert generalization.main([*argv, "--seeds", "0,1"]) == 0
    text = capsys.readouterr().out
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if "|" in line
    }
    assert lines["streets_night"] == ["target", "test", "16", "drawn"]
    assert "4 trainings, " in text and "BN + jitter" not in lines
    assert lines["IBN-b"][:2] == ["2", "8"] and lines["IBN-b"][3] == "160"
    assert not out.exists()


def test_all_sets_that_cannot_be_read_are_named_and_the_others_counted(tmp_path, capsys):
    words = ["train_domains=[camvid_day]", "test_domains=[camvid_dusk,streets_day]"]
    words.append(f"data.camvid={tmp_path / 'nowhere'}")
    base = config.load("seg_streets_tiny", words)
    assert dry_run.show(base, plans.tests_of(base), 2, lambda: pytest.fail("planned")) == 1
    text = capsys.readouterr().out
    assert text.count("cannot be read: camvid_day") == 3 and "camvid_dusk, test: " in text
    assert "| streets_day |" in text and " 16 " in text


def planned():
    """A plan that ends here."""
    raise RecursionError


def test_a_target_without_a_folder_is_left_out_aloud(capsys):
    base = config.load("seg_streets_tiny", ["test_domains=[streets_day,bdd100k]"])
    tests = plans.tests_of(base)
    assert "bdd100k" not in tests and "camvid_day" not in tests and "streets_sketch" in tests
    with pytest.raises(RecursionError):
        dry_run.show(base, tests, 1, planned)
    assert "bdd100k is left out: no --data bdd100k=DIR" in capsys.readouterr().out


def test_cost_counts_every_evaluation(tmp_path):
    job = plans.plan("seg_streets_tiny", [0], ("steps=5", "eval_every=2"), tmp_path)[0]
    found = dry_run.cost(job)
    assert found.images == 3 * 16 * 5  # steps 2, 4, 5; val and four test splits
    assert found.run_s == pytest.approx(5 * found.step_s + 240 * found.image_s)
    assert found.step_s > 0 and found.image_s > 0
