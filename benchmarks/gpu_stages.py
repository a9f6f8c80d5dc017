"""The stages of run_on_gpu.sh that are no benchmark: tests, sanitize, profile."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cuda_check
import gpu_tools
import torch

from ibnvision.benchmark import ceilings, measure, op_rows, record
from ibnvision.ops import kernel_report

HERE = Path(__file__).resolve().parent
FLOORS = ("ops", "layers", "models", "cuda_on_cpu")  # tests that import torch, timm, numpy, pytest
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TOOL_LIMIT_S, FOUND = 110, 86  # of a profiled case; compute-sanitizer's status for findings
CORE = ["gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum"]
MORE = ["launch__registers_per_thread", "sm__warps_active.avg.pct_of_peak_sustained_active"]
MORE += ["dram__throughput.avg.pct_of_peak_sustained_elapsed"]
MORE += [f"smsp__sass_thread_inst_executed_op_{op}_pred_on.sum" for op in ("fadd", "fmul", "ffma")]

Lines = list[record.Record]


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit, or None."""
    try:
        return cuda_check.find_tool(name, beside=shutil.which("nvcc") or "")
    except FileNotFoundError:
        return None


def finish(command: Sequence[str], limit_s: float, **settings: str) -> tuple[int, str, float]:
    """Status (124 past the limit), output and seconds of a command."""
    start, environment = time.monotonic(), {**os.environ, **settings}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit_s)
            status = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            output, status = process.communicate()[0], 124
    return status, output, time.monotonic() - start


