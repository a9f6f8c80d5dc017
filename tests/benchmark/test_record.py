import json

import pytest

from ibnvision.benchmark import record


def test_records_append_and_read_back(tmp_path):
    path = tmp_path / "new" / "ops.jsonl"
    record.append(path, [{"bench": "ops", "run": "b", "value": 1.5}])
    record.append(path, [{"bench": "ops", "run": "a", "value": 2}])
    assert [r["value"] for r in record.read(path)] == [1.5, 2]
    assert [r["run"] for r in record.read_folder(path.parent)] == ["a", "b"]


def test_a_number_that_is_not_finite_is_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "ops.jsonl"
    with pytest.raises(ValueError):
        record.append(path, [{"bench": "ops", "run": "a", "value": float("nan")}])
    assert not path.exists()


@pytest.mark.parametrize("line", ["{broken", '{"bench": "ops"}', "3"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text('{"bench": "ops", "run": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match="x.jsonl:2 is not a benchmark record"):
        record.read(path)


def test_environment_names_where_and_how():
    found = record.environment("ops", ["--op", "ibn norm"], "cpu", quick=True)
    assert found["command"] == "ibnvision benchmark ops --op 'ibn norm'"
    assert found["quick"] is True and found["device"] and found["torch"]
    json.dumps(found, allow_nan=False)


def test_a_timed_run_names_its_heap_and_the_given_commit():
    made = record.parser("ops", None, "1")
    argv = ["--commit", "0123abc", "--heap", "default"]
    found = record.start("ops", argv, record.parse(made, argv))
    assert (found["commit"], found["heap"]) == ("0123abc", "default")
    assert record.parse(made, []).heap == "kept"


def test_the_folder_of_results_may_hold_files_of_other_tools(tmp_path):
    (tmp_path / "ptxas.jsonl").write_text('{"kernel": "a"}\n')
    record.append(tmp_path / "models.jsonl", [{"bench": "models", "run": "a"}])
    assert record.read_folder(tmp_path) == [{"bench": "models", "run": "a"}]


def test_table_aligns_and_keeps_every_cell():
    lines = record.table(["row", "a"], [["BN", "1.5"], ["IBN-b", "20"]]).splitlines()
    assert lines == ["| row   |   a |", "| ----- | --: |", "| BN    | 1.5 |", "| IBN-b |  20 |"]


def test_numbers_are_read_without_exponents():
    found = [record.number(v) for v in (0.51649, 9.996, 1013.8, -1013.8, None, float("nan"))]
    assert found == ["0.516", "10", "1014", "-1014", "-", "-"]


def test_replace_file_leaves_no_temporary(tmp_path):
    record.replace_file(tmp_path / "a.txt", "one")
    record.replace_file(tmp_path / "a.txt", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "two"


def test_commands_name_no_folder_of_the_machine():
    argv = ["--data", "camvid=/a/b/frames", "--out", "/c/d", "--seeds", "0,1", "lr=0.1"]
    shared = record.environment("ops", argv, "cpu", quick=True)
    words = "--data camvid=frames --out d --seeds 0,1 lr=0.1"
    assert shared["command"] == f"ibnvision benchmark ops {words}"
