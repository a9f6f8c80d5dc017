"""Waiting for what other processes do."""

import time

from ibnvision.benchmark.children import lock_folder


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def free(folder):
    """Whether no process holds the folder."""
    try:
        lock_folder(folder).close()
    except FileExistsError:
        return False
    return True
