"""make cuda-check reads what the toolkit prints and lets no growth, spill or broken claim pass."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

spec = importlib.util.spec_from_file_location("cuda_check", ROOT / "benchmarks/cuda_check.py")
cuda_check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cuda_check)
Usage, Claim = cuda_check.Usage, cuda_check.Claim

MANGLED = "_ZN4blur11blur_kernelIfLNS_4StepE1EEEvPKfPf"
COPY = "_ZN4blur11copy_kernelEPKfPf"

PTXAS = f"""ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{MANGLED}' for 'sm_90'
ptxas info    : Function properties for {MANGLED}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 60 registers, used 1 barriers, 144 bytes smem, 744 bytes cmem[0]
ptxas info    : Compile time = 57.931 ms
ptxas info    : Compiling entry function '{COPY}' for 'sm_90'
ptxas info    : Function properties for {COPY}
    48 bytes stack frame, 44 bytes spill stores, 52 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
ptxas info    : Function properties for __internal_accurate_pow
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""

PTX = f"""
.visible .entry {MANGLED}(
	.param .align 8 .b8 {MANGLED}_param_0[280]
)
.maxntid 8, 64, 1
.minnctapersm 2
{{
	.reg .pred 	%p<334>;
}}
.visible .entry {COPY}(
	.param .u64 {COPY}_param_0
)
{{
	ret;
}}
"""

SASS = f"""
	code for sm_90
		Function : {MANGLED}
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                 /* 0x00000a00ff017b82 */
                                                                          /* 0x000fe20000000800 */
        /*0010*/              @!P1 LDG.E.128.CONSTANT R4, [R2.64] ;       /* 0x00005ff000047b82 */
        /*1a20*/              @UP0 UMOV UR4, 0x10 ;                       /* 0x0000001000047882 */
        /*1a30*/                   STG.E.128 [R8.64], R4 ;                /* 0x0000000408007986 */
		..........
		Function : {COPY}
        /*0000*/                   LDL.64 R2, [R1+0x8] ;                  /* 0x0000080001027983 */
        /*0010*/                   LDG.E.64 R4, [R2.64] ;                 /* 0x0000000402047981 */
"""

SOURCE = """
enum class Step { whole, part };

// Blurs.
// SASS: 128-bit loads, 128-bit stores except Step::whole
template <typename scalar_t, Step kStep>
__global__ void __launch_bounds__(kTile * (4 + 4), 2)
    blur_kernel(const scalar_t* x, scalar_t* y) {}

// SASS: no local memory
__global__ void copy_kernel(const float* x, float* y) {}
"""

BLUR = Usage("blur_kernel<float, Step::part>", "sm_90", threads=512, registers=60, shared_bytes=144)
BLUR_CODE = frozenset({"LDC", "LDG.E.128.CONSTANT", "UMOV", "STG.E.128"})
WHOLE = replace(BLUR, kernel="blur_kernel<float, Step::whole>")
COPIER = Usage("copy_kernel", "sm_90", threads=1024, registers=32)
ROWS = (BLUR, WHOLE, COPIER)


def faults(usage=BLUR, code=BLUR_CODE, source=SOURCE, rows=ROWS, copier_code=("LDG.E",)):
    """Of a build of three kernels, the first of which may be another."""
    operations = {(i.kernel, i.arch): BLUR_CODE - {"STG.E.128"} for i in ROWS}
    operations |= {(BLUR.kernel, "sm_90"): code, (COPIER.kernel, "sm_90"): copier_code}
    return cuda_check.check([usage, WHOLE, COPIER], operations, source, rows)


def test_ptxas_output_is_read_kernel_by_kernel():
    assert cuda_check.parse_ptxas(PTXAS) == {
        MANGLED: dict(
            stack_bytes=0,
            spill_store_bytes=0,
            spill_load_bytes=0,
            registers=60,
            shared_bytes=144,
        ),
        COPY: dict(stack_bytes=48, spill_store_bytes=44, spill_load_bytes=52, registers=255),
    }


def test_launch_bounds_are_read_from_ptx():
    assert cuda_check.parse_threads(PTX) == {MANGLED: 512, COPY: 1024}


def test_instructions_are_read_without_operands_and_predicates():
    assert cuda_check.parse_sass(SASS) == {MANGLED: BLUR_CODE, COPY: {"LDL.64", "LDG.E.64"}}


@pytest.mark.parametrize(
    "demangled, short",
    [
        ("void blur::blur_kernel<float, (blur::Step)1>(float const*, float*)", BLUR.kernel),
        ("void blur::blur_kernel<__half, (blur::Step)7>(int)", "blur_kernel<__half, (Step)7>"),
        ("blur::(anonymous namespace)::copy_kernel(blur::Args)", "copy_kernel"),
        ("void gemm_kernel<a::Tile<4, true> >(a::Tile<4, true>)", "gemm_kernel<Tile<4, true> >"),
    ],
)
def test_short_name(demangled, short):
    assert cuda_check.short_name(demangled, cuda_check.read_enums(SOURCE)) == short


