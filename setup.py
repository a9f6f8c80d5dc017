"""Drives CMakeLists.txt: finds torch and nvcc without importing torch, so `pip install .` works.

IBNVISION_NATIVE      auto: build, else install pure Python | 0: do not build | 1: fail if it fails
IBNVISION_CUDA        auto: where torch has CUDA and nvcc or an NVIDIA driver is found | 0 | 1
IBNVISION_CUDA_ARCHS  as "80;90"; default: this machine's GPU, else 80;86;89;90;100;120
MAX_JOBS, CUDACXX and CUDA_HOME are honoured. ibnvision/_build.txt keeps what was not built and why.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
ARCHS = "80;86;89;90;100;120"


def setting(name: str) -> str:
    value = os.environ.get(name, "auto")
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{name} must be auto, 0 or 1, got {value!r}")
    return value


NATIVE, CUDA = setting("IBNVISION_NATIVE"), setting("IBNVISION_CUDA")
VERSION = re.search(r'"(.+)"', (ROOT / "ibnvision/_version.py").read_text())[1]


def site_folders() -> list[Path]:
    """Import folders; sysconfig still names the target environment under pip's build isolation."""
    paths = sysconfig.get_paths()
    return [Path(p) for p in (*sys.path, paths["purelib"], paths["platlib"]) if p]


def find_torch() -> tuple[Path | None, str | None]:
    """Folder of torch with stable ABI headers, and the CUDA version it was built for."""
    for folder in site_folders():
        torch = folder / "torch"
        if (torch / "include/torch/csrc/stable/library.h").is_file():
            cuda = re.search(r"^cuda\b.*= *'([\d.]+)'", (torch / "version.py").read_text(), re.M)
            return torch, cuda and cuda[1]
    return None, None


def find_nvcc(torch_cuda: str) -> str | None:
    """nvcc of torch's major version; a minor difference is allowed. Named ones go first."""
    home = os.environ.get("CUDA_HOME")
    candidates = [os.environ.get("CUDACXX"), home and f"{home}/bin/nvcc"]
    for folder in site_folders():
        candidates += [str(path) for path in sorted(folder.glob("nvidia/cu*/bin/nvcc"))]
    for nvcc in [*candidates, "nvcc", "/usr/local/cuda/bin/nvcc"]:
        nvcc = nvcc and shutil.which(nvcc)
        if not nvcc:
            continue
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        release = re.search(r"release (\d+)\.", text)
        if release and release[1] == torch_cuda.split(".")[0]:
            return nvcc
    return None


def driver_gpus() -> int | None:
    """How many GPUs the NVIDIA driver shows; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int(0)
    ready = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if ready else 0


def build_requirements() -> list[str]:
    """What pip must fetch for the build besides pyproject's list: torch, nvcc, or nothing."""
    torch, torch_cuda = find_torch()
    if NATIVE == "0":
        return []
    fetched = [] if torch else ["torch>=2.11"]
    wanted = CUDA == "1" or (CUDA == "auto" and driver_gpus() is not None)
    if not wanted or (torch and not torch_cuda) or (torch_cuda and find_nvcc(torch_cuda)):
        return fetched
    # torch itself pins cuda-toolkit, so where torch is fetched too the versions agree
    return [*fetched, "cuda-toolkit[nvcc,cccl]" + (f"=={torch_cuda}.*" if torch_cuda else "")]


def cuda_archs() -> str:
    """CMake's list: machine code for each architecture, PTX for the last as well."""
    given = os.environ.get("IBNVISION_CUDA_ARCHS")
    if given == "native" or (not given and driver_gpus()):
        return "native"
    *archs, last = re.split(r"[;, ]+", (given or ARCHS).strip())
    return ";".join([*(f"{arch}-real" for arch in archs), last])


