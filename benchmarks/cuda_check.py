"""Does the machine code of every CUDA kernel keep its budget and its claims?   make cuda-check

Compiles csrc/*/*.cu for sm_80 and sm_90 and needs no GPU. Always a fault: a register spill, a stack
frame, a local-memory instruction, a kernel without a claim, a claim that its code does not keep.
Compared with the rows that results/ptxas.jsonl holds for the same nvcc: registers may grow by
REGISTERS_MORE as long as as many blocks stay resident, static shared memory by SHARED_MORE_BYTES.

A claim is one line of the comment above a kernel, about all its instantiations or some of them:
    // SASS: 128-bit loads, 128-bit stores except Step::part, tensor cores for __half __nv_bfloat16
A kernel of which nothing more is to be said claims `no local memory`.
"""

import argparse
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "benchmarks/results/ptxas.jsonl"
ARCHS = ("sm_80", "sm_90")
FLAGS = ("-std=c++20", "-O3", "-DNDEBUG", "-cubin", "-Xptxas", "-v", "--keep")

REGISTERS_MORE = 8
SHARED_MORE_BYTES = 1024
LOCAL_MEMORY = re.compile(r"(?:LDL|STL)\b")
CLAIMS = {  # what it says: the instructions of which the code must hold one
    "no local memory": re.compile(""),  # demanded of all
    "128-bit loads": re.compile(r"(?:LDG|LDGSTS)\.(?:\w+\.)*128\b"),
    "128-bit stores": re.compile(r"STG\.(?:\w+\.)*128\b"),
    "asynchronous copies": re.compile(r"(?:LDGSTS|UBLKCP)\b"),
    "tensor cores": re.compile(r"(?:HMMA|HGMMA)\b"),
}


@dataclass(frozen=True)
class Usage:
    """What ptxas gave a kernel; `threads` is the largest block that its launch bounds allow."""

    kernel: str
    arch: str
    threads: int
    registers: int
    shared_bytes: int = 0
    stack_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor holds: 2048 threads, 65536 registers in four parts."""
        warps = -(-self.threads // 32)
        held = 4 * (512 // (-(-max(self.registers, 1) // 8) * 8))
        return min(held, 2048 // 32) // warps


@dataclass(frozen=True)
class Claim:
    """`only` and `but` name template arguments of the instantiations meant; empty for all."""

    text: str
    only: frozenset[str] = frozenset()
    but: frozenset[str] = frozenset()

    def holds_for(self, arguments: frozenset[str]) -> bool:
        return not arguments & self.but and (not self.only or bool(arguments & self.only))


Operations = dict[tuple[str, str], frozenset[str]]  # (kernel, architecture) -> instructions


def parse_ptxas(text: str) -> dict[str, dict[str, int]]:
    """Mangled kernel name -> fields of Usage, from the output of `ptxas -v`.

    What a kernel calls counts for the kernel: ptxas reports such functions behind it.
    """
    found: dict[str, dict[str, int]] = {}
    fields: dict[str, int] = {}
    patterns = {
        "stack_bytes": r"(\d+) bytes stack frame",
        "spill_store_bytes": r"(\d+) bytes spill stores",
        "spill_load_bytes": r"(\d+) bytes spill loads",
        "registers": r"Used (\d+) registers",
        "shared_bytes": r"(\d+) bytes smem",
    }
    for line in text.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)'", line):
            fields = found[entry[1]] = {}
        for name, pattern in patterns.items():
            if number := re.search(pattern, line):
                fields[name] = max(fields.get(name, 0), int(number[1]))
    return found


def parse_threads(ptx: str) -> dict[str, int]:
    """Mangled kernel name -> threads of its launch bounds, 1024 where there are none."""
    threads = {}
    for name, head in re.findall(r"\.entry (\w+)\((.*?)^\{", ptx, re.M | re.S):
        bounds = re.search(r"^\.maxntid (\d+)(?:, (\d+))?(?:, (\d+))?", head, re.M)
        x, y, z = (int(size or 1) for size in bounds.groups()) if bounds else (1024, 1, 1)
        threads[name] = x * y * z
    return threads


def parse_sass(text: str) -> dict[str, frozenset[str]]:
    """Mangled kernel name -> its instructions without operands, from `cuobjdump -sass`."""
    _, *parts = re.split(r"^\s*Function : (\w+)$", text, flags=re.M)
    operation = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", re.M)
    return {
        name: frozenset(operation.findall(code))
        for name, code in zip(parts[::2], parts[1::2], strict=True)
    }


def short_name(demangled: str, enums: dict[str, Sequence[str]]) -> str:
    """`name<arguments>` without result, parameters and namespaces; enumerators by their names."""
    text = demangled.replace("(anonymous namespace)::", "")
    depth = 0
    for end, letter in enumerate(text):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            text = text[:end]
            break
    text = re.sub(r"\b\w+::", "", text.removeprefix("void "))

    def enumerator(cast: re.Match[str]) -> str:
        names = enums.get(cast[1], ())
        number = int(cast[2])
        return f"{cast[1]}::{names[number]}" if number < len(names) else cast[0]

    return re.sub(r"\((\w+)\)(\d+)", enumerator, text)


def name_and_arguments(kernel: str) -> tuple[str, frozenset[str]]:
    """A short name in its parts: the kernel's, and its template arguments."""
    name, _, arguments = kernel.removesuffix(">").partition("<")
    return name, frozenset(i.strip() for i in arguments.split(",") if i.strip())


