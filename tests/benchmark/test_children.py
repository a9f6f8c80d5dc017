"""What becomes of child processes when their parent ends, and of the folder that they hold."""

import multiprocessing
import signal
import sys
import time

import pytest
from waiting import free, until

from ibnvision.benchmark.children import Children, lock_folder

FORK = multiprocessing.get_context("fork")  # torch is imported already
CHILD = """
import os, pathlib, signal, sys, time
home = pathlib.Path(sys.argv[1])
def save(*_):
    (home / f"{os.getpid()}.saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[2:] else save)
(home / f"{os.getpid()}.started").touch()
time.sleep(60)
"""


def command(home, *words):
    return [sys.executable, "-I", "-S", "-c", CHILD, str(home), *words]


def pids(home, ending):
    return {int(path.stem) for path in home.glob(f"*.{ending}")}


def running(pid):
    """Whether it lives; one that has ended and is not reaped does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent(home, count, *words):
    """What runs in a process of its own: children, and waiting for them."""
    lock = lock_folder(home)
    with Children(lock) as crew:
        for number in range(count):
            crew.start(command(home, *words), home / f"{number}.txt")
        while crew.running:
            crew.ended()
            time.sleep(0.01)


@pytest.fixture
def forked(tmp_path):
    process = FORK.Process(target=parent, args=(tmp_path, 2))
    process.start()
    until(lambda: len(pids(tmp_path, "started")) == 2)
    yield process
    process.kill()
    process.join()


def test_a_parent_killed_outright_takes_its_children_along_and_they_save(forked, tmp_path):
    children = pids(tmp_path, "started")
    with pytest.raises(FileExistsError, match=f"{tmp_path} is in use .* process {forked.pid},"):
        lock_folder(tmp_path)
    forked.kill()
    until(lambda: not any(map(running, children)))
    assert pids(tmp_path, "saved") == children
    until(lambda: free(tmp_path))


def test_children_hold_the_folder_until_they_have_ended(tmp_path):
    lock = lock_folder(tmp_path)
    with Children(lock) as crew:
        child = crew.start(command(tmp_path), tmp_path / "log.txt")
        until(lambda: pids(tmp_path, "started"))
        lock.close()
        assert not free(tmp_path)
        child.kill()
        until(lambda: free(tmp_path))


def test_leaving_ends_them(tmp_path):
    with Children(lock_folder(tmp_path)) as crew:
        child = crew.start(command(tmp_path), tmp_path / "log.txt")
        until(lambda: pids(tmp_path, "started"))
    assert child.returncode == 130 and pids(tmp_path, "saved") == {child.pid}


def test_leaving_ends_them_where_someone_ended_the_guard(tmp_path):
    with Children(lock_folder(tmp_path)) as crew:
        crew._guard.kill()
        crew._guard.wait()
        child = crew.start(command(tmp_path), tmp_path / "log.txt")
        until(lambda: pids(tmp_path, "started"))
    assert child.returncode == 130


def test_an_interrupt_while_they_end_kills_them(tmp_path):
    with pytest.raises(KeyboardInterrupt), Children(lock_folder(tmp_path)) as crew:
        deaf = crew.start(command(tmp_path, "deaf"), tmp_path / "log.txt")
        until(lambda: pids(tmp_path, "started"))
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert deaf.returncode == -signal.SIGKILL


def test_the_guard_kills_what_does_not_go(tmp_path, monkeypatch):
    guard = tmp_path / "guard.py"
    source = sys.modules["ibnvision.benchmark.guard"].__file__
    with open(source, encoding="utf-8") as file:
        guard.write_text(file.read().replace("GRACE_S = 60.0", "GRACE_S = 0.3"))
    monkeypatch.setattr("ibnvision.benchmark.guard.__file__", str(guard))
    with Children(lock_folder(tmp_path)) as crew:
        deaf = crew.start(command(tmp_path, "deaf"), tmp_path / "log.txt")
        until(lambda: pids(tmp_path, "started"))
    assert deaf.returncode == -signal.SIGKILL


def test_a_child_that_ended_is_given_back_with_its_time(tmp_path):
    work = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    with Children(lock_folder(tmp_path)) as crew:
        child = crew.start([sys.executable, "-I", "-S", "-c", work], tmp_path / "log.txt")
        found = []
        until(lambda: found.extend(crew.ended()) or found)
        assert [process for process, _ in found] == [child]
        assert 0.15 <= found[0][1] < 1  # the system may count in ticks of 10 ms
        assert crew.running == [] and crew.ended() == []
