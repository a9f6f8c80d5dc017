"""The run folder of one training: config.toml, env.json, metrics.jsonl, log.txt, checkpoints."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType

from ibnvision import config, data
from ibnvision.config import Config
from ibnvision.ops import kernel_report

from . import checkpoint, sets

HARMLESS = ("out", "name", "workers", "log_every", "scenes")
_WIDTH = 140  # characters of a table where no terminal says otherwise
_PACKAGES = (  # whose versions a number may depend on
    *("ibnvision", "torch", "torchvision", "timm", "accelerate", "torchmetrics"),
    *("faster-coco-eval", "numpy"),
)
_OURS = {"config.toml", "env.json", "metrics.jsonl", "log.txt"}


def path_of(cfg: Config) -> Path:
    """Where the run of `cfg` lives."""
    return Path(cfg.out) / cfg.task / cfg.name


def claim(cfg: Config, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Decide what may happen to the folder of `cfg`; returns the checkpoint to go on from, if any.

    Raises: FileExistsError for a folder in use, FileNotFoundError where there is nothing to resume,
    ValueError where the config differs from the one that the checkpoint was trained with, or the
    files of a training set that has moved.
    """
    folder = path_of(cfg)
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    if resume:
        if not (folder / "last.pt").is_file():
            raise FileNotFoundError(f"nothing to resume: no {folder / 'last.pt'}")
        state = checkpoint.load(folder / "last.pt")
        _refuse_changes(state["config"], cfg, folder)
        return state
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise FileExistsError(f"{folder} must be a folder, a file is there")
    present = {item.name for item in folder.iterdir()}
    if not present - _OURS and (not present or "config.toml" in present):
        return None  # a run that failed before its first checkpoint
    if not overwrite:
        raise FileExistsError(
            f"{folder} exists: pass resume=true to go on, overwrite=true to replace it, "
            "or name=... for another folder"
        )
    if "config.toml" not in present:
        raise FileExistsError(f"{folder} is no run folder (no config.toml): it is not overwritten")
    return None


def _refuse_changes(old: Mapping[str, Any], cfg: Config, folder: Path) -> None:
    old = {**config.to_dict(Config()), **old}  # a key newer than the run had its default
    new = config.to_dict(cfg)
    changed = [
        f"{key} ({old.get(key)!r} -> {new.get(key)!r})"
        for key in sorted({*old, *new})
        if key not in (*HARMLESS, "data") and old.get(key) != new.get(key)
    ]
    if changed:
        raise ValueError(
            f"resume needs the config that {folder} was started with; changed: {', '.join(changed)}"
        )
    for domain in cfg.train_domains:
        before, now = (data.root_of(domain, roots) for roots in (old["data"], cfg.data))
        if before != now:
            _refuse_other_files(cfg, domain, f"{domain} ({before} -> {now})", folder)


def _refuse_other_files(cfg: Config, domain: str, moved: str, folder: Path) -> None:
    """A training set may move, by the hash of its files in env.json; it may not change."""
    path = folder / "env.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    then = stored.get("training", {}).get(domain)
    if then is None:
        raise ValueError(
            f"resume needs the data that {folder} was started with: {moved} has moved, and {path} "
            "holds no hash of its files to compare"
        )
    dataset: Any = sets.build(cfg, domain, "train")
    now = dataset.facts()
    differing = [
        f"{key} ({then[key]} -> {now.get(key)})"
        for key in ("split", "label_map", "images", "files_sha256", "annotations_sha256")
        if key in then and then[key] != now.get(key)
    ]
    if differing:
        raise ValueError(
            f"resume needs the training files that {folder} was started with: {moved} has other "
            f"ones; changed: {', '.join(differing)}"
        )


class RunFolder:
    """Writes the records of one run; in a process beside the main one it does nothing."""

    def __init__(self, cfg: Config, *, main: bool, resumed_step: int | None) -> None:
        self.path = path_of(cfg)
        self.main = main
        terminal = sys.stdout.isatty()
        self.console = Console(quiet=not main, width=None if terminal else _WIDTH, highlight=False)
        if not main:
            return
        if resumed_step is None:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(self.path / "config.toml", config.dump(cfg).encode())
        kept = [row for row in self.records() if row["step"] <= (resumed_step or 0)]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        checkpoint.write_atomic(self.path / "metrics.jsonl", text.encode())

    def print(self, content: RenderableType) -> None:
        """Show text or a table, and append it to log.txt."""
        self.console.print(content, markup=False, soft_wrap=isinstance(content, str))
        if self.main:
            with open(self.path / "log.txt", "a", encoding="utf-8") as file:
                Console(file=file, width=_WIDTH, highlight=False).print(
                    content, markup=False, soft_wrap=isinstance(content, str)
                )

    def record(self, row: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; a number that is not finite becomes null."""
        if self.main:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(checkpoint.finite(row), allow_nan=False) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last line cut short by a crash is left out."""
        return read_records(self.path)

    def write_env(self, facts: Mapping[str, Any]) -> None:
        if self.main:
            checkpoint.write_json(self.path / "env.json", facts)


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, `kind` "train" or "eval"; without a line cut short."""
    path = Path(folder) / "metrics.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """What a number depends on beside its config: versions, device, commit, kernel or fallback."""
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "device": _device_name(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "cores": usable_cores(),
        "commit": _commit(),
        "ops": kernel_report(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "selection": "best.pt has the best score on the val split of the source domains; "
        "results are those of last.pt; test domains decide nothing",
    }


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut by the quota of its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def _version(name: str) -> str | None:
    if name in sys.modules:
        return str(getattr(sys.modules[name], "__version__", None))
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        text = Path("/proc/cpuinfo").read_text()
        model = next(row for row in text.splitlines() if row.startswith("model name"))
        return f"CPU {model.split(':', 1)[1].strip()}"
    except (OSError, StopIteration):
        return f"CPU {platform.processor() or platform.machine()}"


def _commit() -> str | None:
    """The commit of the checkout that this file runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
