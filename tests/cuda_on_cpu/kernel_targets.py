"""Where the raw launchers of an op run: on the emulator, in a sanitized process, on a GPU.

All take the same calls: launch(name, fields) and ask(name, *arguments, fields), where a field is
a number, None or a dense tensor, which is passed by its address and may be written; a tuple of a
tensor and numbers is passed as the address and these.
"""

import ctypes
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from kernel_build import Builder, load_module
from torch import Tensor

Fields = dict[str, Any]
RUNNER = Path(__file__).parent / "sanitized_runner.py"
ALIGNMENT = 16  # of malloc; a tensor that starts elsewhere keeps its distance from a multiple


def _address(value: Any) -> Any:
    if isinstance(value, tuple):
        return value[0].data_ptr(), *value[1:]
    return value.data_ptr() if isinstance(value, Tensor) else value


def _addresses(fields: Fields) -> dict[str, Any]:
    return {name: _address(value) for name, value in fields.items() if value is not None}


class Emulated:
    """A build of Builder.module, in this process."""

    device = torch.device("cpu")
    schedules = range(5)  # seeds

    def __init__(self, library: Path) -> None:
        self.module: Any = load_module(library)

    def settings(self, seed: int, shared_bytes: int) -> None:
        self.module.emulator_settings(seed, shared_bytes)

    def ask(self, name: str, *arguments: object, fields: Fields) -> Any:
        return getattr(self.module, name)(*arguments, **_addresses(fields))

    def launch(self, name: str, fields: Fields) -> None:
        self.ask(name, 0, fields=fields)  # stream 0


class Device:
    """The module `_cuda` on the current GPU; its schedule and shared memory are the GPU's."""

    device = torch.device("cuda")
    schedules = range(2)

    def __init__(self) -> None:
        from ibnvision import _cuda

        self.module: Any = _cuda

    def settings(self, seed: int, shared_bytes: int) -> None:
        pass

    def ask(self, name: str, *arguments: object, fields: Fields) -> Any:
        return getattr(self.module, name)(*arguments, **_addresses(fields))

    def launch(self, name: str, fields: Fields) -> None:
        self.ask(name, torch.cuda.current_stream().cuda_stream, fields=fields)
        torch.cuda.synchronize()


class Sanitized:
    """A build with AddressSanitizer and UBSan, in a process that the first mistake ends.

    Every tensor is copied into a heap block of its exact size, and back.
    """

    device = torch.device("cpu")
    schedules = range(1)

    def __init__(self, builder: Builder, library: Path) -> None:
        self.log = tempfile.TemporaryFile(dir=builder.scratch)
        preloaded = " ".join(builder.sanitizer(name) for name in ("asan", "ubsan"))
        environment = os.environ | {
            "LD_PRELOAD": preloaded,
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(RUNNER), str(library)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
        )

    def settings(self, seed: int, shared_bytes: int) -> None:
        self._call("emulator_settings", (seed, shared_bytes), {})

    def ask(self, name: str, *arguments: object, fields: Fields) -> Any:
        first = {k: value[0] if isinstance(value, tuple) else value for k, value in fields.items()}
        tensors = {name: t for name, t in first.items() if isinstance(t, Tensor)}
        blocks = {
            name: (
                t.data_ptr() % ALIGNMENT,
                ctypes.string_at(t.data_ptr(), t.numel() * t.element_size()),
            )
            for name, t in tensors.items()
        }
        numbers = {k: v for k, v in fields.items() if k not in tensors and v is not None}
        behind = {k: v[1:] for k, v in fields.items() if isinstance(v, tuple)}
        result, written = self._call(name, arguments, numbers, blocks, behind)
        for key, block in written.items():
            ctypes.memmove(tensors[key].data_ptr(), block, len(block))
        return result

    def launch(self, name: str, fields: Fields) -> None:
        self.ask(name, 0, fields=fields)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def _call(self, *request: object) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            pickle.dump(request, self.process.stdin)
            self.process.stdin.flush()
            kind, answer = pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError):
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(self.log.read().decode(errors="replace")[:4000]) from None
        if kind == "error":
            raise RuntimeError(answer)
        return answer
