"""Builds kernels with the host compiler over the emulator, once for each state of the sources."""

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ["-std=c++20", "-O1", "-fno-strict-aliasing", "-fPIC", "-shared", "-DCUDA_ON_CPU"]


def _cuda_include() -> Path | None:
    """The folder of cuda_runtime.h and of all it includes: of a toolkit or of PyPI packages."""
    homes = [os.environ.get("CUDA_HOME", "/usr/local/cuda")]
    nvcc = shutil.which("nvcc")
    if nvcc:
        homes.append(str(Path(nvcc).resolve().parents[1]))
    folders = [Path(home) / "include" for home in homes]
    nvidia = importlib.util.find_spec("nvidia")
    for root in nvidia.submodule_search_locations or [] if nvidia else []:
        folders += sorted(Path(root).glob("*/include"))
    names = ("cuda_runtime.h", "cuda_fp16.h", "crt/host_defines.h")
    return next((f for f in folders if all((f / name).is_file() for name in names)), None)


def _boost_flags(compiler: str, folder: Path) -> list[str]:
    """Boost.Context where it links; else ucontext, whose switches are slower."""
    probe = folder / "probe.cpp"
    probe.write_text("#include <boost/context/detail/fcontext.hpp>\n")
    link = [compiler, "-shared", "-fPIC", str(probe), "-o", str(folder / "probe.so")]
    if subprocess.run([*link, "-lboost_context"], capture_output=True).returncode == 0:
        return ["-lboost_context"]
    return ["-DEMULATOR_UCONTEXT"]


Build = Callable[..., ctypes.CDLL]


@pytest.fixture(scope="session")
def build_on_cpu(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Build:
    """build(source, defect=(file, old, new), defines=[...]) -> the loaded library.

    A defect is planted into a copy of the sources: `new` in place of the first `old` of the file.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    include = _cuda_include()
    if include is None:
        pytest.skip("no CUDA headers: install a toolkit, or nvidia-cuda-crt beside a CUDA torch")
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    boost = _boost_flags(compiler, folder)
    cache = pytestconfig.cache.mkdir("cuda_on_cpu") if pytestconfig.cache else folder

    def build(
        source: str, defect: tuple[str, str, str] | None = None, defines: tuple[str, ...] = ()
    ) -> ctypes.CDLL:
        csrc = CSRC
        if defect is not None:
            file, old, new = defect
            csrc = Path(tempfile.mkdtemp(dir=folder)) / "csrc"
            shutil.copytree(CSRC, csrc)
            text = (csrc / file).read_text()
            assert old in text, f"{file} no longer contains {old!r}: the planted defect is void"
            (csrc / file).write_text(text.replace(old, new, 1))
        command = [compiler, *FLAGS, *(f"-D{define}" for define in defines)]
        command += [f"-I{csrc}", f"-I{HERE}", f"-I{include}", str(HERE / source)]
        parts = [source, str(command[1:-4]), str(include), *boost]
        files = [*sorted(csrc.rglob("*.cuh")), *sorted(csrc.rglob("*.h")), HERE / source]
        parts += [file.read_text() for file in [*files, HERE / "emulator.h"]]
        name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
        library = cache / f"{name}.so"
        if not library.is_file():
            made = folder / f"{name}.so"
            done = subprocess.run(
                [*command, "-o", str(made), *boost], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-4000:]
            os.replace(shutil.copy(made, cache / f"{name}.{os.getpid()}"), library)
        return ctypes.CDLL(str(library))

    return build
