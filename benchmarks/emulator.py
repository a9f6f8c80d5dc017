"""python benchmarks/emulator.py [--out FILE]: how many fibers a second does the emulator resume?

Runs tests/cuda_on_cpu/fiber_rate.py and appends its JSON line, with machine, commit and date.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ibnvision.benchmark import record

SCRIPT = Path(__file__).resolve().parents[1] / "tests/cuda_on_cpu/fiber_rate.py"


def main(argv: Sequence[str], script: Path = SCRIPT) -> int:
    """Append one record; the status of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/emulator.jsonl"))
    args = parser.parse_args(argv)
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(f"{script.name} ended with status {done.returncode}, {len(lines)} JSON lines")
        return done.returncode or 1
    shared = record.environment("emulator", [], "cpu", quick=False)
    shared["command"] = "python benchmarks/emulator.py"
    record.append(args.out, [shared | json.loads(line) for line in lines])
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
