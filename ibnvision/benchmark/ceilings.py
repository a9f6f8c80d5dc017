"""What the device does at best, measured in the run that it judges: the floor of every time.

A pass cannot take less than max(bytes / copy bandwidth, operations / matrix rate).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import measure, record
from .op_rows import DTYPES


@dataclass(frozen=True)
class Ceilings:
    """Rates of one device."""

    bytes_per_s: float  # of a large copy, bytes read plus bytes written
    flops_per_s: dict[str, float]  # dtype -> rate of a large matrix product

    def fields(self, seconds: float, moved: float, flops: float, rate: str) -> dict[str, Any]:
        """Record fields: least bytes, least operations, and floor by time, 1 at the floor.

        Args:
            seconds: what the pass took.
            moved: bytes it must read and write at least; 0 where nobody counted them.
            flops: operations it must do at least.
            rate: the dtype of flops_per_s whose unit does them.
        """
        floor = max(moved / self.bytes_per_s, flops / self.flops_per_s[rate])
        least = {"bytes": moved} if moved else {}
        return least | {"flops": flops, "floor_fraction": floor / seconds}


def measure_ceilings(
    device: str, dtypes: Sequence[str], threads: int, *, quick: bool
) -> tuple[Ceilings, list[record.Record]]:
    """Copy bandwidth and the matrix rate of every dtype, with their records' own fields."""
    cuda = device == "cuda"
    cells = 2**22 if quick else 2**28 if cuda else 2**25
    side = 256 if quick else 8192 if cuda else 1024
    source, target = (torch.randn(cells, device=device) for _ in range(2))
    calls: dict[str, measure.Call] = {"copy": lambda: target.copy_(source)}
    for name in dtypes:
        a, b = (torch.randn(side, side, device=device).to(DTYPES[name]) for _ in range(2))
        calls[f"matmul {name}"] = lambda a=a, b=b: a @ b  # type: ignore[misc]
    seconds, _, clock = measure.clocked(calls, 3 if quick else 9, device, threads)
    work = {"copy": 2.0 * source.nbytes} | {f"matmul {name}": 2.0 * side**3 for name in dtypes}
    # the fastest, not the median: a load on the machine would make it a lower ceiling
    rates = {name: work[name] / float(np.min(s)) for name, s in seconds.items()}
    records = [
        {"metric": "ceiling", "backend": name, "clock": clock, "n": len(seconds[name])}
        | {"value": rate / (1e9 if name == "copy" else 1e12)}
        | {"unit": "GB/s" if name == "copy" else "TFLOP/s"}
        for name, rate in rates.items()
    ]
    return Ceilings(rates["copy"], {n: rates[f"matmul {n}"] for n in dtypes}), records


def text(records: Sequence[record.Record]) -> str:
    """The measured ceilings in one line."""
    return ", ".join(f"{r['backend']} {record.number(r['value'])} {r['unit']}" for r in records)