def read_enums(source: str) -> dict[str, Sequence[str]]:
    """Enumerators of every enum class that counts from 0."""
    return {
        name: re.findall(r"\w+", body)
        for name, body in re.findall(r"\benum class (\w+)[^;{]*\{([^}=]*)\}", source)
    }


def read_claims(source: str) -> tuple[dict[str, list[Claim]], list[str]]:
    """Kernel name -> claims of the comment above it, and what is wrong with the lines."""
    bounds = r"(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?"
    kernel = re.compile(
        r"(?P<comment>(?:^//.*\n)*)(?:^template\s*<[^;{]*?>\s*)?"
        rf"^(?:\w+ )*__global__\s+{bounds}void\s+{bounds}(?P<name>\w+)\s*\(",
        re.M,
    )
    claims: dict[str, list[Claim]] = {}
    faults = []
    for found in kernel.finditer(source):
        name = found["name"]
        made = claims.setdefault(name, [])
        lines = re.findall(r"^// SASS: (.*)$", found["comment"], re.M)
        if not lines:
            faults.append(f"{name} has no line '// SASS: ...' in the comment above it")
        for item in (item for line in lines for item in line.split(", ")):
            text, _, only = item.partition(" for ")
            text, _, but = text.partition(" except ")
            if text in CLAIMS:
                made.append(Claim(text, frozenset(only.split()), frozenset(but.split())))
                continue
            near = difflib.get_close_matches(text, CLAIMS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            faults.append(f"{name} may claim {', '.join(CLAIMS)}; got {text}{hint}")
    return claims, faults


def code_faults(usage: Usage, operations: Iterable[str], claims: Iterable[Claim]) -> Iterator[str]:
    """What no kernel may do, and which claims its code does not keep."""
    where = f"{usage.kernel} on {usage.arch}"
    if usage.spill_store_bytes or usage.spill_load_bytes:
        yield (
            f"{where} must not spill registers: {usage.spill_store_bytes} bytes stored, "
            f"{usage.spill_load_bytes} loaded"
        )
    if usage.stack_bytes:
        yield f"{where} must have no stack frame, got {usage.stack_bytes} bytes"
    local = sorted(i for i in operations if LOCAL_MEMORY.match(i))
    if local:
        yield f"{where} must not touch local memory, got {', '.join(local)}"
    arguments = name_and_arguments(usage.kernel)[1]
    for claim in claims:
        kept = any(CLAIMS[claim.text].match(i) for i in operations)
        if claim.holds_for(arguments) and not kept:
            yield f"{where} claims {claim.text}, but its code has none"


def growth_faults(usage: Usage, recorded: Usage | None) -> Iterator[str]:
    """Where a kernel needs more than its row of the same nvcc and architecture allows."""
    where = f"{usage.kernel} on {usage.arch}"
    if recorded is None:
        yield f"{where} has no row in {RECORDED.name}"
        return
    if usage.registers > recorded.registers + REGISTERS_MORE:
        yield (
            f"{where} may use {REGISTERS_MORE} registers more than the recorded "
            f"{recorded.registers}, got {usage.registers}"
        )
    elif usage.registers > recorded.registers and usage.blocks < recorded.blocks:
        yield (
            f"{where}: {usage.registers} registers, recorded {recorded.registers}, leave "
            f"{usage.blocks} blocks of {usage.threads} threads on a multiprocessor, recorded "
            f"{recorded.blocks}"
        )
    if usage.shared_bytes > recorded.shared_bytes + SHARED_MORE_BYTES:
        yield (
            f"{where} may use {SHARED_MORE_BYTES} bytes of static shared memory more than the "
            f"recorded {recorded.shared_bytes}, got {usage.shared_bytes}"
        )


def claim_faults(claims: dict[str, list[Claim]], kernels: Iterable[str]) -> Iterator[str]:
    """Claims of kernels, or about template arguments, that no .cu instantiates."""
    instantiated: dict[str, frozenset[str]] = {}
    for kernel in kernels:
        name, arguments = name_and_arguments(kernel)
        instantiated[name] = instantiated.get(name, frozenset()) | arguments
    for name, made in claims.items():
        if name not in instantiated:
            yield f"{name} is instantiated in no .cu"
            continue
        for claim in made:
            for unknown in sorted((claim.only | claim.but) - instantiated[name]):
                yield f"{name}: '{claim.text}' names {unknown}, which no .cu instantiates it with"
    for name in sorted(instantiated.keys() - claims.keys()):
        yield f"{name} is compiled, but no '// SASS: ...' line of csrc/ is about it"


def check(
    usages: Sequence[Usage],
    operations: Operations,
    source: str,
    rows: Sequence[Usage] | None,
) -> list[str]:
    """All faults. `rows` None: this nvcc has no rows, so that only the absolute rules hold."""
    claims, faults = read_claims(source)
    faults += claim_faults(claims, [i.kernel for i in usages])
    for usage in usages:
        mine = claims.get(name_and_arguments(usage.kernel)[0], [])
        faults += code_faults(usage, operations[usage.kernel, usage.arch], mine)
    if rows is not None:
        recorded = {(i.kernel, i.arch): i for i in rows}
        for usage in usages:
            faults += growth_faults(usage, recorded.pop((usage.kernel, usage.arch), None))
        faults += [f"{k} on {arch} has a row, but is no longer compiled" for k, arch in recorded]
    return faults


def find_tool(name: str, beside: str = "") -> str:
    """A program of the toolkit: beside another, of CUDA_HOME, of PyPI, of the path.

    Raises: FileNotFoundError that says how to get it.
    """
    home = os.environ.get("CUDA_HOME")
    site = Path(sysconfig.get_path("platlib"))
    candidates = [beside and Path(beside).parent / name, home and Path(home, "bin", name)]
    candidates += [*sorted(site.glob(f"nvidia/cu*/bin/{name}")), Path(name)]
    candidates += [Path("/usr/local/cuda/bin", name)]
    candidates += [site / "triton/backends/nvidia/bin" / name]  # comes with torch, without nvcc
    for candidate in candidates:
        found = candidate and shutil.which(candidate)
        if found:
            return found
    raise FileNotFoundError(
        f"{name} was not found; CONTRIBUTING.md says how PyPI's cuda-toolkit brings it"
    )


def run(*command: str | Path) -> str:
    """Output and errors of a command; RuntimeError with both when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed:\n{done.stdout}")
    return done.stdout


def measure(
    nvcc: str, cuobjdump: str, enums: dict[str, Sequence[str]], file: Path, arch: str
) -> tuple[list[Usage], Operations]:
    """Usage and instructions of every kernel of one file for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernels.cubin")
        command = (nvcc, *FLAGS, "--keep-dir", folder, f"-arch={arch}", f"-I{ROOT / 'csrc'}")
        resources = parse_ptxas(run(*command, file, "-o", cubin))
        threads = parse_threads(Path(folder, f"{file.stem}.ptx").read_text())
        sass = parse_sass(run(cuobjdump, "-sass", cubin))
    if not resources or not resources.keys() == threads.keys() == sass.keys():
        raise RuntimeError(f"ptxas, PTX and cuobjdump must tell the same kernels of {file}")
    names = dict(zip(resources, run("c++filt", *resources).splitlines(), strict=True))
    short = {mangled: short_name(name, enums) for mangled, name in names.items()}
    usages = [Usage(short[i], arch, threads[i], **fields) for i, fields in resources.items()]
    return usages, {(short[i], arch): sass[i] for i in resources}


def read_rows(path: Path) -> dict[str, list[Usage]]:
    """nvcc version -> recorded rows; {} where there is no file."""
    rows: dict[str, list[Usage]] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        fields = json.loads(line)
        rows.setdefault(fields.pop("nvcc"), []).append(Usage(**fields))
    return rows


def write_rows(path: Path, rows: dict[str, list[Usage]]) -> None:
    """One line a row, by version, architecture and kernel; whole or not at all."""
    lines = [
        json.dumps({"nvcc": nvcc, **asdict(usage)}) + "\n"
        for nvcc in sorted(rows)
        for usage in sorted(rows[nvcc], key=lambda i: (i.arch, i.kernel))
    ]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(lines))
    temporary.replace(path)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--nvcc", help="default: of CUDACXX, CUDA_HOME, PyPI's toolkit, the path")
    parser.add_argument("--record", action="store_true", help="rewrite the rows of this nvcc")
    parser.add_argument("--recorded", action="store_true", help="fail where this nvcc has no rows")
    args = parser.parse_args(argv)
    try:
        return judge(args)
    except (FileNotFoundError, RuntimeError) as error:
        print(f"fault: {error}")
        return 2


