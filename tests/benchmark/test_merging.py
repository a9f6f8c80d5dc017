import pytest

from ibnvision.benchmark import manifest, merging, record, report

COMMON = {"bench": "detection", "quick": True, "metric": "ap50", "unit": "%", "not_converged": ""}


def study(path, rows, protocol="a" * 64, run="1", bench="detection"):
    """A file of records: row -> AP50 at home and in fog by seed."""
    found = []
    for name, by_seed in rows.items():
        for place, (column, role) in enumerate(
            [("source", "source"), ("fog", "target"), ("target mean", "derived")]
        ):
            values = {str(seed): pair[min(place, 1)] for seed, pair in enumerate(by_seed)}
            cell = {"value": sum(values.values()) / len(values), "values": values, "n": len(values)}
            head = {"model": name, "column": column, "role": role, "run": run}
            found.append(COMMON | {"bench": bench, "protocol": protocol} | head | cell)
    record.append(path, found)
    return path


def test_rows_of_one_protocol_stand_in_one_table_and_are_paired_by_seed(tmp_path):
    theirs = study(tmp_path / "theirs.jsonl", {"BN": [(70, 20), (72, 22), (74, 24)]})
    mine = {"BN": [(71, 21), (71, 21), (71, 21)], "my norm": [(60, 30.5), (60, 32), (60, 34.5)]}
    text = merging.merged([theirs, study(tmp_path / "mine.jsonl", mine)])
    assert "| BN " in text and "| BN (mine) " in text and "3 seeds, protocol aaaa" in text
    line = next(line for line in text.splitlines() if line.startswith("| my norm"))
    assert "60.0" in line and "fog 32.3" in line
    assert "above BN on the target mean: my norm (+10.3 (" in text


def test_the_newest_run_of_a_file_counts(tmp_path):
    path = study(tmp_path / "a.jsonl", {"BN": [(70, 20)]}, run="2")
    study(path, {"old": [(1, 2)]}, run="1")
    assert "old" not in merging.merged([path])


def test_two_protocols_are_refused_with_what_differs(tmp_path):
    plain = {"training": {"steps": 240}, "sets": {"fog": {"role": "target"}}, "seeds": [0]}
    longer = {"training": {"steps": 500}, "sets": {"fog": {"role": "target"}}, "seeds": [0, 1]}
    paths = []
    for name, made in (("a", plain), ("b", longer)):
        path = tmp_path / name / "records.jsonl"
        paths.append(study(path, {"BN": [(70, 20)]}, protocol=manifest.digest(made)))
        manifest.write(made, path.with_name(manifest.FILE))
    with pytest.raises(ValueError, match="cannot be merged.*differ in training.steps: 240, 500$"):
        merging.merged(paths)
    (tmp_path / "b" / manifest.FILE).unlink()
    kept = manifest.keep(longer, "detection", paths[1])
    assert kept.is_file()
    with pytest.raises(ValueError, match="training.steps"):
        merging.merged(paths)
    kept.unlink()
    with pytest.raises(ValueError, match=f"made by {manifest.digest(plain)[:16]}, in .* by "):
        merging.merged(paths)


def test_files_without_a_study_are_an_error(tmp_path):
    path = study(tmp_path / "a.jsonl", {"BN": [(1, 2)]}, bench="ops")
    with pytest.raises(ValueError, match="must hold records of generalization, detection"):
        merging.merged([path])


def test_the_report_prints_the_merged_table(tmp_path, capsys):
    path = study(tmp_path / "a.jsonl", {"BN": [(70, 20)]})
    assert report.main(["--merge", str(path)]) == 0
    assert "fog 20.0" in capsys.readouterr().out and list(tmp_path.iterdir()) == [path]
