"""The commands that configs say of themselves, and running them in miniature."""

import re
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
