"""The processes of a run: their device and threads, what they agree on, how they fail."""

import contextlib
import random
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from ibnvision.config import Config

from . import run_folder

# for the process that reads all labels first: 12,000 of GTAV take longer than NCCL's 10 minutes
_PATIENCE = InitProcessGroupKwargs(timeout=timedelta(hours=3))


def start(cfg: Config) -> Accelerator:
    """Set threads and device; ValueError for what this machine or these processes cannot do."""
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no CUDA device: use device=cpu or auto")
    torch.set_num_threads(
        run_folder.usable_cores() if isinstance(cfg.threads, str) else cfg.threads
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of accelerate about launchers
        accelerator = Accelerator(
            cpu=cfg.device == "cpu", mixed_precision="no", kwargs_handlers=[_PATIENCE]
        )
    if cfg.sync_norm and accelerator.num_processes > 1:
        raise ValueError(
            "sync_norm must be false under several processes, got true with "
            f"{accelerator.num_processes}: the fused layers do not synchronize batch statistics "
            "yet. Train in one process (grad_accum does not replace it), or pass sync_norm=false "
            "for statistics of each process's own images"
        )
    return accelerator


def seed(cfg: Config) -> None:
    random.seed(cfg.seed)
    np.random.seed(cfg.seed % 2**32)
    torch.manual_seed(cfg.seed)
    if cfg.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)


def any_of(mine: bool, processes: Any) -> bool:
    """Whether one of the processes says so, asked at the same step, so that all stop there and
    none waits for one that did; None: there is one.
    """
    if processes is None:
        return mine
    vote = torch.tensor(int(mine))
    torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MAX, group=processes)
    return bool(vote)


@contextlib.contextmanager
def explained(cfg: Config) -> Iterator[None]:
    """Turn the two failures whose own messages do not help into advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if memory or "can't allocate memory" in text:
            size = "x".join(map(str, cfg.size)) or f"that of preset {cfg.preset}"
            raise RuntimeError(
                f"out of memory: lower batch_size (now {cfg.batch_size}; "
                f"grad_accum keeps the sum), use a smaller size (now {size}) "
                f"or precision=bf16 (now {cfg.precision})"
            ) from error
        if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed" in text):
            raise RuntimeError(
                f"a data worker died (workers = {cfg.workers}): use workers=0 to see its own "
                f"error, or fewer workers if memory or /dev/shm is short. {text.splitlines()[0]}"
            ) from error
        raise
