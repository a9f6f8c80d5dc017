"""Builds CUDA kernels with the host compiler over the emulator, once for each state of the sources.

Three builds of the same sources: `races` (the race detector sees every access), `address`
(AddressSanitizer and UBSan, for a program of its own) and `bare`.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = "-std=c++20 -g1 -fPIC -fno-strict-aliasing -fno-gnu-unique -DCUDA_ON_CPU -DUSE_CUDA"
COPIES = ("memcpy", "memmove", "memset")
CHECKS = {
    "bare": "-O1",
    "races": "-O1 -fsanitize=thread --param=tsan-instrument-func-entry-exit=0 "
    + " ".join(f"-fno-builtin-{name}" for name in COPIES),
    # not optimized: built in half the time, and no access is gone before it is checked
    "address": "-O0 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer",
}
LINKS = {
    "bare": "",
    "races": " ".join(f"-Wl,--wrap={name}" for name in COPIES),
    "address": "-fsanitize=address,undefined",
}
Defect = tuple[str, str, str]  # a file of csrc, what stands there, what is planted in its place


KEPT_S = 7 * 24 * 3600  # a build that nobody asked for in a week goes


class Missing(RuntimeError):
    """This machine cannot build the kernels; the text says what it lacks."""


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


class Builder:
    """Compiles into `cache`, where a later run finds the results; `scratch` is for the rest."""

    def __init__(self, cache: Path, scratch: Path) -> None:
        self.cache, self.scratch = cache, scratch
        for build in cache.iterdir():
            if time.time() - build.stat().st_mtime > KEPT_S:
                build.unlink(missing_ok=True)
        self.compiler = shutil.which("g++")
        if self.compiler is None:
            raise Missing("g++ is not installed")
        include = _cuda_include()
        if include is None:
            raise Missing("no CUDA headers: a toolkit, or nvidia-cuda-crt beside a CUDA torch")
        self.include = include
        self.fiber_define, self.fiber_link = self._fibers()
        self.version = subprocess.run(
            [self.compiler, "--version"], capture_output=True, text=True, check=True
        ).stdout

    def _fibers(self) -> tuple[str, str]:
        """Boost.Context where it links; else ucontext, whose switches are slower."""
        probe = self.scratch / "probe.cpp"
        probe.write_text("#include <boost/context/detail/fcontext.hpp>\n")
        link = [self.compiler, "-shared", "-fPIC", probe, "-o", self.scratch / "probe.so"]
        if subprocess.run([*link, "-lboost_context"], capture_output=True).returncode == 0:
            return "", "-lboost_context"
        return "-DEMULATOR_UCONTEXT", ""

    def library(
        self,
        source: str | Path,
        defect: Defect | None = None,
        defines: tuple[str, ...] = (),
        checks: str = "races",
    ) -> Path:
        """Functions with C names of one source of this folder, over csrc."""
        csrc = self._planted(defect)
        return self._link([self._object(HERE / source, csrc, defines, checks)], checks)

    def module(
        self,
        op: str,
        defect: Defect | None = None,
        defines: tuple[str, ...] = (),
        checks: str = "races",
        kernels: Path | None = None,
    ) -> Path:
        """A Python module `emulated` with the launchers of `op`, as `_cuda` has them.

        `kernels` stands in for csrc/<op>/<op>_cuda.cu.
        """
        csrc = self._planted(defect)
        kernels = kernels or csrc / op / f"{op}_cuda.cu"
        face = ("OP_LAUNCHERS=" + f'"{op}/{op}_launchers.h"', f"REGISTER=register_{op}_launchers")
        return self._link(
            [
                self._object(kernels, csrc, defines, checks),
                self._object(HERE / "emulated_module.cpp", CSRC, face, "bare"),
            ],
            checks,
        )

    def sanitizer(self, name: str) -> str:
        """Path of a run-time library of the compiler."""
        command = [str(self.compiler), f"-print-file-name=lib{name}.so"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def _planted(self, defect: Defect | None) -> Path:
        if defect is None:
            return CSRC
        file, old, new = defect
        csrc = Path(tempfile.mkdtemp(dir=self.scratch)) / "csrc"
        shutil.copytree(CSRC, csrc)
        text = (csrc / file).read_text()
        if old not in text:
            raise ValueError(f"{file} no longer contains {old!r}: the planted defect is void")
        (csrc / file).write_text(text.replace(old, new, 1))
        return csrc

    def _object(self, source: Path, csrc: Path, defines: tuple[str, ...], checks: str) -> Path:
        flags = [*FLAGS.split(), *CHECKS[checks].split(), *(f"-D{define}" for define in defines)]
        if self.fiber_define:
            flags.append(self.fiber_define)
        includes = [f"-I{csrc}", f"-I{HERE}", f"-isystem{self.include}"]
        suffixes = [".h", ".cuh"]
        if source.name == "emulated_module.cpp":  # takes nothing from a kernel's header
            import pybind11

            suffixes = [".h"]
            includes += [f"-isystem{pybind11.get_include()}"]
            includes += [f"-isystem{sysconfig.get_path('include')}"]
        folders = [csrc, *(path for path in csrc.iterdir() if path.is_dir()), HERE]
        read = [path for folder in folders for path in folder.iterdir() if path.suffix in suffixes]
        texts = [path.read_text() for path in [*sorted(read), source]]
        made = self._named([self.version, str(self.include), *flags, *texts], ".o")
        if not self._has(made):
            command = [str(self.compiler), *flags, *includes]
            if not defines:
                command += ["-include", str(self._emulator(command).with_suffix(""))]
            self._make([*command, "-c", "-x", "c++", str(source)], made)
        return made

    def _emulator(self, command: list[str]) -> Path:
        """emulator.h and CUDA's headers, precompiled: half the time of a small source."""
        texts = [path.read_text() for path in sorted(HERE.glob("*.h"))]
        flags = [flag for flag in command if not flag.startswith("-I")]
        made = self._named([self.version, str(self.include), *flags, *texts], ".h.gch")
        if not self._has(made):
            self._make([*command, "-x", "c++-header", str(HERE / "emulator.h")], made)
        return made

    def _link(self, objects: list[Path], checks: str) -> Path:
        flags = ["-shared", "-Wl,-Bsymbolic", *LINKS[checks].split()]
        made = self._named([self.version, *flags, *map(str, objects)], ".so")
        if not self._has(made):
            libraries = [self.fiber_link] if self.fiber_link else []
            command = [str(self.compiler), *flags, *map(str, objects), *libraries]
            self._make(command, made)
        return made

    def _named(self, parts: list[str], suffix: str) -> Path:
        return self.cache / (hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20] + suffix)

    def _has(self, made: Path) -> bool:
        if made.is_file():
            made.touch()
        return made.is_file()

    def _make(self, command: list[str], made: Path) -> None:
        """Runs `command -o made`, once, whichever of several processes comes first."""
        with made.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if made.is_file():
                return
            unfinished = made.with_suffix(".unfinished")
            done = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
            os.replace(unfinished, made)


def load_module(path: Path) -> object:
    """The module `emulated` of Builder.module; builds of different sources stay apart."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}.emulated", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
