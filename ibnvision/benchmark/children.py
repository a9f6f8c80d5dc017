"""Child processes that end with their parent, however that ends, and the folder that they hold."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from . import guard


def lock_folder(folder: Path) -> IO[str]:
    """The open file <folder>/.lock, which no other process gets before this one and its children
    have closed it or ended.

    Raises: FileExistsError where another process, or a child that it left, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read()
        file.close()
        raise FileExistsError(
            f"{folder} is in use by the benchmark of process {holder}, or by its trainings that "
            "still save: wait for it, end it, or pass another --out"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


class Children:
    """Starts processes, each the first of a group of its own, that do not outlive this one.

    Where the context is left, or this process killed, `guard` asks those that still run to save and
    go (SIGTERM) and kills them after GRACE_S. A KeyboardInterrupt while leaving kills them at once.

    Args:
        lock: a file of `lock_folder`, which the children hold too.
    """

    def __init__(self, lock: IO[str]) -> None:
        self.lock = lock
        self.running: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._guard.stdin is not None
        if self._guard.poll() is not None:  # someone ended the guard
            for process in self.running:
                process.terminate()
        self._guard.stdin.close()
        try:
            for process in self.running:
                process.wait()
        except KeyboardInterrupt:
            for process in self.running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            raise
        finally:
            self._guard.wait()

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen:
        """A process of one thread, what it says going to the file `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **one},
                process_group=0,  # a Ctrl-C is for the parent, which then ends it
                pass_fds=[self.lock.fileno()],
            )
        self.running.append(process)
        self._tell(f"+{process.pid}")
        return process

    def ended(self) -> list[tuple[subprocess.Popen, float]]:
        """Those that have ended since the last call, with the CPU seconds that each took."""
        found = []
        for process in list(self.running):
            before = _children_cpu_s()  # grows as a child is found ended
            if process.poll() is not None:
                self.running.remove(process)
                self._tell(f"-{process.pid}")
                found.append((process, _children_cpu_s() - before))
        return found

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(f"{line}\n".encode())


def _children_cpu_s() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system
