"""What a person sees of a run: a bar on a terminal, lines elsewhere, a table per evaluation."""

import math
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, Self

import torch
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ibnvision.metrics import ABSENT_RULE

__all__ = [
    "ABSENT_RULE",
    "Interrupted",
    "StepProgress",
    "StopRequest",
    "memory_mb",
    "results_table",
]


class Interrupted(KeyboardInterrupt):
    """A stop was asked for and the training state is whole."""


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a flag; the second Ctrl-C stops at once."""

    def __init__(self, console: Console) -> None:
        self.console, self.raised = console, False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.raised and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.raised = True

    def check(self) -> None:
        """Raise Interrupted if a stop was asked for."""
        if self.raised:
            raise Interrupted


class StepProgress:
    """The bar of a training; on no terminal `line` is printed at every log instead."""

    def __init__(self, console: Console, steps: int, step: int) -> None:
        self._bar = Progress(
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )
        self.plain = not console.is_terminal
        self._task = self._bar.add_task("train", total=steps, completed=step, facts="")
        self._start, self._first, self._steps = time.perf_counter(), step, steps

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        self._bar.advance(self._task)

    def line(self, step: int, loss: float, lr: float, rate: float, device: torch.device) -> str:
        """Update the bar's facts and say the same as one line of text."""
        facts = f"loss {loss:.4f}  lr {lr:.3g}  {rate:.1f} img/s  {memory_mb(device):.0f} MB"
        self._bar.update(self._task, facts=facts)
        done = max(step - self._first, 1)
        left = (time.perf_counter() - self._start) / done * (self._steps - step)
        return f"step {step}/{self._steps}  {facts}  {left:.0f} s left"


def memory_mb(device: torch.device) -> float:
    """Peak memory so far: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def results_table(results: Mapping[str, Mapping[str, Any]], title: str) -> Group:
    """Rows of `evaluate`, one per domain with all classes, and the rule for absent ones."""
    table = Table(title=title)
    table.add_column("domain", no_wrap=True)
    first = next(iter(results.values()))
    scores = [key for key, value in first.items() if key.endswith("_pct") and _is_number(value)]
    for key in scores:
        table.add_column(
            key.removesuffix("_pct").replace("_", " "), justify="right", style="bold", no_wrap=True
        )
    for name in first["iou_pct"]:
        table.add_column(name, justify="right")
    for domain, row in results.items():
        values = [*(row[key] for key in scores), *row["iou_pct"].values()]
        table.add_row(domain, *("-" if math.isnan(v) else f"{v:.1f}" for v in values))
    return Group(table, f"in %, higher is better; {ABSENT_RULE}")


def _is_number(value: Any) -> bool:
    return isinstance(value, float)