def tests(args: argparse.Namespace) -> Iterator[record.Record]:
    """pytest -m gpu over the floors such a machine can import; on a CPU, their CPU cases."""
    root, limit_s = HERE.parent, args.limit_s - 30
    pytest = [sys.executable, "-P", "-m", "pytest", "-q"]
    yield {"metric": "build", "value": args.build_s, "unit": "s", "kernels": kernel_report()}
    selection = [*(str(root / "tests" / floor) for floor in FLOORS), "-m", "gpu"]
    if args.device == "cpu":
        status, output, _ = finish([*pytest, *selection, "--collect-only"], limit_s)
        print("\n".join(output.splitlines()[-3:]))
        yield {"metric": "collection", "value": status, "unit": "status", "failed": status != 0}
        selection = [str(root / "tests/ops"), "-k", "cpu and (plain-relu or not equals_reference)"]
        selection = selection if args.quick else [str(root / "tests/ops"), "-k", "cpu"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [*pytest, *selection, f"--junitxml={report}"]
        status, output, seconds = finish(command, limit_s, IBNVISION_NATIVE="1")
        print("\n".join(output.splitlines()[-40:]))
        counts, wrong = ({}, [])
        if report.is_file():
            counts, wrong = gpu_tools.junit(report.read_text(encoding="utf-8"))
    yield from ({"metric": "wrong", "failed": True, **test} for test in wrong)
    for outcome, count in counts.items():
        yield {"metric": "tests", "outcome": outcome, "value": count, "unit": "tests"}
    ended = {"metric": "tests", "outcome": "status of pytest", "value": status, "wall_s": seconds}
    yield ended | {"failed": status != 0 or not counts.get("passed")}


def sanitize(args: argparse.Namespace) -> Iterator[record.Record]:
    """The small cases under every tool; on a CPU, without one."""
    cases = [sys.executable, str(HERE / "gpu_cases.py"), "--device", args.device, "check"]
    limit_s = (args.limit_s - 30) / len(TOOLS)
    if args.device == "cpu":
        status, output, seconds = finish(cases, limit_s)
        line = {"metric": "errors", "tool": "none", "value": int(status != 0), "unit": "errors"}
        yield line | {"wall_s": seconds, "detail": output.strip()[-500:], "failed": status != 0}
        return
    tool = find_tool("compute-sanitizer")
    if tool is None:
        yield {"metric": "skipped", "reason": "no compute-sanitizer was found", "failed": True}
        return
    for name in TOOLS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log"
            command = [tool, "--tool", name, "--log-file", str(path), "--print-limit", "20"]
            command += ["--target-processes", "application-only"]
            command += ["--error-exitcode", str(FOUND), *cases]
            # every tensor an allocation of its own: else its end is inside a larger block
            settings = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
            status, output, seconds = finish(command, limit_s, **settings)
            log = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        found = gpu_tools.sanitizer(log)
        clean = status == 0 and found["errors"] == 0 and "cases equal" in output
        line = {"metric": "errors", "tool": name, "value": found["errors"], "unit": "errors"}
        line |= {"warnings": found["warnings"], "status": status, "wall_s": seconds}
        detail = found["detail"] or ("" if clean else gpu_tools.refusal(output))
        yield line | {"detail": detail, "failed": not clean}


def profile(args: argparse.Namespace) -> Iterator[record.Record]:
    """Every kernel of a forward and backward, by ncu; by torch's profiler where ncu cannot."""
    best, lines = ceilings.measure_ceilings(args.device, ["fp32"], 1, quick=args.quick)
    yield from lines
    torch.cuda.empty_cache()
    tool = find_tool("ncu") if args.device == "cuda" else None
    if args.device == "cuda" and tool is None:
        yield {"metric": "skipped", "tool": "ncu", "reason": "no ncu was found"}
    for case in profiled(args):
        shape = ",".join(map(str, case.shape))
        work = [sys.executable, str(HERE / "gpu_cases.py"), "--device", args.device, "once"]
        work += [case.op, "--shape", shape, "--dtype", case.dtype, "--format", case.format]
        where = {"op": case.op, "shape": list(case.shape), "dtype": case.dtype}
        where |= {"format": case.format, "metric": "kernel", "unit": "ms", "n": 1}
        rows: Lines = []
        if tool is not None:
            rows, reason = by_ncu(tool, work, case.op, best)
            if not rows:
                yield where | {"metric": "skipped", "tool": "ncu", "reason": reason}
                tool = None
        if not rows:
            status, output, _ = finish([*work, "--trace"], TOOL_LIMIT_S)
            told = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
            rows = [
                {"tool": "torch.profiler", "kernel": r["kernel"], "value": 1e3 * r["seconds"]}
                for r in told
            ]
            if status or not rows:
                skipped = {"metric": "skipped", "tool": "torch.profiler", "failed": True}
                yield where | skipped | {"reason": gpu_tools.refusal(output) or "no kernel seen"}
        yield from (where | row for row in rows)


def profiled(args: argparse.Namespace) -> list[op_rows.Case]:
    """One shape of every row, in both formats, on a GPU in fp32 and bf16."""
    found = []
    for name, op in op_rows.OPS.items():
        if not op.cuda_shapes or op.kernel:  # no kernel there, or that of another row
            continue
        shapes = op.cuda_shapes if args.device == "cuda" else op.cpu_shapes
        shape = op.quick_shapes[0] if args.quick else shapes[1]
        found += [
            op_rows.Case(name, shape, dtype, form, args.device)
            for dtype in op_rows.TIMED[args.device]
            for form in op.formats
        ]
    return found


def by_ncu(tool: str, work: Sequence[str], op: str, best: ceilings.Ceilings) -> tuple[Lines, str]:
    """A record a launch, or none and the reason. The floor is a copy of the bytes it moved."""
    output = ""
    for metrics in (CORE + MORE, CORE):  # a metric that this chip lacks ends the whole run
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log"
            # the card's clocks are left as they are: others use it too
            command = [tool, "--clock-control", "none", "--profile-from-start", "off"]
            command += ["--kernel-name", f"regex:{op}", "--metrics", ",".join(metrics)]
            command += ["--csv", "--page", "raw", "--log-file", str(path), *work]
            _, output, _ = finish(command, TOOL_LIMIT_S)
            log = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        launches = [launch for launch in gpu_tools.ncu(log) if set(CORE) <= set(launch)]
        if launches:
            return [ncu_record(launch, best) for launch in launches], ""
    return [], gpu_tools.refusal(log + "\n" + output)


def ncu_record(launch: record.Record, best: ceilings.Ceilings) -> record.Record:
    """ncu's names as ours, with bytes, operations and the share of the floor."""
    seconds, read, written = (launch.pop(name) for name in CORE)
    adds, products, fused = (launch.pop(name, 0.0) for name in MORE[3:])
    fields = best.fields(seconds, read + written, adds + products + 2 * fused, "fp32")
    return {"tool": "ncu", "value": 1e3 * seconds, **fields, **launch}


def table(lines: Lines) -> str:
    """The stage's numbers in a few columns."""
    rows = []
    for line in lines:
        name = line.get("tool") or line.get("outcome") or line.get("backend") or line["metric"]
        what = line.get("kernel") or line.get("test") or line.get("reason") or line.get("detail")
        value = line.get("value")
        number = f"{value:.4g} {line.get('unit', '')}" if value is not None else "-"
        share = f"{line['floor_fraction']:.2f}" if "floor_fraction" in line else ""
        where = f"{line.get('dtype', '')} {line.get('format', '')}"
        mark = "FAILED " * bool(line.get("failed"))
        rows.append([f"{mark}{line['metric']} {name}", str(what or "")[:70], where, number, share])
    return record.table(["what", "which", "of", "value", "floor / time"], rows)


def main(argv: Sequence[str]) -> int:
    """Run a stage and append its records; 0 when everything it checks is right."""
    stages = {"tests": tests, "sanitize": sanitize, "profile": profile}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--build-s", type=float, default=0.0, help="recorded by tests")
    parser.add_argument("--limit-s", type=float, default=540.0, help="what runs is ended before")
    args = parser.parse_args(argv)
    measure.keep_freed_memory()
    shared = record.environment(
        args.stage, argv, args.device, quick=args.quick, commit_id=args.commit
    ) | {"command": f"benchmarks/run_on_gpu.sh {args.stage}"}
    lines: Lines = []
    for line in stages[args.stage](args):
        record.append(args.out, [shared | line])  # at once: a limit may end the stage
        lines.append(line)
    print(f"\n{table(lines)}")
    return 1 if any(line.get("failed") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
