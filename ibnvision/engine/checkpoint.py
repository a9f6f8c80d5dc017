"""Checkpoints: plain tensors and plain values in one file, written whole or not at all."""

import errno
import io
import json
import math
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = 1
_CHOSEN = {  # file of a run -> how its step was chosen
    "best.pt": "best on the source's val split",
    "best_on_target.pt": "best on the test domains, a bound and not a result",
}


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name beside `path`, then rename.

    Raises: OSError that says what is still intact; the old file then is.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        advice = " (free some space)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        kept = f"the previous {path.name} is intact" if path.exists() else "nothing was left behind"
        raise OSError(
            error.errno, f"cannot write {path}: {error.strerror or error}{advice}; {kept}"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON by write_atomic. Raises ValueError for a number that is not finite."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def finite(value: Any) -> Any:
    """`value` with None for each float that is not finite, in mappings and lists too."""
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint that `load` reads back; see `write_atomic` for failures."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this package onto the CPU, executing no code from the file.

    Raises: FileNotFoundError; ValueError where the file is damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = sorted(map(str, state))[:6] if isinstance(state, dict) else type(state).__name__
        raise ValueError(
            f"{path} must be a run checkpoint (last.pt, best.pt) of format {FORMAT}, holds {found}"
        )
    return state


def is_run(path: str | Path) -> bool:
    """Whether a readable file is a checkpoint of this package, not a bare weights file."""
    return task_of(path) is not None


def task_of(path: str | Path) -> str | None:
    """The task of a checkpoint of this package, None for any other file; reads no weights."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # what cannot be read so is reported by whoever reads it
        return None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return None
    return str(state["task"])


def weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights to evaluate: the averaged ones where the run kept them."""
    return state["ema"]["weights"] if state["ema"] else state["model"]


def selection(name: str, step: int, steps: int) -> str:
    """By which rule the weights of a run's file `name` were chosen, to stand beside its numbers."""
    if name in _CHOSEN:
        return f"{_CHOSEN[name]}, step {step}"
    return "last of the fixed steps" if step == steps else f"step {step}"


def random_state() -> dict[str, Any]:
    """State of the torch, numpy and python generators, as plain values."""
    kind, keys, *numbers = np.random.get_state(legacy=True)
    version, words, normal = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, np.int64)), *map(float, numbers)],
        "python": [version, list(words), normal],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Undo everything drawn since `random_state`."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    keys = keys.numpy().astype(np.uint32)
    np.random.set_state((kind, keys, int(position), int(has_gauss), gauss))
    version, words, normal = state["python"]
    random.setstate((version, tuple(words), normal))
