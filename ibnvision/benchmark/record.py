"""Measurements as JSON lines: where they were taken, appending, reading, and tables of them."""

import argparse
import datetime
import json
import math
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ibnvision import __version__

from . import BENCHES, TOOLS, measure

Record = dict[str, Any]

_ROOT = Path(__file__).resolve().parents[2]


def cpu_name() -> str:
    """The processor's model name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return f"{value.strip()} ({os.cpu_count()} cores)"
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def cache_bytes(device: str) -> int:
    """Size of the last-level cache: L2 of a GPU, the largest cache of the CPU; 0 where unknown."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:])
        sizes.append(int(text[:-1]) * unit if unit else int(text))
    return max(sizes)


def git(*args: str) -> str:
    """What git says of the checkout that holds this package; "" outside one, or where it fails."""
    if not (_ROOT / ".git").exists():
        return ""
    done = subprocess.run(["git", "-C", str(_ROOT), *args], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """Commit of the checkout that holds this package, `+` where files differ; "" outside one."""
    head = git("rev-parse", "--short=12", "HEAD")
    measured = ("ibnvision", "csrc", "configs", "setup.py", "CMakeLists.txt")
    paths = [path for path in measured if (_ROOT / path).exists()]
    return head + "+" if head and git("status", "--porcelain", "--", *paths) else head


def _without_folders(word: str) -> str:
    """An absolute path keeps its last name: records are read on other machines."""
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if value.startswith("/") else word


def driver() -> str:
    """Version of the NVIDIA driver; "" where it cannot be asked."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""


def environment(
    bench: str, argv: Sequence[str], device: str, *, quick: bool, commit_id: str | None = None
) -> Record:
    """What all records of one run share. `run` tells the runs apart.

    Args:
        bench: the verb after `ibnvision benchmark`.
        argv: its arguments, for the command.
        device: cpu or cuda.
        quick: a check that it works, which no target may be judged by.
        commit_id: named by the caller, where there is no git history; default: asked of git.
    """
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return {
        "bench": bench,
        "run": f"{now:%Y%m%dT%H%M%S}-{os.getpid()}",
        "quick": quick,
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "device_type": device,
        "driver": driver() if device == "cuda" else "",
        "cache_bytes": cache_bytes(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "ibnvision": __version__,
        "commit": commit() if commit_id is None else commit_id,
        "date": now.isoformat(),
        "command": shlex.join(["ibnvision", "benchmark", bench, *map(_without_folders, argv)]),
    }


def parser(bench: str, about: str | None, repeats: str) -> argparse.ArgumentParser:
    """A parser with the options of every timed benchmark; `repeats` names their defaults."""
    made = argparse.ArgumentParser(prog=f"ibnvision benchmark {bench}", description=about)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--threads", type=int, default=1, help="CPU threads; judged only at 1")
    made.add_argument("--repeats", type=int, help=f"interleaved repetitions ({repeats})")
    made.add_argument("--quick", action="store_true", help="one small case, to see that it works")
    made.add_argument(
        "--heap",
        choices=("kept", "default"),
        default="kept",
        help="kept: freed memory stays mapped, so that no call pays for another's page faults",
    )
    made.add_argument("--commit", metavar="ID", help="recorded commit, outside a git checkout")
    made.add_argument("--out", help="JSON-lines file to append to")
    made.add_argument(
        "--compare-with",
        metavar="REV|FILE",
        help="flag what got slower than in a file of records, or in those of a git revision",
    )
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, in range and for a device that is present; else the parser's error."""
    args = made.parse_args(argv)
    if args.threads < 1:
        made.error(f"--threads must be at least 1, got {args.threads}")
    if args.repeats is not None and args.repeats < 1:
        made.error(f"--repeats must be at least 1, got {args.repeats}")
    if args.device == "cuda" and not torch.cuda.is_available():
        made.error("--device cuda: no CUDA device is present")
    return args


def start(bench: str, argv: Sequence[str], args: argparse.Namespace) -> Record:
    """What the records of a timed run share; call it before anything large is allocated."""
    kept = args.heap == "kept" and measure.keep_freed_memory()
    shared = environment(bench, argv, args.device, quick=args.quick, commit_id=args.commit)
    return shared | {"heap": "kept" if kept else "default"}


def results_file(out: str | None, bench: str) -> Path:
    """`out`, else <bench>.jsonl in ./benchmarks/results or, where there is none, in ./runs."""
    if out is not None:
        return Path(out)
    folder = Path("benchmarks/results")
    return (folder if folder.is_dir() else Path("runs")) / f"{bench}.jsonl"


def append(path: Path, records: Sequence[Record]) -> None:
    """Add one line per record, in one write: readers and other writers see whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
    with open(path, "ab", buffering=0) as file:
        file.write(lines.encode())


def read(path: Path) -> list[Record]:
    """All records of a file.

    Raises: ValueError for a line that is not a record, naming file and line.
    """
    return parse_lines(path.read_text(encoding="utf-8"), str(path))


def parse_lines(text: str, source: str) -> list[Record]:
    """The records of JSON lines. Raises: ValueError as `read`, naming the source and the line."""
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            if "bench" not in record or "run" not in record:
                raise ValueError("no bench or run in it")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{source}:{number} is not a benchmark record: {error}") from None
        records.append(record)
    return records


def read_folder(folder: Path) -> list[Record]:
    """The records of the benchmarks' and tools' own files in a folder, oldest run first."""
    paths = [folder / f"{bench}.jsonl" for bench in (*BENCHES, *TOOLS)]
    records = [r for path in paths if path.is_file() for r in read(path)]
    return sorted(records, key=lambda r: r["run"])


def about(r: Mapping[str, Any]) -> str:
    """Which study of its question a record is of: a setting that is no preset's, the backbone."""
    return ", ".join(r[key] for key in ("setting", "backbone") if r.get(key))


def number(value: float | None) -> str:
    """Three digits, more before the point where it takes more, "-" for None and nan."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left and the others right aligned, padded for a terminal."""
    cells = [list(header), *([str(c) for c in row] for row in rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(cells[0]), "| " + " | ".join(rule) + " |", *map(line, cells[1:])])


def interval_table(title: str, names: Sequence[str], records: Sequence[Record]) -> str:
    """The records of derived numbers, by these names, with unit, interval and repetitions."""
    rows = [
        [name, f"{number(r['value'])} {r['unit']}", f"{number(r['low'])} to {number(r['high'])}"]
        + [str(r["n"])]
        for name, r in zip(names, records, strict=True)
    ]
    return table([title, "value", "95 % bootstrap", "repetitions"], rows)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write through a temporary name in the same folder, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
