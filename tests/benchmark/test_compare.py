import subprocess
from argparse import Namespace

import pytest

from ibnvision.benchmark import changes, compare, record

from .test_changes import HERE, run_of, time_of

SHARED = {"bench": "ops", "quick": False} | {k: v for k, v in HERE.items() if k != "threads"}


def dated(records, commit="0123abc"):
    return [r | {"date": "2030-01-02T03:04:05+00:00", "commit": commit} for r in records]


def file_of(tmp_path, name, records):
    record.append(tmp_path / name, dated(records))
    return str(tmp_path / name)


def asked(source, threads=1):
    return Namespace(compare_with=source, threads=threads)


def test_a_run_is_compared_with_a_file_and_a_regression_is_the_status(tmp_path, capsys):
    then = compare.earlier(asked(file_of(tmp_path, "a.jsonl", run_of(2.0))), SHARED)
    assert compare.finish(then, run_of(2.0)) == 0
    assert "regression 0, gain 0, within the noise 1" in capsys.readouterr().out
    assert compare.finish(then, run_of(2.6)) == 1
    told = capsys.readouterr().out
    assert "0123abc of 2030-01-02" in told and "| **regression** |" in told
    assert "up to 1, so a smaller change" in told


def test_without_the_option_nothing_is_compared():
    assert compare.finish(compare.earlier(asked(None), SHARED), run_of(2.0)) == 0


def test_only_the_operators_of_this_run_can_be_missed(tmp_path, capsys):
    other = run_of(2.0, op="conv3x3")
    then = compare.earlier(asked(file_of(tmp_path, "a.jsonl", run_of(2.0) + other)), SHARED)
    assert compare.finish(then, run_of(2.0)) == 0
    assert "Only in" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "shared, threads, reason",
    [
        ({"device": "another"}, 1, "not comparable: device was 'a processor', is 'another'"),
        ({"torch": "3"}, 1, "torch was '2', is '3'"),
        ({}, 2, "threads was 1, is 2"),
        ({"quick": True}, 1, "quick was False, is True"),
    ],
)
def test_another_machine_is_refused_before_anything_is_measured(tmp_path, shared, threads, reason):
    source = file_of(tmp_path, "a.jsonl", run_of(2.0))
    with pytest.raises(ValueError, match=reason):
        compare.earlier(asked(source, threads), SHARED | shared)


def test_the_refusal_is_about_the_newest_run(tmp_path):
    runs = [r for torch in ("1", "2") for r in run_of(2.0, run=torch, torch=torch)]
    with pytest.raises(ValueError, match="torch was '2', is '3'"):
        compare.earlier(asked(file_of(tmp_path, "a.jsonl", runs)), SHARED | {"torch": "3"})


def test_no_case_in_common_is_refused_by_an_example(tmp_path):
    source = file_of(tmp_path, "a.jsonl", run_of(2.0, dtype="bf16"))
    then = compare.earlier(asked(source), SHARED)
    with pytest.raises(ValueError, match="no case in common.*bf16 nchw: kernel was, .*fp32"):
        compare.finish(then, run_of(2.0))


def test_a_revision_gives_the_file_as_it_was(tmp_path, monkeypatch, capsys):
    def git(*words):
        names = ["-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
        subprocess.run(["git", *names, *words], check=True, capture_output=True)

    git("init")
    place = tmp_path / "benchmarks" / "results" / "ops.jsonl"
    for kernel, run in ((2.0, "a"), (2.6, "b")):
        record.append(place, dated(run_of(kernel, run=run)))
        git("add", ".")
        git("commit", "-m", run)
    monkeypatch.setattr(record, "_ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert compare.main(["HEAD~1", "--bench", "ops"]) == 1
    assert compare.main(["HEAD", "HEAD~1", "--bench", "ops"]) == 0
    assert "| **gain** |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds benchmarks/results/models.jsonl, got 'HEAD'"):
        compare.main(["HEAD", "--bench", "models"])
    with pytest.raises(ValueError, match="or, in a git checkout, a revision.*got 'nowhere'"):
        compare.main(["nowhere", "--bench", "ops"])


def test_a_file_of_another_question_is_refused(tmp_path):
    source = file_of(tmp_path, "a.jsonl", run_of(2.0))
    with pytest.raises(ValueError, match="must hold records of models"):
        compare.read(source, "models")


def test_worst_comes_first_and_every_list_is_told():
    then = run_of(2.0) + run_of(2.0, format="channels_last") + [time_of("kernel", 1, op="gone")]
    now = run_of(2.0) + run_of(3.0, format="channels_last") + [time_of("kernel", 1, op="new")]
    told = compare.text(changes.compare(then, now), dated(then))
    rows = [line for line in told.splitlines() if line.startswith("| ibn_norm")]
    assert "channels_last" in rows[0] and rows[0].endswith("|   **regression** |")
    assert "Only in the earlier run:\n- gone eval" in told
    assert "Only in the later run:\n- new eval" in told
