"""python sanitized_runner.py LIBRARY, started by kernel_targets.Sanitized with the sanitizers'
run-time preloaded: answers calls of the library's launchers, pickled on stdin and stdout."""

import ctypes
import importlib.util
import pickle
import sys
from typing import Any

libc = ctypes.CDLL(None)  # malloc is AddressSanitizer's
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

Blocks = dict[str, tuple[int, bytes]]  # distance from a multiple of 16, contents


def call(
    module: Any, name: str, arguments: tuple, fields: dict, blocks: Blocks, behind: dict
) -> tuple:
    """The result, and what the blocks hold afterwards; `behind` are numbers behind an address."""
    bases = {key: libc.malloc(shift + len(data)) for key, (shift, data) in blocks.items() if data}
    addresses = {key: base + blocks[key][0] for key, base in bases.items()}
    for key, address in addresses.items():
        ctypes.memmove(address, blocks[key][1], len(blocks[key][1]))
    values = addresses | {key: (addresses.get(key, 0), *rest) for key, rest in behind.items()}
    result = getattr(module, name)(*arguments, **fields, **values)
    written = {key: ctypes.string_at(at, len(blocks[key][1])) for key, at in addresses.items()}
    for base in bases.values():
        libc.free(base)
    return result, written


def main(library: str) -> None:
    spec = importlib.util.spec_from_file_location("emulated", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    while True:
        try:
            name, arguments, fields, *blocks = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = ("result", call(module, name, arguments, fields, *(blocks or [{}, {}])))
        except Exception as error:
            answer = ("error", str(error))
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
