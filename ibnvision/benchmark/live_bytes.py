"""Counts the bytes of live tensors, call by call; memory inside a call is not seen."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """`peak` is the most at any time of what was made inside the block, and of `given`."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self._count(given)

    def _count(self, tensors: Any) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.storages = {k: v for k, v in self.storages.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, Tensor)}
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self._count([t for t in made if t.untyped_storage()._cdata not in known])
        return result


def peak_bytes(call: Callable[[], object], given: Sequence[Tensor], device: str) -> int:
    """Most bytes alive at a time during a call: what it makes, and the tensors `given` to it.

    On CUDA by the allocator, so with what libraries ask of it; else as LiveBytes counts.
    """
    if device != "cuda":
        with LiveBytes(*given) as live:
            call()
        return live.peak
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    own = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in given}
    return sum(own.values()) + torch.cuda.max_memory_allocated() - before


def kept_bytes(call: Callable[[], Tensor], given: Sequence[Tensor]) -> int:
    """Bytes that a forward keeps for its backward, each storage once, without those `given`."""
    own = {t.untyped_storage().data_ptr() for t in given}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
        total = sum(kept.values())
    del result  # until here the storages live, and so their addresses differ
    return total
