"""What kernels there are, and what compilers make of them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import sass

ROOT = Path(__file__).resolve().parents[2]

T5 = "examples/t5/cuda"
HOPPER = "9.0a"
"""What Hopper's own kernels are compiled for; those of T5 are in files whose names end with `sm90a`."""
FOLDERS = {"cuda": [], "cuda/sm90": ["9.0", "10.0"], "cuda/sm90a": [HOPPER], "cuda/sm120": ["12.0"], T5: []}
"""Folders whose kernels are in the table, and what they are compiled for: nothing for every card."""
HEADERS = ["cuda/attention", "cuda/ptx"]

PRODUCT = "t5_gemm_sm90a_"
"""Kernels that fetch before they wait."""
BLOCKS = [
    # `GemmShape` of examples/t5/cuda/gemm_sm90a.cu.
    (PRODUCT + ".*_64", 160, 4 * (24 << 10) + 72 + 256),
    (PRODUCT + ".*_128", 288, 3 * (32 << 10) + 56 + 512),
    (PRODUCT + ".*", 544, 4 * (48 << 10) + 72 + 1024),
    # `attend_tensor` of examples/t5/cuda/encode.cu.
    ("t5_attend_encoder_b?f16_64", 128, 5 * (8 << 10) + 1024),
    ("t5_attend_encoder_b?f16_.*", 128, 16 * 1024 + 4 * (8 << 10) + 768),
    ("t5_choose", 1024, 0),
    ("(t5_attend_|onekv).*", 128, 0),
    (".*", 256, 0),
]
"""Kernels that the plan does not choose: threads and dynamic shared memory of a block. The first that matches."""

ROWS_OUT = "STG.E.128"
"""Stores of sixteen bytes to global memory."""
MULTICAST = "UTMALDG.5D.MULTICAST"
COUNTED = ["HGMMA", "HMMA", ROWS_OUT, MULTICAST, "UTMALDG"]
"""Machine instructions that say what path a kernel takes: products of warpgroups and of warps, copies by the copy
engine, into one block and into all of a cluster. The longer name comes first."""
ENDS = "HGMMA at a group's end"
"""Products of warpgroups that end a group, which a wait is for: all of them where ptxas puts one after the other."""
HIDDEN = "EX2 beside products"
"""Exponentials while products are in flight."""
EARLY = "UTMALDG before the wait"
"""Loads of the copy engine that are asked for before the work before has ended."""


def read_facts(file: TextIO) -> SimpleNamespace:
    """The compilers that kernels are held to, what multiprocessors of cards hold, and the plan's kernels by name, as
    xtask hands them over. Fields of kernels are those of src/plan/variants.rs, and `resident`: blocks that the plan
    counts on, by the cards that a kernel fits.
    """
    facts = SimpleNamespace(**json.load(file, object_hook=lambda of: SimpleNamespace(**of) if "threads" in of else of))
    facts.variants = {variant.kernel: variant for variant in facts.variants}
    return facts


def sources() -> list[Path]:
    """All that the kernels are compiled from."""
    files = [file for folder in [*FOLDERS, *HEADERS] for file in (ROOT / folder).iterdir()]
    return sorted((file for file in files if file.suffix in (".cu", ".cuh", ".h")), key=lambda file: file.parts)


def digest() -> str:
    """SHA-256 of the names and contents of the sources, in hexadecimal, shortened."""
    contents = [file.relative_to(ROOT).as_posix().encode() + file.read_bytes() for file in sources()]
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]


def block(facts: SimpleNamespace, kernel: str) -> tuple[int, int]:
    """Threads and dynamic shared memory of a kernel's block."""
    if variant := facts.variants.get(kernel):
        return variant.threads, variant.shared_bytes
    return next((threads, shared) for name, threads, shared in BLOCKS if re.fullmatch(name, kernel))


def products_of_tile(facts: SimpleNamespace, kernel: str) -> int | None:
    """Pairs of a multiplication and an addition that a warp or a warpgroup makes for a tile, of kernels with a loop
    that is looked for.
    """
    # 64 rows, and the columns and the depth of examples/t5/cuda/gemm_sm90a.cu.
    if kernel.startswith(PRODUCT):
        return 64 * 128 * 64
    v = facts.variants.get(kernel)
    if not v or v.architecture == "sm_80":
        return None
    rows = 64 if v.warpgroups else v.tile_rows * v.key_warps * 32 // v.threads
    return 2 * rows * v.tile_keys * v.head_dim


