"""Tensor cores and asynchronous copies: layouts against the PTX documentation, a tiled product.

The tables below are written from the PTX ISA (matrix fragments for mma.m16n8k16 with floating
point type; ldmatrix), not from the C++.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
LANES = range(32)


def _a_place(lane: int, i: int) -> tuple[int, int]:
    row = lane >> 2 if 0 <= i < 2 or 4 <= i < 6 else (lane >> 2) + 8
    column = (lane % 4) * 2 + (i & 1)
    return row, column if i < 4 else column + 8


def _b_place(lane: int, i: int) -> tuple[int, int]:
    row = (lane % 4) * 2 + (i & 1)
    return row if i < 2 else row + 8, lane >> 2


def _c_place(lane: int, i: int) -> tuple[int, int]:
    row = lane >> 2 if i < 2 else (lane >> 2) + 8
    return row, (lane % 4) * 2 + (i & 1)


def _fragments(matrices: Tensor, place: Callable[[int, int], tuple[int, int]], size: int) -> Tensor:
    """[blocks, rows, columns] -> [blocks, 32, size], the elements that each lane holds."""
    places = [place(lane, i) for lane in LANES for i in range(size)]
    rows, columns = map(list, zip(*places, strict=True))
    return matrices[:, rows, columns].view(len(matrices), 32, size).contiguous()


class _Arguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("a", "b", "c", "out")),
        ("blocks", ctypes.c_int),
    ]


class _Product(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in "abc"),
        *((name, ctypes.c_int) for name in ("m", "n", "k", "a_pitch", "b_pitch")),
    ]


def _call(function: Callable[..., int], *arguments: object, seed: int = 0) -> None:
    error = ctypes.create_string_buffer(500)
    if function(*arguments, ctypes.c_uint64(seed), error, ctypes.c_uint64(500)):
        raise RuntimeError(error.value.decode())


@dataclass(frozen=True)
class Backend:
    """Where the kernels run: `build(source)` gives the library, `device` holds the tensors."""

    build: Callable[[str], ctypes.CDLL]
    device: str

    def run(self, name: str, out: Tensor, *given: Tensor, blocks: int = 1, seed: int = 0) -> Tensor:
        held = [tensor.to(self.device) for tensor in (*given, out)]
        args = _Arguments(blocks=blocks, out=held[-1].data_ptr())
        for field, tensor in zip("abc", held[:-1], strict=False):
            setattr(args, field, tensor.data_ptr())
        library = self.build("tensor_core_kernels.cpp")
        _call(library.tensor_core_run, name.encode(), ctypes.byref(args), seed=seed)
        return held[-1].cpu()


@pytest.fixture(scope="module", params=["emulator", pytest.param("nvcc", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    if request.param == "emulator":
        return Backend(request.getfixturevalue("build_on_cpu"), "cpu")
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if nvcc is None or not torch.cuda.is_available():
        pytest.skip("no nvcc" if nvcc is None else "no CUDA device")
    folder = tmp_path_factory.mktemp("nvcc")
    flags = ["-std=c++20", "-arch=native", "-shared", "-Xcompiler", "-fPIC"]

    def build(source: str) -> ctypes.CDLL:
        made = folder / f"{source}.so"
        if not made.is_file():
            include = f"-I{HERE.parents[1] / 'csrc'}"
            command = [nvcc, *flags, include, "-x", "cu", str(HERE / source), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-4000:]
        return ctypes.CDLL(str(made))

    return Backend(build, "cuda")


def test_places_are_those_of_the_documentation(backend: Backend) -> None:
    found = backend.run("places", torch.full((32, 18, 2), -1, dtype=torch.int32))
    for lane in LANES:
        expected = [_a_place(lane, i) for i in range(8)]
        expected += [_b_place(lane, i) for i in range(4)]
        expected += [_c_place(lane, i) for i in range(4)]
        matrix, row = divmod(lane, 8)
        expected.append((row + 8 * (matrix in (1, 3)), 8 * (matrix in (2, 3))))
        expected.append((row + 8 * (matrix in (2, 3)), 8 * (matrix in (1, 3))))
        assert found[lane].tolist() == [list(place) for place in expected], lane


def _products(backend: Backend, dtype: str, a: Tensor, b: Tensor, c: Tensor, seed: int = 0):
    """a b + c for each block, from fragments by the tables to a matrix by the tables."""
    operand = DTYPES[dtype]
    parts = (
        _fragments(a.to(operand), _a_place, 8),
        _fragments(b.to(operand), _b_place, 4),
        _fragments(c.float(), _c_place, 4),
    )
    nan = torch.full((len(a), 32, 4), float("nan"))
    out = backend.run(f"mma {dtype}", nan, *parts, blocks=len(a), seed=seed)
    made = torch.full((len(a), 16, 8), float("nan"))
    for lane in LANES:
        for i in range(4):
            row, column = _c_place(lane, i)
            made[:, row, column] = out[:, lane, i]
    return made


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_of_the_mma_fragments(backend: Backend, dtype: str) -> None:
    a_units, b_units = torch.eye(256).view(256, 16, 16), torch.eye(128).view(128, 16, 8)
    a, b = torch.arange(256.0).view(1, 16, 16), torch.arange(1.0, 129).view(1, 16, 8)
    none = torch.zeros(256, 16, 8)
    found = _products(backend, dtype, a_units, b.expand(256, -1, -1), none)
    assert torch.equal(found, a_units @ b)
    found = _products(backend, dtype, a.expand(128, -1, -1), b_units, none[:128])
    assert torch.equal(found, a @ b_units)
    c = 1000.5 + torch.arange(128.0).view(1, 16, 8)
    assert torch.equal(_products(backend, dtype, 0 * a, 0 * b, c), c)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(5))
def test_mma_multiplies(backend: Backend, dtype: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (
        torch.randn(3, *shape, generator=generator).to(DTYPES[dtype]).double()
        for shape in ((16, 16), (16, 8), (16, 8))
    )
    found = _products(backend, dtype, a, b, c, seed)
    bound = 17 * 2.0**-23 * (a.abs() @ b.abs() + c.abs())  # a rounding per term, even if truncated
    assert ((found.double() - (a @ b + c)).abs() <= bound).all()


@pytest.mark.parametrize("matrices", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_element_of_ldmatrix(backend: Backend, matrices: int, transposed: bool) -> None:
    rows = torch.arange(64 * matrices, dtype=torch.int16) * 37 + 5
    name = f"ldmatrix x{matrices}" + " trans" * transposed
    registers = backend.run(name, torch.full((32, matrices), -1, dtype=torch.int32), rows)
    found = registers.view(torch.int16).view(32, matrices, 2)
    stored = rows.view(matrices, 8, 8)
    for lane in LANES:
        for matrix in range(matrices):
            for half in range(2):
                row, column = lane // 4, lane % 4 * 2 + half
                i, j = (column, row) if transposed else (row, column)
                assert found[lane, matrix, half] == stored[matrix, i, j], (lane, matrix, half)


@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.parametrize("seed", range(3))
def test_copies_fill_with_zeros(backend: Backend, size: int, seed: int) -> None:
    source = torch.arange(64 * size).remainder(251).add(1).to(torch.uint8).view(64, size)
    read = torch.arange(size) < torch.arange(64).view(-1, 1) % (size + 1)
    found = backend.run(f"copies {size}", torch.full_like(source, 255), source, seed=seed)
    assert torch.equal(found, source * read)


SHAPES = [(32, 32, 32), (16, 8, 16), (1, 1, 1), (45, 70, 96), (33, 31, 37), (7, 100, 65)]


def _product(
    function: Callable[..., int],
    dtype: str,
    shape: tuple[int, int, int],
    multiple: int = 8,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """One product against float64; rows are `multiple` elements and padded with NaN."""
    m, n, k = shape
    generator = torch.Generator().manual_seed(seed)

    def padded(rows: int, columns: int) -> Tensor:
        pitch = -(-columns // multiple) * multiple
        matrix = torch.full((rows, pitch), float("nan"), dtype=DTYPES[dtype])
        matrix[:, :columns] = torch.randn(rows, columns, generator=generator)
        return matrix.to(device)

    a, b = padded(m, k), padded(k, n)
    c = torch.full((m, n), float("nan"), device=device)
    pointers = (a.data_ptr(), b.data_ptr(), c.data_ptr())
    product = _Product(*pointers, m, n, k, a.shape[1], b.shape[1])
    half = ctypes.c_bool(dtype == "float16")
    _call(function, ctypes.byref(product), half, seed=seed)
    a, b = a[:, :k].double(), b[:, :n].double()
    bound = (k + 1) * 2.0**-23 * (a.abs() @ b.abs())
    assert ((c.double() - a @ b).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("multiple", [2, 4, 8])  # copies of 4, 8 and 16 bytes
def test_tiled_product(
    backend: Backend, dtype: str, shape: tuple[int, int, int], multiple: int
) -> None:
    function = backend.build("tensor_core_gemm.cpp").tensor_core_gemm
    _product(function, dtype, shape, multiple, device=backend.device)


@pytest.mark.parametrize("seed", range(5))
def test_no_schedule_changes_the_product(backend: Backend, seed: int) -> None:
    function = backend.build("tensor_core_gemm.cpp").tensor_core_gemm
    _product(function, "bfloat16", (45, 40, 100), seed=seed, device=backend.device)


RACE = "race on shared memory: .* at planted.cpp"
PLANTED = {  # what stands in tensor_core_gemm.cpp, the defect, what is reported if not the result
    "swapped registers of b": (
        "{b_part[2 * half], b_part[2 * half + 1]}",
        "{b_part[2 * half + 1], b_part[2 * half]}",
        "",
    ),
    "swapped registers of a": (
        "      ldmatrix(a_part, a_tile + k);\n",
        "      ldmatrix(a_part, a_tile + k);\n"
        "      const uint32_t kept = a_part[1];\n"
        "      a_part[1] = a_part[2], a_part[2] = kept;\n",
        "",
    ),
    "swapped elements of c": ("place_in_c(lane, i % 4)", "place_in_c(lane, i % 4 ^ 1)", ""),
    "trans forgotten": ("ldmatrix_trans(b_part", "ldmatrix(b_part", ""),
    "trans too many": ("ldmatrix(a_part", "ldmatrix_trans(a_part", ""),
    "missing wait": ("    cp_async_wait_group<1>();\n", "", ""),
    "wait for too few": ("cp_async_wait_group<1>", "cp_async_wait_group<2>", ""),
    "missing barrier after the wait": (
        "    __syncthreads();  // every thread's copies of this stage are there\n",
        "",
        RACE,
    ),
    "missing barrier before the next copies": (
        "    __syncthreads();  // no thread still reads what the next copies overwrite\n",
        "",
        RACE,
    ),
    "barrier before the wait": (
        "    cp_async_wait_group<1>();\n    __syncthreads();",
        "    __syncthreads();\n    cp_async_wait_group<1>();",
        RACE,
    ),
    "commit before the copies": (
        "    if (stage + 1 < stages) load(stage + 1);\n    cp_async_commit_group();\n",
        "    cp_async_commit_group();\n    if (stage + 1 < stages) load(stage + 1);\n",
        "",
    ),
    "missing commit": ("  load(0);\n  cp_async_commit_group();\n", "  load(0);\n", ""),
    "one buffer": ("stage % 2", "0", ""),
    "missing zero fill": ("count * 2);", "kBytes);", ""),
    "misaligned rows": ("kTile + 8;", "kTile + 4;", "must be a multiple of 16 bytes"),
}


@pytest.fixture(scope="module")
def planted(build_on_cpu, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """One library of the sound source and all defects, each in a namespace of its own."""
    text = (HERE / "tensor_core_gemm.cpp").read_text()
    includes = "".join(line for line in text.splitlines(True) if line.startswith("#include"))
    sound = text.replace(includes, "")
    parts = [includes]
    for number, (old, new, _) in enumerate([("NAME", "NAME", ""), *PLANTED.values()]):
        body = sound.replace("tensor_core_gemm(", "NAME(")
        body = body.replace("__nv_bfloat16", "__half")  # half as much to compile
        assert body.count(old) == 1, f"tensor_core_gemm.cpp no longer has one {old!r}"
        body = body.replace(old, new).replace("NAME(", f"tensor_core_gemm_{number}(")
        parts.append(f"namespace planted_{number} {{\n{body}}}\n")
    source = tmp_path_factory.mktemp("planted") / "planted.cpp"
    source.write_text("".join(parts))
    return build_on_cpu(str(source))


def _planted_product(planted: ctypes.CDLL, number: int, seed: int) -> None:
    _product(planted[f"tensor_core_gemm_{number}"], "float16", (45, 40, 100), seed=seed)


def test_nothing_planted_nothing_caught(planted: ctypes.CDLL) -> None:
    for seed in range(5):
        _planted_product(planted, 0, seed)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_caught(planted: ctypes.CDLL, name: str) -> None:
    report = PLANTED[name][2]
    for seed in range(2):
        with pytest.raises(RuntimeError if report else AssertionError, match=report or None):
            _planted_product(planted, 1 + list(PLANTED).index(name), seed)


@pytest.fixture(scope="module")
def mistake(build_on_cpu) -> Callable[[str], list[int]]:
    library = build_on_cpu("tensor_core_mistakes.cpp")

    def run(name: str) -> list[int]:
        given = torch.arange(10, 74, dtype=torch.int32)
        out = torch.zeros(32, dtype=torch.int32)
        pointers = (ctypes.c_void_p(t.data_ptr()) for t in (given, out))
        _call(library.tensor_core_mistake, name.encode(), *pointers)
        return out.tolist()

    return run


def test_copies_arrive_with_the_wait_for_their_group(mistake) -> None:
    found = mistake("groups")
    assert [found[i : i + 4] for i in range(0, 24, 4)] == [
        [-1, -1, -1, -1],
        [10, 11, -1, -1],  # all but the latest of three
        [10, 11, 12, -1],  # all but the latest two, of which one is empty
        [10, 11, 12, 13],
        [-1, 11, 12, 13],  # no group holds the new copy
        [14, 11, 12, 13],
    ]


def test_a_copy_ends_with_its_thread(mistake) -> None:
    assert mistake("abandoned")[0] == -1


def test_a_warp_barrier_orders_the_rows_of_ldmatrix(mistake) -> None:
    assert mistake("ldmatrix in order") == [lane // 4 ^ 1 for lane in LANES]  # row r holds r ^ 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ldmatrix alignment", "row of ldmatrix must be a multiple of 16 bytes"),
        ("ldmatrix place", "row of ldmatrix must lie in shared memory"),
        ("ldmatrix end", "row of ldmatrix must lie in shared memory"),
        ("ldmatrix lanes", r"thread \(9, 0, 0\)"),
        ("ldmatrix order", "race on shared memory: .* at tensor_core_mistakes.cpp"),
        ("ldmatrix of a short warp", "ldmatrix needs all 32 lanes of a warp"),
        ("mma lanes", r"thread \((1[6-9]|2\d|3[01]), 0, 0\)"),
        ("copy from alignment", "source of cp.async must be a multiple of its size"),
        ("copy to alignment", "destination of cp.async must be a multiple of 16 bytes"),
        ("copy place", "destination of cp.async must lie in shared memory"),
        ("copy end", "destination of cp.async must lie in shared memory"),
        ("copy source", "source of cp.async must lie in global memory"),
        ("copy size", "cp.async cannot read 5 bytes"),
    ],
)
def test_a_misuse_is_reported(mistake, name: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        mistake(name)