def test_claims_are_read_from_the_comment_above_the_kernel():
    claims, wrong = cuda_check.read_claims(SOURCE)
    whole = frozenset({"Step::whole"})
    assert wrong == []
    assert claims == {
        "blur_kernel": [Claim("128-bit loads"), Claim("128-bit stores", but=whole)],
        "copy_kernel": [Claim("no local memory")],
    }


@pytest.mark.parametrize(
    "registers, threads, blocks",
    [(32, 1024, 2), (33, 1024, 1), (64, 512, 2), (65, 512, 1), (40, 384, 4), (41, 384, 3)],
)
def test_resident_blocks(registers, threads, blocks):
    # 40: 48 warps = 4 blocks of 12; 41 takes 48 registers: 40 warps = 3 blocks
    assert Usage("k", "sm_90", threads, registers).blocks == blocks


def test_what_is_recorded_passes_and_so_does_less():
    assert faults() == []
    assert faults(replace(BLUR, registers=50, shared_bytes=0)) == []
    assert faults(replace(BLUR, registers=64, shared_bytes=144 + 1024)) == []


@pytest.mark.parametrize(
    "usage, message",
    [
        (
            replace(BLUR, registers=69),
            "blur_kernel<float, Step::part> on sm_90 may use 8 registers more than the recorded "
            "60, got 69",
        ),
        (
            replace(BLUR, registers=65),
            "blur_kernel<float, Step::part> on sm_90: 65 registers, recorded 60, leave 1 blocks of "
            "512 threads on a multiprocessor, recorded 2",
        ),
        (
            replace(BLUR, shared_bytes=144 + 1025),
            "blur_kernel<float, Step::part> on sm_90 may use 1024 bytes of static shared memory "
            "more than the recorded 144, got 1169",
        ),
    ],
    ids=["registers", "occupancy", "shared"],
)
def test_a_growth_fails(usage, message):
    assert faults(usage) == [message]
    assert faults(usage, rows=None) == []  # another nvcc


@pytest.mark.parametrize("rows", [None, ROWS], ids=["unknown nvcc", "recorded nvcc"])
@pytest.mark.parametrize(
    "usage, code, message",
    [
        (
            replace(BLUR, spill_store_bytes=44, spill_load_bytes=52),
            BLUR_CODE,
            "must not spill registers: 44 bytes stored, 52 loaded",
        ),
        (replace(BLUR, stack_bytes=48), BLUR_CODE, "must have no stack frame, got 48 bytes"),
        (BLUR, BLUR_CODE | {"STL.64", "LDL"}, "must not touch local memory, got LDL, STL.64"),
        (BLUR, BLUR_CODE - {"STG.E.128"}, "claims 128-bit stores, but its code has none"),
        (
            BLUR,
            BLUR_CODE - {"LDG.E.128.CONSTANT"} | {"LDG.E.64"},
            "claims 128-bit loads, but its code has none",
        ),
    ],
    ids=["spill", "stack", "local memory", "stores", "loads"],
)
def test_what_no_kernel_may_do_fails_whatever_is_recorded(usage, code, message, rows):
    assert faults(usage, code, rows=rows) == [f"{BLUR.kernel} on sm_90 {message}"]


def test_a_spill_of_the_recorded_size_still_fails():
    spilling = replace(BLUR, spill_store_bytes=4, spill_load_bytes=4)
    assert len(faults(spilling, rows=(spilling, WHOLE, COPIER))) == 1


def test_claims_may_name_the_instantiations_meant():
    source = SOURCE.replace("except Step::whole", "for Step::part")
    assert faults(source=source) == []
    lost = f"{BLUR.kernel} on sm_90 claims 128-bit stores, but its code has none"
    assert faults(code=BLUR_CODE - {"STG.E.128"}, source=source) == [lost]
    assert faults(source=source.replace("Step::part", "Step::parts")) == [
        "blur_kernel: '128-bit stores' names Step::parts, which no .cu instantiates it with"
    ]


@pytest.mark.parametrize(
    "instruction, claim",
    [
        ("HMMA.16816.F32.BF16", "tensor cores"),
        ("HGMMA.64x64x16.F32", "tensor cores"),
        ("LDGSTS.E.BYPASS.128", "asynchronous copies"),
        ("LDGSTS.E.BYPASS.128", "128-bit loads"),
    ],
)
def test_other_claims(instruction, claim):
    source = SOURCE.replace("no local memory", claim)
    assert faults(source=source, copier_code={instruction}) == []
    message = f"copy_kernel on sm_90 claims {claim}, but its code has none"
    assert faults(source=source, copier_code={"FFMA", "LDG.E", "LDS.128"}) == [message]


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "// SASS: no local memory\n",
            "",
            "copy_kernel has no line '// SASS: ...' in the comment above it",
        ),
        (
            "no local memory",
            "128-bit load",
            "copy_kernel may claim no local memory, 128-bit loads, 128-bit stores, asynchronous "
            "copies, tensor cores; got 128-bit load; did you mean 128-bit loads?",
        ),
        (
            "copy_kernel",
            "move_kernel",
            "move_kernel is instantiated in no .cu",
        ),
    ],
    ids=["missing", "misspelt", "not compiled"],
)
def test_a_wrong_claim_line_fails(old, new, message):
    assert message in faults(source=SOURCE.replace(old, new))


