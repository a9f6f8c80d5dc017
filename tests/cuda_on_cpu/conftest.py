"""Kernels built for the emulator, as fixtures. CI must not skip them: there it is an error."""

import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kernel_build import Builder, Missing
from kernel_targets import Device, Emulated, Sanitized

Build = Callable[..., ctypes.CDLL]


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Builder:
    scratch = tmp_path_factory.mktemp("cuda_on_cpu")
    cache = pytestconfig.cache.mkdir("cuda_on_cpu") if pytestconfig.cache else scratch
    try:
        return Builder(cache, scratch)
    except Missing as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def build_on_cpu(builder: Builder) -> Build:
    """build(source, defect=(file, old, new), defines=(...), checks=...) -> the loaded library."""

    def build(*arguments: object, **options: object) -> ctypes.CDLL:
        return ctypes.CDLL(str(builder.library(*arguments, **options)))

    return build


@pytest.fixture(scope="session")
def target_of(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """target_of(op, "races" | "address" | "gpu", **build options) -> a target of kernel_targets."""
    processes = []

    def make(op: str, checks: str, **options: Any) -> Any:
        if checks == "gpu":
            return Device()
        builder = request.getfixturevalue("builder")
        library = builder.module(op, checks=checks, **options)
        if checks != "address":
            return Emulated(library)
        processes.append(Sanitized(builder, library))
        return processes[-1]

    yield make
    for process in processes:
        process.close()