def tool(name: str) -> str:
    """cmake or ninja: of this environment, else of the path."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if not found:
        raise RuntimeError(f"{name} was not found; pip install {name}")
    return found


def run(*command: str) -> None:
    """Run and show a command; on failure raise with the first error it printed."""
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout:
            sys.stderr.write(line)
            lines.append(line.rstrip())
    if process.returncode:
        first = next((i for i, s in enumerate(lines) if re.search(r"\berror\b", s, re.I)), -5)
        cause = " ".join(s.strip() for s in lines[first:][:5] if s.strip())
        raise RuntimeError(f"{Path(command[0]).name} failed: {cause}")


class CMakeBuild(build_ext):
    """Builds both modules in one CMake run; in auto mode a failure leaves pure Python behind."""

    def run(self) -> None:
        self.note = ""
        super().run()
        package = Path(self.get_ext_fullpath("ibnvision._C")).parent  # the tree itself, if editable
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build.txt").write_text(self.note)
        if self.note:
            width = 98
            print(f"\n+{'-' * width}+", file=sys.stderr)
            for i in range(0, len(self.note), width - 2):
                print(f"| {self.note[i : i + width - 2]:{width - 2}} |", file=sys.stderr)
            print(f"+{'-' * width}+\n", file=sys.stderr)

    def build_extensions(self) -> None:
        in_tree = ROOT / "ibnvision" if self.editable_mode else Path(self.build_lib, "ibnvision")
        for stale in (*in_tree.glob("_C*.so"), *in_tree.glob("_cuda*.so")):
            stale.unlink()
        try:
            cuda, self.note = self.choose_cuda()
            try:
                self.build_native(cuda)
            except Exception as error:
                if not cuda:
                    raise
                if CUDA == "1" or os.environ.get("IBNVISION_CUDA_ARCHS"):  # asked for by name
                    raise SystemExit(f"the CUDA kernels were not built: {error}") from error
                self.note = f"the CUDA kernels were not built: {error}"
                self.build_native([])
        except Exception as error:
            if NATIVE == "1" or CUDA == "1":
                raise
            self.note = f"no kernels were built: {error}"

    def choose_cuda(self) -> tuple[list[str], str]:
        """CMake arguments of the CUDA build, [] for none, and why there is none."""
        torch, torch_cuda = find_torch()
        if not torch:
            raise RuntimeError(
                "torch >= 2.11 was not found (pip install torch, then install again)"
            )
        nvcc = find_nvcc(torch_cuda) if torch_cuda and CUDA != "0" else None
        if nvcc:
            arguments = [f"-DCMAKE_CUDA_COMPILER={nvcc}"]
            return [*arguments, f"-DCMAKE_CUDA_ARCHITECTURES={cuda_archs()}"], ""
        if CUDA == "0":
            reason = "IBNVISION_CUDA=0"
        elif torch_cuda:
            reason = f"no nvcc {torch_cuda.split('.')[0]}.x was found (IBNVISION_CUDA=1 fetches it)"
        else:
            reason = "this torch has no CUDA"
        if CUDA == "1":
            raise RuntimeError(f"IBNVISION_CUDA=1, but {reason}")
        return [], f"the CUDA kernels were not built: {reason}"

    def build_native(self, cuda: list[str]) -> None:
        import pybind11

        torch, _ = find_torch()
        out = Path(self.get_ext_fullpath("ibnvision._C")).resolve().parent
        build = str(Path(self.build_temp).resolve())
        arguments = [
            *("-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DTORCH_DIR={torch}",
            f"-DIBNVISION_OUT={out}",
            f"-DIBNVISION_VERSION={VERSION}",
            f"-DIBNVISION_CUDA={'ON' if cuda else 'OFF'}",
        ]
        # --fresh: an isolated build's cache names tools in a folder that is gone
        run(tool("cmake"), "--fresh", "-S", str(ROOT), "-B", build, *arguments, *cuda)
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        run(tool("cmake"), "--build", build, "-j", jobs)


names = [] if NATIVE == "0" else ["ibnvision._C", "ibnvision._cuda"]
setup(
    version=VERSION,
    packages=find_packages(include=["ibnvision*"]),
    package_data={"ibnvision": ["configs/*.toml"]},  # configs links to the top folder
    setup_requires=build_requirements(),
    ext_modules=[Extension(name, [], optional=True) for name in names],
    cmdclass={"build_ext": CMakeBuild},
)
