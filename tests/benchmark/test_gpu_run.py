"""The stages of a GPU machine: limits, and what becomes of tools that fail or are absent."""

import argparse
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ibnvision.benchmark import record, targets

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks/gpu_run.py").is_file(), reason="no benchmarks folder beside the tests"
)
ARGS = argparse.Namespace(device="cuda", quick=True, build_s=1.0, limit_s=130.0)


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_run

    return gpu_run


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_stages

    return gpu_stages


@pytest.fixture
def tool(tmp_path):
    """tool(body) -> an executable that runs `body` with its arguments in `words`."""

    def make(body):
        path = tmp_path / "tool"
        head = f"#!{sys.executable}\nimport sys\nwords = sys.argv[1:]\n"
        log = "log = open(words[words.index('--log-file') + 1], 'w').write\n"
        path.write_text(head + log + body)
        path.chmod(0o755)
        return str(path)

    return make


def test_a_command_past_its_limit_is_ended_with_its_children(run, capsys):
    code = "import subprocess, sys; print('begun'); "
    code += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    start, log = time.monotonic(), io.StringIO()
    assert run.run([sys.executable, "-c", code], {}, 1.5, log) == run.TIMED_OUT
    assert time.monotonic() - start < 20 and log.getvalue() == "begun\n"


def test_a_status_is_handed_on_and_settings_arrive(run, capsys):
    code = "import os, sys; sys.exit(int(os.environ['WANTED']))"
    assert run.run([sys.executable, "-c", code], {"WANTED": "3"}, 30, io.StringIO()) == 3


def test_digest_sees_an_edit_but_no_build_output(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "torch_facts", lambda: ["2.11", "90", "a GPU"])
    for name in run.SOURCES:
        path = tmp_path / name if "." in name else tmp_path / name / "a.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    before = run.digest(tmp_path)
    (tmp_path / "ibnvision/_C.so").write_text("2")
    assert run.digest(tmp_path) == before
    (tmp_path / "csrc/a.py").write_text("2")
    assert run.digest(tmp_path) != before


@pytest.mark.parametrize("argv", [["opps", "--out", "x", "--commit", "c"], ["--commit", "c"]])
def test_bad_arguments_end_before_anything_is_built(run, argv, capsys, monkeypatch):
    monkeypatch.setattr(run, "build", lambda *_: pytest.fail("built"))
    with pytest.raises(SystemExit):
        run.main([*argv, "--device", "cpu"])
    assert re.search("STAGE must be one of build|--out", capsys.readouterr().err)


def test_sanitize_wants_a_clean_log_and_right_numbers(stages, tool, monkeypatch, capsys):
    clean = "log('========= ERROR SUMMARY: 0 errors' if 'racecheck' not in words else "
    clean += "'========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)')\n"
    good = clean + "print('14 cases equal the definition')\n"
    monkeypatch.setattr(stages, "find_tool", lambda _: tool(good))
    lines = list(stages.sanitize(ARGS))
    assert [line["tool"] for line in lines] == list(stages.TOOLS)
    assert all(line["value"] == 0 and not line["failed"] for line in lines)
    for body in (
        clean,
        clean + "print('14 cases equal'); sys.exit(1)\n",
        "print('14 cases equal')",
    ):
        monkeypatch.setattr(stages, "find_tool", lambda _, body=body: tool(body))
        assert all(line["failed"] for line in stages.sanitize(ARGS))
    monkeypatch.setattr(stages, "find_tool", lambda _: None)
    (line,) = stages.sanitize(ARGS)
    assert line["failed"] and "no compute-sanitizer" in line["reason"]


def test_ncu_rows_carry_bytes_operations_and_floor(stages, tool):
    """1.2 GB in 1 ms where a copy moves 2 TB/s: 60 % of the floor's rate."""
    metrics = [*stages.CORE, *stages.MORE]
    header = ["ID", "Kernel Name", "Block Size", "Grid Size", "CC", *metrics]
    units = ["", "", "", "", "", "ms", "Gbyte", "Gbyte", "", "", "", "", "", ""]
    values = ["0", "ibn_norm_kernel", "(1, 1, 1)", "(2, 1, 1)", "9.0", "1", "0.8", "0.4", "40"]
    rows = [header, units, [*values, "50", "60", "1,000", "0", "2,000"]]
    text = "\\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)
    best = stages.ceilings.Ceilings(2e12, {"fp32": 1e13})
    found, reason = stages.by_ncu(tool(f"log('''{text}''')\n"), [], "ibn_norm", best)
    assert reason == "" and len(found) == 1
    record = found[0]
    assert (record["kernel"], record["value"], record["bytes"]) == ("ibn_norm_kernel", 1.0, 1.2e9)
    assert record["flops"] == 5000 and record["floor_fraction"] == pytest.approx(0.6)
    assert record["launch__registers_per_thread"] == 40


