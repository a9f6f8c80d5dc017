"""Whether two runs are one: every number, weight and state that they left; and stopping a run."""

import os
import signal

import torch

from ibnvision import engine
from ibnvision.engine import checkpoint


def rows_of(folder, kind):
    rows = [row for row in engine.read_records(folder) if row["kind"] == kind]
    return [{k: v for k, v in row.items() if k != "images_per_s"} for row in rows]


def losses_of(folder):
    return [row["loss"] for row in rows_of(folder, "train")]


def assert_same_run(one, two):
    first, second = checkpoint.load(one / "last.pt"), checkpoint.load(two / "last.pt")
    for part in ("model", "optimizer", "ema"):
        a, b = (torch.utils._pytree.tree_flatten(state[part]) for state in (first, second))
        assert str(a[1]) == str(b[1]) and len(a[0]) > 0
        assert all(
            torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
            for x, y in zip(a[0], b[0], strict=True)
        ), part
    assert torch.equal(first["rng"]["torch"], second["rng"]["torch"])
    assert [first[k] for k in ("step", "best", "sampler")] == [
        second[k] for k in ("step", "best", "sampler")
    ]
    for kind in ("train", "eval"):
        assert rows_of(one, kind) == rows_of(two, kind)


def interrupt_at(patch, task, call, target="compute_loss", number=signal.SIGINT):
    """Send a signal to this process inside the given call of a function of the task."""
    original, calls = getattr(task, target), []

    def interrupting(*args):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*args)

    patch.setattr(task, target, interrupting)
