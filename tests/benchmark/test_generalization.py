import json

import pytest

from ibnvision.benchmark import generalization, plans, record
from ibnvision.methods.whitening import InstanceWhitening

TINY = ("steps=2", "eval_every=1", "log_every=1")


@pytest.mark.slow
def test_tiny_end_to_end(tmp_path, capsys):
    out, kept = tmp_path / "bench", tmp_path / "kept.jsonl"
    argv = ["--preset", "tiny", "--out", str(out), "--record", str(kept), *TINY]
    assert generalization.main(argv) == 0
    results = json.loads((out / "results.json").read_text())
    assert [len(row["runs"]) for row in results["rows"]] == [1, 1, 1, 1]
    assert all(0 <= c["mean"] <= 100 for c in results["summary"]["IBN-b"].values() if c["mean"] > 0)
    assert (out / "segmenter.pt").stat().st_size > 10_000
    assert "data:image/png" in (out / "report.html").read_text()
    assert all(r["quick"] for r in record.read(kept)) and len(record.read(kept)) > 30
    assert generalization.main(argv) == 0
    again = json.loads((out / "results.json").read_text())
    assert again["summary"] == results["summary"] and again["protocol"] == results["protocol"]
    assert all(run["reused"] for row in again["rows"] for run in row["runs"])
    assert str(out / "report.html") in capsys.readouterr().out


def test_isw_is_timed_with_its_loss(tmp_path, monkeypatch):
    rows = [row for row in plans.FULL_ROWS if row.name == "ISW"]
    jobs = plans.plan("seg_streets_tiny", [0], TINY, tmp_path, rows=rows)
    steps, term = [], InstanceWhitening._term
    monkeypatch.setattr(
        InstanceWhitening, "_term", lambda self, *args: steps.append(self.step) or term(self, *args)
    )
    found = generalization.throughput(jobs, 1)
    assert {t["row"] for t in found} == {"ISW"}
    assert len(steps) >= 3 * len(found) and min(steps) >= 100  # three maps in every step


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--seeds", "0,x"], "--seeds must be integers"),
        (["--seeds", "1,1"], "--seeds must be different"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--data", "camvid"], "--data must read NAME=DIR, got 'camvid'"),
        (["--rows", "IBN-c"], "--rows must be of the preset BN, BN + jitter, IBN-a, IBN-b, got"),
        (["--add", "no.toml"], "--add: no row file no.toml"),
        (["--task", "parsing"], "invalid choice: 'parsing'"),
    ],
)
def test_bad_arguments_are_named(argv, words, capsys):
    with pytest.raises(SystemExit):
        generalization.main(argv)
    assert words in capsys.readouterr().err
