"""python benchmarks/checks.py [NAME...] [--out FILE]: how long do the project's own checks take?

Runs each of CHECKS in this checkout and appends its wall seconds, with machine, commit and date, to
FILE. Nothing else should run on the machine. A check that fails is not recorded, and ends the rest.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ibnvision.benchmark import record

ROOT = Path(__file__).resolve().parents[1]
CHECKS = {
    "make test": ["make", "test", f"PYTHON={sys.executable}"],
    "emulated kernels": [sys.executable, "-P", "-m", "pytest", "-q", "-n", "auto"]
    + ["--maxprocesses", "4", "tests/cuda_on_cpu"],
    ".ci/run": [".ci/run"],
}


def main(argv: Sequence[str], checks: Mapping[str, Sequence[str]] = CHECKS) -> int:
    """Append a record for each; the status of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(checks)}")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/checks.jsonl")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in checks:
            parser.error(f"NAME must be one of {', '.join(checks)}, got {name!r}")
    for name in args.names or checks:
        start = time.monotonic()
        # CI: the emulator's tests fail where they would skip elsewhere
        status = subprocess.run(checks[name], cwd=ROOT, env=os.environ | {"CI": "1"}).returncode
        seconds = time.monotonic() - start
        print(f"{name}: {seconds:.0f} s, status {status}")
        if status:
            return status
        shared = record.environment("checks", [], "cpu", quick=False)
        shared |= {"command": "python benchmarks/checks.py", "threads": os.cpu_count()}
        record.append(args.out, [shared | {"metric": name, "value": seconds, "unit": "s"}])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