def test_ncu_without_a_metric_of_ours_is_asked_for_fewer(stages, tool):
    body = "if any('registers' in word for word in words):\n    sys.exit('no such metric')\n"
    cells = '"ID","Kernel Name","Block Size","Grid Size","CC","gpu__time_duration.sum",'
    cells += '"dram__bytes_read.sum","dram__bytes_write.sum"\\n"","","","","","ns","byte","byte"\\n'
    body += f'log(\'{cells}\' + \'"0","k","1","1","9.0","5","6","7"\')\n'
    best = stages.ceilings.Ceilings(1e12, {"fp32": 1e13})
    found, _ = stages.by_ncu(tool(body), [], "ibn_norm", best)
    assert [row["bytes"] for row in found] == [13.0]
    body = "log('==ERROR== ERR_NVGPUCTRPERM')\nsys.exit(1)\n"
    assert stages.by_ncu(tool(body), [], "ibn_norm", best) == ([], "==ERROR== ERR_NVGPUCTRPERM")


def test_a_stage_writes_what_it_has_and_fails_by_its_lines(stages, tmp_path, monkeypatch, capsys):
    def stage(args):
        yield {"metric": "errors", "value": 0, "unit": "errors", "failed": args.commit == "bad"}
        assert len(out.read_text().splitlines()) == 1
        yield {"metric": "errors", "value": 1, "unit": "errors"}

    monkeypatch.setattr(stages, "sanitize", stage)
    for commit, status in (("good", 0), ("bad", 1)):
        out = tmp_path / f"{commit}.jsonl"
        argv = ["sanitize", "--device", "cpu", "--out", str(out), "--commit", commit]
        assert stages.main(argv) == status
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["commit"] for line in lines] == [commit, commit]
    assert "FAILED errors" in capsys.readouterr().out


def test_gpu_tests_stand_where_few_packages_are_needed(stages):
    marked = [p for p in (ROOT / "tests").rglob("*.py") if "mark.gpu" in p.read_text()]
    rooms = {path.relative_to(ROOT / "tests").parts[0] for path in marked}
    assert rooms - {"benchmark"} <= {*stages.FLOORS, "conftest.py"} and "ops" in rooms


@pytest.mark.slow
def test_gpu_tests_are_collected_without_the_packages_such_a_machine_lacks(stages):
    absent = "cv2 segmentation_models_pytorch faster_coco_eval accelerate rich torchmetrics"
    code = f"""
import sys, pytest
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent.split()}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.exit(pytest.main(["-q", "--collect-only", "-m", "gpu", *sys.argv[1:]]))
"""
    folders = [str(ROOT / "tests" / floor) for floor in stages.FLOORS]
    command = [sys.executable, "-P", "-c", code, *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "test_graph_replay_computes_on_new_values" in done.stdout


def test_checks_are_timed_and_failures_are_not_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import checks

    assert set(checks.CHECKS) == set(targets.CHECKS)
    out = tmp_path / "checks.jsonl"
    known = {"well": ["true"], "badly": ["false"]}
    assert checks.main(["--out", str(out)], known) == 1
    (found,) = record.read(out)
    assert found["metric"] == "well" and 0 <= found["value"] < 60 and found["bench"] == "checks"
    assert "badly: 0 s, status 1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        checks.main(["other"], known)
    assert "NAME must be one of well, badly, got 'other'" in capsys.readouterr().err


def test_the_emulators_line_is_recorded_with_machine_and_commit(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import emulator

    script = tmp_path / "rate.py"
    script.write_text('print(\'built\'); print(\'{"metric": "resumes", "value": 5.0}\')')
    out = tmp_path / "emulator.jsonl"
    assert emulator.main(["--out", str(out)], script) == 0
    found = json.loads(out.read_text())
    assert found["value"] == 5.0 and found["bench"] == "emulator" and found["device"]
    script.write_text("raise SystemExit(2)")
    assert emulator.main(["--out", str(out)], script) == 2
    assert len(out.read_text().splitlines()) == 1
