"""What a person sees of a run: a bar on a terminal, lines elsewhere, a table per evaluation."""

import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Self

import torch
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ibnvision.metrics import BY_CLASS, as_text, heading, notes

_BESIDE = 12  # classes that fit beside the scores
_ABREAST = 5  # scores that fit beside each other in 80 columns

__all__ = [
    "Interrupted",
    "StepProgress",
    "StopRequest",
    "memory_mb",
    "results_table",
    "told",
]


class Interrupted(KeyboardInterrupt):
    """A stop was asked for and the training state is whole."""


class StopRequest:
    """Turns the first Ctrl-C, SIGTERM or hangup into a flag; the second Ctrl-C stops at once.

    Under `nohup` a hangup stays ignored; an interrupt that a shell ignores for a command in the
    background does not.
    """

    def __init__(self) -> None:
        self.raised = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            for number in numbers:
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
    """Rows of `evaluate`, one per domain with all its numbers, and the rules that they go by.

    Many classes stand in a table of their own, a row for each; many scores in several tables.
    """
    first = next(iter(results.values()))
    scores = [key for key, value in first.items() if isinstance(value, float)]
    classes = next((key for key in BY_CLASS if key in first), "")
    names = list(first.get(classes, ()))
    beside = names if len(names) <= _BESIDE and len(scores) <= _ABREAST else []
    tables = []
    for begin in range(0, max(len(scores), 1), _ABREAST):
        table = Table(title=None if begin else title)
        table.add_column("domain", no_wrap=bool(beside), overflow="fold")
        part = scores[begin : begin + _ABREAST]
        for key in part:  # a narrow terminal breaks the names of classes, if there are any
            table.add_column(heading(key), justify="right", style="bold", no_wrap=bool(names))
        for name in beside:
            table.add_column(name, justify="right")
        for domain, row in results.items():
            shown = [as_text(key, row[key]) for key in part]
            table.add_row(domain, *shown, *(as_text(classes, row[classes][c]) for c in beside))
        tables.append(table)
    below = [] if len(beside) == len(names) else [_by_class(results, classes)]
    lines = [told(domain, row["facts"]) for domain, row in results.items() if row.get("facts")]
    return Group(*tables, *below, *notes(first), *lines)


def _by_class(results: Mapping[str, Mapping[str, Any]], key: str) -> Table:
    about = heading(key).removesuffix(" by class")
    table = Table(about, title=f"{about} of each class")
    for domain in results:
        table.add_column(domain, justify="right", overflow="fold")
    for name in next(iter(results.values()))[key]:
        table.add_row(name, *(as_text(key, row[key][name]) for row in results.values()))
    return table


def told(domain: str, facts: Mapping[str, Any]) -> str:
    """What is stored beside a domain's numbers in one line, hashes shortened."""
    said = {key: value for key, value in facts.items() if value not in (None, [], {})}
    words = [f"{key.replace('_', ' ')} {_short(value)}" for key, value in said.items()]
    return f"{domain}: {', '.join(words)}"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [f"{key} {count}" for key, count in value.items()]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


def shares_table(classes: Sequence[str], percent: Sequence[float]) -> Table:
    """The percentage of pixels of each class, as `label.mean_shares` gives it."""
    table = Table()
    table.add_column("class")
    table.add_column("% of pixels, mean over files", justify="right")
    for name, value in zip(classes, percent, strict=True):
        table.add_row(name, f"{value:.2f}")
    return table