@dataclass
class Made:
    """One kernel on one card, by one compiler."""

    registers: int
    stack: int
    spills: int
    static_shared: int
    opcodes: dict[str, int] = field(default_factory=dict)
    """Instructions by what was counted."""
    per_tile: dict[str, int] | None = None
    """Of a pass of the loop by class, for each tile of keys; kernels that have such a loop."""


def jobs(facts: SimpleNamespace) -> list[tuple[int, Path, str]]:
    """Every source for its cards, by every compiler."""
    found = []
    for folder, own in FOLDERS.items():
        for source in sorted((ROOT / folder).glob("*.cu")):
            of_file = [HOPPER] if source.stem.endswith("sm90a") else [card.capability for card in facts.cards]
            for capability in own or of_file:
                found += [(compiler, source, capability) for compiler in range(len(facts.compilers))]
    return found


def run(*command: object) -> subprocess.CompletedProcess:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise ValueError(f"{command[0]} failed on {command[-1]}:\n{done.stderr}")
    return done


def compiled(facts: SimpleNamespace, nvcc: str, nvdisasm: str, source: Path, capability: str) -> dict[str, Made]:
    """What a compiler makes of each kernel of a file."""
    folder = source.parent.relative_to(ROOT).as_posix()
    # As the build scripts have it.
    arch = (HOPPER if (folder, capability) == (T5, "9.0") else capability).replace(".", "")
    with tempfile.TemporaryDirectory() as work:
        binary = Path(work) / "kernels.cubin"
        options = ["-O3", "-std=c++17", "-Xptxas", "-v", "-gencode", f"arch=compute_{arch},code=sm_{arch}"]
        said = run(nvcc, "-cubin", *options, "-I", ROOT / "cuda", "-o", binary, source).stderr
        try:
            made = of_ptxas(said)
            if capability == HOPPER or folder not in (T5, "cuda"):
                count(facts, run(nvdisasm, "-c", binary).stdout, made)
        except ValueError as error:
            raise ValueError(f"{source} for {capability}: {error}") from error
    return made


def of_ptxas(said: str) -> dict[str, Made]:
    """Registers and memory of the kernels that ptxas tells of, by name."""
    made, name, stack, spills = {}, None, 0, 0
    for line in said.splitlines():
        # It tells of products that it puts one after the other (C7510 and their like) as information.
        if "warning" in line or "(C75" in line:
            raise ValueError(line)
        if match := re.search("Compiling entry function '(.*?)'", line):
            name, stack, spills = match[1], 0, 0
        elif "bytes stack frame" in line:
            # Of the kernel, and of what it calls.
            numbers = [int(number) for number in re.findall(r"(\d+) bytes", line)]
            stack, spills = stack + numbers[0], spills + numbers[1] + numbers[2]
        elif name and (match := re.search(r"(\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            made[name] = Made(int(match[1]), stack, spills, int(shared[1]) if shared else 0)
            name = None
    return made


def count(facts: SimpleNamespace, code: str, made: dict[str, Made]) -> None:
    """Adds how often the instructions of `COUNTED` occur in each kernel, and what a tile of keys takes."""
    for name, kernel in sass.kernels(code).items():
        if name in made:
            made[name].opcodes = opcodes(name, kernel)
            if products := products_of_tile(facts, name):
                try:
                    made[name].per_tile = kernel.per_tile(products)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error


def opcodes(name: str, kernel: sass.Kernel) -> dict[str, int]:
    found = Counter()
    # Between the wait that leaves one group of products in flight and the next.
    in_flight = False
    for opcode, text, _ in kernel.instructions:
        if "DEPBAR.LE gsb0" in text:
            in_flight = "0x1" in text
        if in_flight and opcode == "MUFU.EX2":
            found[HIDDEN] += 1
        # Of products: other kernels fetch behind their wait, and have another where there is nothing to do.
        if name.startswith(PRODUCT) and opcode.startswith("ACQBULK") and "UTMALDG" in found:
            found.setdefault(EARLY, found["UTMALDG"])
        if opcode.startswith("HGMMA") and "gsb0" in text:
            found[ENDS] += 1
        if counted := next((code for code in COUNTED if f"{opcode}.".startswith(f"{code}.")), None):
            found[counted] += 1
    return dict(found)
