"""The commands that configs say of themselves, running them in miniature and in two processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

from ibnvision import cli, config


def commands(name):
    """The lines of a config that say how to run it."""
    text = (config.folder() / f"{name}.toml").read_text()
    return re.findall(rf"^# ibnvision (train {name} .*?)(?:    .*)?$", text, re.MULTILINE)


def run_command(words, folders, out, *changes):
    """Two steps of a command with its DIRs filled in; the run folder.

    folders: KEY of KEY=DIR -> folder. changes: further overrides, the last ones count.
    """
    filled = [re.sub(r"^([\w:]+)=DIR\d?$", lambda m: f"{m[1]}={folders[m[1]]}", w) for w in words]
    assert cli.main([*filled, "steps=2", "eval_every=0", f"out={out}", *changes]) == 0
    (folder,) = (path for task in Path(out).iterdir() for path in task.glob("*/last.pt"))
    return folder.parent


def torchrun(*words):
    """`ibnvision` with these words in two processes."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, "-m", "ibnvision", *words],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
