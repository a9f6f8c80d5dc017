"""python tests/cuda_on_cpu/fiber_rate.py: how many fibers does the emulator resume in a second?

Prints one JSON line for each build (without and with the race detector), kind of fiber and kind of
barrier. Scheduling and the checks of barriers and masks are part of the time.
"""

import ctypes
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kernel_build import Builder  # noqa: E402

THREADS, ROUNDS, REPEATS = 256, 4000, 7


def _seconds(library: ctypes.CDLL, in_warps: bool, rounds: int) -> list[float]:
    found = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        library.meet(rounds, ctypes.c_bool(in_warps))
        found.append(time.perf_counter() - start)
    return found[1:]  # the first warms up


def measure(builder: Builder) -> Iterator[dict[str, object]]:
    for checks in ("bare", "races"):
        for define in ("", "EMULATOR_UCONTEXT"):
            path = builder.library(
                "emulator_rate.cpp", defines=(define,) if define else (), checks=checks
            )
            library = ctypes.CDLL(str(path))
            slow = bool(define or builder.fiber_define)
            rounds = ROUNDS // 10 if slow else ROUNDS
            for in_warps in (True, False):
                seconds = _seconds(library, in_warps, rounds)
                resumes = THREADS * (rounds + 1)
                rates = [resumes / s / 1e6 for s in seconds]
                yield {
                    "metric": "fiber resumes",
                    "fibers": "ucontext" if slow else "boost",
                    "checks": checks,
                    "barrier": "warp" if in_warps else "block",
                    "value": round(statistics.median(rates), 2),
                    "unit": "million/s",
                    "spread": round(max(rates) - min(rates), 2),
                    "cpu": _processor(),
                    "compiler": builder.version.split("\n")[0],
                }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n") if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Builder(Path(folder), Path(folder))):
            print(json.dumps(row), flush=True)
