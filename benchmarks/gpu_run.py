"""Build for the present device, then run stages, each with a time limit.

Files in DIR, appended to: tests, sanitize, ops, attention, models (of the stages models and table),
scaling, restoration, segmentation, detector and profile .jsonl, and log.txt. A machine may hold one
stage only, so each can be run alone; a build of the same sources is used again.
"""

import argparse
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"build+test": "tests"} | {
    name: name
    for name in (
        "sanitize",
        "ops",
        "attention",
        "models",
        "restoration",
        "segmentation",
        "detector",
        "scaling",
        "profile",
    )
}  # stage -> file
STAGES["table"] = "models"  # last: it takes longest, and the others judge the bars
BENCHES = ("attention", "models", "restoration", "segmentation", "detector", "scaling")
SOURCES = ("csrc", "ibnvision", "configs", "setup.py", "CMakeLists.txt", "pyproject.toml")
LIMIT_S, BUILD_LIMIT_S, TIMED_OUT = 540, 180, 124
COMPILE_MINUTES = 5  # torch.compile of what starts later would cost the kernels their numbers


def digest(root: Path) -> str:
    """Hash of all that a build is made of: sources, interpreter and torch."""
    found = hashlib.sha256(f"{sys.version} {platform.platform()} {torch_facts()}".encode())
    for name in SOURCES:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path.suffix not in (".so", ".pyc") and path.name != "_build.txt":
                found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()


def torch_facts() -> list[str]:
    """Version of torch, and compute capability and name of its device; asked in a process apart."""
    code = "import torch; print(torch.__version__); c = torch.cuda; print(*(('%d%d' % "
    code += (
        "c.get_device_capability(), c.get_device_name()) if c.is_available() else ()), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:3]


def build(device: str, log: TextIO) -> Path:
    """Install into a folder of our own, for this device alone; returns that folder.

    Raises: SystemExit where the build fails.
    """
    base = ROOT / "build" / f"run_on_gpu_{device}"
    site, stamp = base / "site", base / "digest"
    wanted = digest(ROOT)
    if stamp.is_file() and stamp.read_text() == wanted:
        return site
    stamp.unlink(missing_ok=True)
    shutil.rmtree(base / "objects", ignore_errors=True)  # it would add modules that are gone
    base.mkdir(parents=True, exist_ok=True)
    places = base / "setup.cfg"  # nothing of this build is left in the checkout
    places.write_text(f"[build]\nbuild_base = {base / 'objects'}\n")
    settings = {"IBNVISION_NATIVE": "1", "IBNVISION_CUDA": "0", "DIST_EXTRA_CONFIG": str(places)}
    if device == "cuda":
        settings |= {"IBNVISION_CUDA": "1", "IBNVISION_CUDA_ARCHS": torch_facts()[1]}
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--disable-pip-version-check", "--upgrade", "--target", str(site)]
    status = run([*command, str(ROOT)], settings, BUILD_LIMIT_S, log)
    if status:
        raise SystemExit(f"the build failed with status {status}")
    stamp.write_text(wanted)
    return site


def run(command: Sequence[str], settings: Mapping[str, str], limit_s: float, log: TextIO) -> int:
    """Run a command, its output shown and logged; its status, or 124 where the limit ended it."""
    print("$", " ".join(command), flush=True)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    ended = threading.Event()

    def end() -> None:
        ended.set()
        os.killpg(process.pid, signal.SIGKILL)  # its children too: a profiled or tested process

    timer = threading.Timer(max(limit_s, 1), end)
    timer.start()
    try:
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            log.write(line)
        status = process.wait()
    finally:
        timer.cancel()
    return TIMED_OUT if ended.is_set() else status


def command_of(stage: str, args: argparse.Namespace, build_s: float) -> list[str]:
    """The process that runs a stage and appends to its file."""
    common = ["--device", args.device, "--out", str(args.out / f"{STAGES[stage]}.jsonl")]
    common += ["--commit", args.commit] + ["--quick"] * args.quick
    if stage in BENCHES:
        return [sys.executable, "-P", "-m", "ibnvision", "benchmark", stage, *common]
    if stage == "table":
        what = ["models", "--what", "table", "--compile-minutes", str(COMPILE_MINUTES)]
        return [sys.executable, "-P", "-m", "ibnvision", "benchmark", *what, *common]
    if stage == "ops":
        limits = ["--compile-minutes", str(COMPILE_MINUTES)]
        return [sys.executable, "-P", "-m", "ibnvision", "benchmark", "ops", *common, *limits]
    script = [sys.executable, str(ROOT / "benchmarks/gpu_stages.py"), STAGES[stage], *common]
    return [*script, "--build-s", f"{build_s:.1f}", "--limit-s", f"{LIMIT_S - build_s:.0f}"]


def main(argv: Sequence[str]) -> int:
    """Run the stages; 0 when all of them ended well."""
    parser = argparse.ArgumentParser(prog="benchmarks/run_on_gpu.sh", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--commit", required=True, help="commit of these sources, for the records")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small cases; nothing is judged by it")
    args = parser.parse_args(argv)
    unknown = set(args.stages) - set(STAGES)
    if unknown:
        parser.error(f"STAGE must be one of {', '.join(STAGES)}, got {', '.join(sorted(unknown))}")
    if args.device == "cuda" and not torch_facts()[1]:
        parser.error("--device cuda: torch sees no CUDA device; --device cpu runs without one")
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    summary, site = [], None
    with open(args.out / "log.txt", "a", encoding="utf-8") as log:
        for stage in args.stages or STAGES:
            start = time.monotonic()
            print(f"\n== {stage}", flush=True)
            site = site or build(args.device, log)
            build_s = time.monotonic() - start
            settings = {"PYTHONPATH": str(site)}
            status = run(command_of(stage, args, build_s), settings, LIMIT_S - build_s, log)
            word = "passed" if status == 0 else f"failed ({status})"
            word = f"ended at {LIMIT_S} s" if status == TIMED_OUT else word
            path = args.out / f"{STAGES[stage]}.jsonl"
            lines = len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
            summary.append((stage, word, build_s, time.monotonic() - start, lines, path.name))
        print(f"\n{'stage':12} {'result':16} {'build s':>8} {'all s':>8} {'lines':>6}  file")
        for stage, word, build_s, seconds, lines, name in summary:
            print(f"{stage:12} {word:16} {build_s:8.1f} {seconds:8.1f} {lines:6}  {name}")
    return 0 if all(word == "passed" for _, word, *_ in summary) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
