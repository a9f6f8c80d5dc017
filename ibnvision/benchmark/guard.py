"""Ends the trainings of a benchmark that was killed: a process of its own, told over its input.

    +123    process 123, the first of its group, is to end with the benchmark
    -123    it has ended

The end of the input is the end of the benchmark. It runs by its path, without site packages, and
imports nothing of the package, so that it is there at once.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 60.0  # for a training to reach the end of its step and save


def guard(lines: Iterable[str]) -> None:
    """Read until the end, then end what is left: SIGTERM, and SIGKILL after GRACE_S."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it goes when the benchmark has gone
    left: set[int] = set()
    for line in lines:
        (left.add if line[0] == "+" else left.discard)(int(line[1:]))
    left = {pid for pid in left if _reaches(pid, signal.SIGTERM)}
    end = time.monotonic() + GRACE_S
    while left and time.monotonic() < end:
        time.sleep(0.05)
        left = {pid for pid in left if _reaches(pid, 0)}
    for pid in left:
        _reaches(-pid, signal.SIGKILL)  # the group: with the data workers


def _reaches(pid: int, number: int) -> bool:
    """Send a signal; whether there is such a process (or group, below 0)."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)
        return True
    return False


if __name__ == "__main__":
    guard(sys.stdin)
