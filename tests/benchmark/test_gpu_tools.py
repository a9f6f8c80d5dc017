"""What the tools of a GPU machine write is read right, failures above all."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks/gpu_tools.py"
pytestmark = pytest.mark.skipif(not PATH.is_file(), reason="no benchmarks folder beside the tests")


@pytest.fixture(scope="module")
def tools():
    spec = importlib.util.spec_from_file_location("gpu_tools", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
OUT_OF_BOUNDS = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at ibn_norm_forward_planes_kernel+0x140
=========     by thread (31,0,0) in block (2,0,0)
=========
========= ERROR SUMMARY: 33 errors
"""
RACES = """========= COMPUTE-SANITIZER
========= Error: Race reported between Read access at kernel+0xa0
=========     and Write access at kernel+0x140 [5 hazards]
=========
========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)
"""
DIED = """========= COMPUTE-SANITIZER
========= Error: Target application terminated before first instrumented API call
"""


@pytest.mark.parametrize(
    ("text", "errors", "warnings", "word"),
    [
        (CLEAN, 0, 0, ""),
        (OUT_OF_BOUNDS, 33, 0, "Invalid __global__ read of size 4 bytes | at ibn_norm"),
        (RACES, 1, 1, "Race reported between"),
        (DIED, None, 0, "terminated before first"),
        ("", None, 0, ""),
        (CLEAN + OUT_OF_BOUNDS, 33, 0, "Invalid"),  # two processes in one log
    ],
)
def test_sanitizer_log(tools, text, errors, warnings, word):
    found = tools.sanitizer(text)
    assert (found["errors"], found["warnings"]) == (errors, warnings)
    assert word in found["detail"] and (word or not found["detail"])


FIXED = "ID,Process ID,Process Name,Host Name,Kernel Name,Context,Stream,Block Size,Grid Size"
FIXED += ",Device,CC"
METRICS = ["dram__bytes_read.sum", "gpu__time_duration.sum", "launch__registers"]
ROWS = [
    [*FIXED.split(","), *METRICS],
    [""] * 11 + ["Mbyte", "us", "register/thread"],
    ["0", "7", "python", "h", "a_kernel", "1", "7", "(256, 1, 1)", "(5, 20, 1)", "0", "9.0"]
    + ["1,024.5", "12.5", "40"],
    ["1", "7", "python", "h", "b_kernel", "1", "7", "(32, 1, 1)", "(1, 1, 1)", "0", "9.0"]
    + ["n/a", "3", "255"],
]
LINES = [",".join(f'"{cell}"' for cell in row) for row in ROWS]
TABLE = "\n".join(
    ["14 lines of the program", "==PROF== Connected", *LINES, "==PROF== Disconnected"]
)


def test_ncu_table_in_seconds_and_bytes(tools):
    first, second = tools.ncu(TABLE)
    assert (first["kernel"], first["grid"], first["block"]) == (
        "a_kernel",
        "(5, 20, 1)",
        "(256, 1, 1)",
    )
    assert first["dram__bytes_read.sum"] == pytest.approx(1024.5e6)
    assert first["gpu__time_duration.sum"] == pytest.approx(12.5e-6)
    assert first["launch__registers"] == 40
    assert "dram__bytes_read.sum" not in second and second["launch__registers"] == 255


def test_ncu_that_was_refused_has_no_rows_but_a_reason(tools):
    text = "==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - The user does not have permission\n"
    assert tools.ncu(text) == []
    assert "ERR_NVGPUCTRPERM" in tools.refusal(text)
    assert tools.refusal("one\ntwo\n") == "one | two"


def test_junit_counts_and_names_what_went_wrong(tools):
    text = """<testsuites><testsuite>
    <testcase classname="t" name="a"/>
    <testcase classname="t" name="b"><failure message="assert 1&#10; == 2">long</failure></testcase>
    <testcase classname="t" name="c"><skipped message="none"/></testcase>
    <testcase classname="t" name="d"><error message="no fixture">long</error></testcase>
    </testsuite></testsuites>"""
    counts, wrong = tools.junit(text)
    assert counts == {"passed": 1, "failed": 1, "errors": 1, "skipped": 1}
    assert wrong == [
        {"test": "t::b", "message": "assert 1 == 2"},
        {"test": "t::d", "message": "no fixture"},
    ]
