"""The identity gate of a restoration run: calibrated on its pairs, kept in its checkpoints."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from ibnvision.methods.gate import Gate, calibrate, gate_between, haziness

from . import checkpoint

PAIRS = 200  # of a set that are measured at most, evenly spread


def entry(model: nn.Module, datasets: Iterable[Dataset]) -> dict[str, Any]:
    """What checkpoints of a network hold beside it: {"gate": {low, high}} of one that restores.

    datasets: pairs of hazy image and clear target. {"gate": None} where the measure does not tell
    one from the other; see methods.gate.
    """
    if not hasattr(model, "restore"):
        return {}
    clear: list[float] = []
    hazy: list[float] = []
    for dataset in datasets:
        pairs: Any = dataset
        count = min(PAIRS, len(pairs))
        for i in range(count):
            item = pairs[i * len(pairs) // count]
            hazy.append(haziness(item["image"][None]).item())
            clear.append(haziness(item["target"][None]).item())
    gate = calibrate(clear, hazy)
    return {"gate": gate._asdict() if gate else None}


def find_gate(path: str | Path) -> Gate | None:
    """The gate in a checkpoint or other weights file, if it holds one."""
    found = checkpoint.load(path).get("gate") if checkpoint.is_run(path) else None
    return gate_between(found["low"], found["high"]) if found else None


def stored_gate(path: str | Path) -> Gate:
    """As find_gate; ValueError naming the file and the way out where it has none."""
    found = find_gate(path)
    if found is None:
        raise ValueError(
            f"--gate must come with the checkpoint of a dehazing run, which holds the thresholds "
            f"of its training source; {path} holds none: pass --gate-range LOW,HIGH, such as "
            "0.2,0.25, in units of the dark channel"
        )
    return found


def gate_of(text: str) -> Gate:
    """The gate of a text LOW,HIGH; ValueError where it does not read so."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ValueError(
            f"--gate-range must read LOW,HIGH, such as 0.2,0.25, got {text!r}"
        ) from None
    try:
        return gate_between(low, high)
    except ValueError as error:
        raise ValueError(f"--gate-range: {error}") from None