def test_a_kernel_that_the_sources_do_not_show_fails():
    source = SOURCE.replace("copy_kernel", "move_kernel")
    message = "copy_kernel is compiled, but no '// SASS: ...' line of csrc/ is about it"
    assert message in faults(source=source)


def test_an_unknown_kernel_and_a_row_of_a_removed_one_fail():
    old = replace(COPIER, kernel="old_kernel")
    assert faults(rows=(WHOLE, COPIER, old)) == [
        "blur_kernel<float, Step::part> on sm_90 has no row in ptxas.jsonl",
        "old_kernel on sm_90 has a row, but is no longer compiled",
    ]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A source folder of two kernels whose build is given; build.usages may be changed."""
    folder = tmp_path / "csrc/blur"
    folder.mkdir(parents=True)
    (folder / "blur_kernels.cuh").write_text(SOURCE)
    (folder / "blur_cuda.cu").write_text("")

    class Build:
        usages = ROWS
        rows = tmp_path / "ptxas.jsonl"

    def measure(nvcc, cuobjdump, enums, file, arch):
        usages = [replace(usage, arch=arch) for usage in Build.usages]
        return usages, {(usage.kernel, arch): BLUR_CODE for usage in usages}

    monkeypatch.setattr(cuda_check, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_check, "RECORDED", Build.rows)
    monkeypatch.setattr(cuda_check, "find_tool", lambda name, beside="": name)
    monkeypatch.setattr(cuda_check, "run", lambda *_: "Cuda compilation tools, V13.2.86")
    monkeypatch.setattr(cuda_check, "measure", measure)
    return Build


def test_record_then_compare(build, capsys):
    assert cuda_check.main([]) == 0
    assert "has rows of nvcc no version, not of 13.2.86: growth is not" in capsys.readouterr().out
    assert cuda_check.main(["--recorded"]) == 1
    assert not build.rows.exists()
    build.rows.write_text(json.dumps({"nvcc": "12.9.1", **vars(COPIER)}) + "\n")
    assert cuda_check.main(["--record"]) == 0
    rows = [json.loads(line) for line in build.rows.read_text().splitlines()]
    assert [(row["nvcc"], row["arch"], row["registers"]) for row in rows] == [
        ("12.9.1", "sm_90", 32),
        *(("13.2.86", arch, number) for arch in cuda_check.ARCHS for number in (60, 60, 32)),
    ]
    assert cuda_check.main(["--recorded"]) == 0
    assert "6 kernels pass, nvcc 13.2.86" in capsys.readouterr().out
    build.usages = [replace(BLUR, registers=80), WHOLE, COPIER]
    assert cuda_check.main(["--recorded"]) == 1
    assert "sm_80 may use 8 registers more than the recorded 60, got 80" in capsys.readouterr().out
    assert cuda_check.main(["--record"]) == 0
    assert cuda_check.main(["--recorded"]) == 0


def test_a_spill_cannot_be_recorded(build):
    build.usages = [replace(BLUR, spill_load_bytes=4), WHOLE, COPIER]
    assert cuda_check.main(["--record"]) == 1
    assert not build.rows.exists()


def test_a_missing_toolkit_fails(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cuda_check.shutil, "which", lambda _: None)
    monkeypatch.delenv("CUDACXX", raising=False)
    assert cuda_check.main([]) == 2
    assert "nvcc was not found; CONTRIBUTING.md says how" in capsys.readouterr().out
    assert cuda_check.main(["--nvcc", str(tmp_path / "nvcc")]) == 2
    assert "cuobjdump was not found; CONTRIBUTING.md" in capsys.readouterr().out


def test_every_kernel_of_this_package_has_a_claim_and_rows():
    source = "\n".join(path.read_text() for path in sorted((ROOT / "csrc").rglob("*.cu*")))
    claims, wrong = cuda_check.read_claims(source)
    assert wrong == []
    assert len(claims) == source.count("__global__ ") > 0
    recorded = cuda_check.read_rows(cuda_check.RECORDED)
    assert recorded
    for rows in recorded.values():
        assert {row.arch for row in rows} == set(cuda_check.ARCHS)
        assert {cuda_check.name_and_arguments(row.kernel)[0] for row in rows} == claims.keys()
        assert not [fault for row in rows for fault in cuda_check.code_faults(row, (), ())]
