import json

import pytest

from ibnvision.benchmark import all_tasks, dehazing, detection, generalization, record, resolution

MODULES = (generalization, detection, dehazing, resolution)


@pytest.fixture
def called(monkeypatch):
    """Question -> arguments, of studies that leave two records each and a dehazer."""
    found = {}

    def stand_in(bench, status, reused):
        def main(argv):
            found[bench] = list(argv)
            if "--dry-run" in argv:
                return status
            folder = all_tasks.Path(argv[argv.index("--out") + 1])
            head = {"bench": bench, "run": "1", "quick": True, "model": "BN", "n": 1}
            head |= {"metric": "miou", "protocol": "abc", "values": {"0": 50.0}, "value": 50.0}
            head |= {"probe": "scene", "scale": 1} if bench == "resolution" else {}
            cells = [("source", "source"), ("streets_fog", "target"), ("target mean", "derived")]
            found_here = [head | {"column": c, "role": r} for c, r in cells]
            folder.mkdir(parents=True)
            record.append(folder / "records.jsonl", found_here)
            rows = [{"runs": [{"reused": reused}]}]
            (folder / "results.json").write_text(json.dumps({"rows": rows}))
            (folder / "table.md").write_text(f"the words of {bench}")
            if bench == "dehazing":
                (folder / "pictures").mkdir()
                (folder / "pictures" / "panels_haze.png").write_bytes(b"a picture")
                (folder / "dehazer.pt").write_text("weights")
            return status

        return main

    def use(failing="", reused=False):
        for module in MODULES:
            bench = module.__name__.rpartition(".")[2]
            monkeypatch.setattr(module, "main", stand_in(bench, int(bench == failing), reused))
        return found

    return use


def test_every_study_runs_with_its_arguments_and_one_table_is_left(called, tmp_path, capsys):
    found, out, kept = called(), tmp_path / "all", tmp_path / "kept.jsonl"
    argv = ["--preset", "quick", "--out", str(out), "--record", str(kept), "--workers", "1"]
    assert all_tasks.main([*argv, "--data", "camvid=DIR"]) == 0
    assert list(found) == ["generalization", "dehazing", "detection", "resolution"]
    shared = ["--preset", "quick", "--seeds", "0,1", "--workers", "1", "--data", "camvid=DIR"]
    for bench, words in found.items():
        assert [w for w in words if w in shared] == shared, bench
    assert found["generalization"][-2:] == ["--minutes", "0"]
    assert found["detection"][-2:] == ["--restorer", str(out / "dehazing" / "dehazer.pt")]
    assert "| BN " in (out / "table.md").read_text()
    page = (out / "report.html").read_text()
    assert "the words of dehazing" in page and page.count("data:image/png") == 1
    assert 'id="tasks"' in page and "nothing is to be concluded" in page
    told = {(r["metric"], r.get("model")) for r in record.read(kept)}
    assert told == {("all tasks", None), *(("study", task) for task in all_tasks.STUDIES)}
    assert len(record.read(out / "records.jsonl")) == 4 * 3 + 5
    assert "| segmentation |" in all_tasks.tables(record.read(kept))


def test_a_failure_is_the_exit_status_and_reused_work_is_not_timed(called, tmp_path):
    called(failing="dehazing", reused=True)
    kept = tmp_path / "kept.jsonl"
    assert all_tasks.main(["--out", str(tmp_path / "all"), "--record", str(kept)]) == 1
    assert not record.read(kept)


def test_a_dry_run_leaves_nothing(called, tmp_path):
    found, out = called(), tmp_path / "all"
    assert all_tasks.main(["--dry-run", "--out", str(out)]) == 0
    assert all("--dry-run" in words for words in found.values()) and not out.exists()


def test_the_verb_hands_a_task_to_its_study(monkeypatch):
    found = {}
    for module in (dehazing, all_tasks):
        monkeypatch.setattr(module, "main", lambda argv, m=module: found.update({m: argv}) or 3)
    assert generalization.main(["--task", "dehazing", "--preset", "tiny"]) == 3
    assert generalization.main(["--preset", "full", "--task", "all"]) == 3
    assert found == {dehazing: ["--preset", "tiny"], all_tasks: ["--preset", "full"]}