def judge(args: argparse.Namespace) -> int:
    nvcc = args.nvcc or os.environ.get("CUDACXX") or find_tool("nvcc")
    cuobjdump = find_tool("cuobjdump", beside=nvcc)
    version = re.findall(r"\bV([\d.]+)", run(nvcc, "--version"))[0]
    source = "\n".join(path.read_text() for path in sorted((ROOT / "csrc").rglob("*.cu*")))
    enums = read_enums(source)
    jobs = [(file, arch) for file in sorted(ROOT.glob("csrc/*/*.cu")) for arch in ARCHS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = list(pool.map(lambda job: measure(nvcc, cuobjdump, enums, *job), jobs))
    for (file, arch), (usages, _) in zip(jobs, measured, strict=True):
        most = max(usage.registers for usage in usages)
        print(f"{arch} {file.name}: {len(usages)} kernels, at most {most} registers")
    usages = [usage for some, _ in measured for usage in some]
    operations = {key: value for _, some in measured for key, value in some.items()}

    rows = read_rows(RECORDED)
    mine = rows.get(version)
    faults = check(usages, operations, source, None if args.record else mine)
    if mine is None and not args.record:
        known = ", ".join(rows) or "no version"
        lack = f"{RECORDED.name} has rows of nvcc {known}, not of {version}"
        if args.recorded:
            faults.append(lack)
        else:
            print(f"{lack}: growth is not judged")
    for fault in faults:
        print(f"fault: {fault}")
    if faults:
        print("a growth or a change of kernels that is meant to be: make cuda-check ARGS=--record")
        return 1
    if args.record:
        write_rows(RECORDED, rows | {version: usages})
    print(f"{len(usages)} kernels {'recorded' if args.record else 'pass'}, nvcc {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
