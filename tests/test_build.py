"""The kernels are built, used, and bound through the stable ABI alone; the sdist is complete."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import ibnvision
from ibnvision import ops
from ibnvision.ops import _kernels
from ibnvision.ops.ibn_norm import example_inputs, ibn_norm

ROOT = Path(__file__).parents[1]
REFERENCE_ONLY = os.environ.get("IBNVISION_NATIVE") == "0"

built = pytest.mark.skipif(REFERENCE_ONLY, reason="IBNVISION_NATIVE=0 declares: reference only")


@built
def test_cpu_kernels_are_built_and_used():
    assert _kernels.C is not None, "\n".join(ops.info())
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        ibn_norm(*example_inputs(2, 6, 5, 7))
    names = {event.name for event in trace.events()}
    assert "ibnvision::ibn_norm_forward_tracking" in names


@built
def test_build_info_tells_what_was_built():
    facts = _kernels.C.build_info()
    assert facts["version"] == ibnvision.__version__
    assert facts["torch_min"] == "2.11"
    assert facts["cuda"] is None
    assert re.match(r"\d+\.\d+", facts["torch_built"])
    assert facts["cpu_variants"][0] == "baseline"
    assert facts["capability"] in facts["cpu_variants"]
    if _kernels.CUDA:
        facts = _kernels.CUDA.build_info()
        assert re.match(r"1[23]\.", facts["cuda"])
        assert min(map(int, re.findall(r"\d+", facts["cuda_archs"]))) >= 80


@built
def test_every_cpu_variant_computes_the_same():
    library = _kernels.C
    active = library.build_info()["capability"]
    expected = ops.ibn_norm(*[i.double() if is_float(i) else i for i in example_inputs(3, 7, 9, 5)])
    tried = []
    try:
        for variant in library.build_info()["cpu_variants"]:
            try:
                library.set_cpu_capability(variant)
            except ValueError:  # this processor lacks it
                continue
            assert library.build_info()["capability"] == variant
            y = ibn_norm(*example_inputs(3, 7, 9, 5))
            torch.testing.assert_close(y.double(), expected, rtol=2e-5, atol=2e-5)
            tried.append(variant)
    finally:
        library.set_cpu_capability(active)
    assert tried[0] == "baseline" and active in tried


def is_float(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


@built
def test_unknown_capability_names_the_usable_ones():
    with pytest.raises(ValueError, match="baseline.*; got sse9"):
        _kernels.C.set_cpu_capability("sse9")


@built
@pytest.mark.skipif(not shutil.which("nm"), reason="nm (binutils) is not installed")
def test_libraries_import_no_unstable_symbol():
    libraries = [library.__file__ for library in (_kernels.C, _kernels.CUDA) if library]
    assert libraries
    for library in libraries:
        command = ["nm", "-D", "--undefined-only", library]
        symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "aoti_torch" in symbols or "torch_" in symbols  # nm did list something of torch
        assert not re.findall(r"_ZNK?(?:3c10|2at|5torch)\w*", symbols), library


def test_reference_only_run_has_no_library():
    code = "from ibnvision.ops import _kernels; print(_kernels.C, _kernels.CUDA)"
    environment = {**os.environ, "IBNVISION_NATIVE": "0"}
    command = [sys.executable, "-P", "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["None", "None"]


@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="no source tree around the tests")
def test_sdist_holds_every_source(tmp_path):
    pytest.importorskip("setuptools", minversion="77")  # reads the licence of pyproject.toml
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    command += ["sdist", "--dist-dir", str(tmp_path)]
    environment = {**os.environ, "IBNVISION_NATIVE": "0"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    wanted = {"setup.py", "CMakeLists.txt", "pyproject.toml", "Makefile", "LICENSE", "README.md"}
    wanted |= {"THIRD_PARTY.md", ".ci/run"}
    patterns = ("csrc/**/*.*", "ibnvision/**/*.py", "ibnvision/configs/*.toml", "configs/*.toml")
    for pattern in (*patterns, "tests/**/*.py"):
        files = [file.relative_to(ROOT).as_posix() for file in ROOT.glob(pattern)]
        assert files, pattern
        wanted |= set(files)
    assert not wanted - names
    assert not {name for name in names if name.endswith((".so", ".pyc", "_build.txt"))}
