"""What nvdisasm shows of kernels: their instructions, the loop over tiles of keys, and what a pass of it takes."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import NamedTuple

CLASSES = {
    # Arithmetic on integers and predicates, moves; of the uniform datapath too, whose names begin with U.
    "address": "IMAD IADD IADD3 LEA LOP3 SHF VIADD VIADDMNMX VIMNMX VIMNMX3 IMNMX IABS ISETP PLOP3 SEL PRMT MOV CS2R"
    " S2R S2UR R2UR R2P P2R LDC LEPC BMSK SGXT POPC FLO",
    "products": "HGMMA HMMA",
    "exponentials": "MUFU",
    "FP32": "FFMA FMUL FADD FMNMX FMNMX3 FSEL FSETP FSET FCHK F2F F2FP F2I I2F I2FP HADD2 HMUL2 HFMA2 HSETP2 HMNMX2",
    "shared": "LDS STS LDSM STSM LDGSTS ATOMS",
    "barriers": "SYNCS BAR DEPBAR LDGDEPBAR ELECT WARPSYNC WARPGROUP WARPGROUPSET MEMBAR FENCE ERRBAR CGAERRBAR CCTL"
    " UCGABAR_ARV UCGABAR_WAIT ACQBULK PREEXIT ENDCOLLECTIVE NANOSLEEP",
    "branches": "BRA BRX BSSY BSYNC BREAK CALL RET EXIT YIELD JMP",
    "other": "",
}
"""Kinds of instructions, in the order of the table, by their names without what follows a point."""
CLASS_OF = {name: kind for kind, names in CLASSES.items() for name in names.split()}


class Instruction(NamedTuple):
    opcode: str  # with all that belongs to its name
    text: str  # all of it, behind a predicate
    predicated: bool

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]

    def kind(self) -> str:
        uniform = self.name.startswith("U") and not self.name.startswith("UTMA")
        return CLASS_OF.get(self.name, "address" if uniform else "other")

    def products(self) -> int:
        """Multiplications and additions in pairs, as its name has them: `HGMMA.64x128x16.F32.BF16`, and for `mma.sync`
        without crosses, `HMMA.16816.F32.BF16`. Of a warpgroup or of a warp; 0 of other instructions.
        """
        shape = f"{self.opcode}.".split(".")[1]
        if self.name == "HGMMA":
            return math.prod(map(int, shape.split("x")))
        return {"HMMA.16816": 16 * 8 * 16, "HMMA.1688": 16 * 8 * 8}.get(f"{self.name}.{shape}", 0)


INSTRUCTION = re.compile(r"\*/\s*(@\S+\s+)?(([^\s;]+)[^;]*);")
"""`  /*0010*/  @!P0 BRA `(.L_x_7) ;`"""


def kernels(text: str) -> dict[str, Kernel]:
    """The kernels of what `nvdisasm -c` wrote, by name."""
    found, name, instructions, labels = {}, None, [], {}
    for line in [*text.split("\n"), ".section"]:
        if line.startswith(".text.") or line.lstrip().startswith(".section"):
            if name:
                found[name] = Kernel(name, instructions, labels)
            name = line.removeprefix(".text.").rstrip().rstrip(":") if line.startswith(".text.") else None
            instructions, labels = [], {}
        elif match := INSTRUCTION.search(line):
            instructions.append(Instruction(match[3], match[2].rstrip(), bool(match[1])))
        elif "*/" not in line and line.rstrip().endswith(":"):
            labels[line.rstrip()[:-1]] = len(instructions)
    return found


def reached(steps: list[list[int]], start: int, within: set[int], past: int | None = None) -> set[int]:
    """All that is reached by one step or more, without leaving `within` or passing `past`."""
    found, left = set(), [start]
    while left:
        new = [to for to in steps[left.pop()] if to in within and to != past and to not in found]
        found.update(new)
        left += new
    return found


class Kernel:
    """A kernel's machine code, and what may come behind an instruction and before it."""

    def __init__(self, kernel: str, instructions: list[Instruction], labels: dict[str, int]) -> None:
        self.instructions = instructions
        self.products = [instruction.products() for instruction in instructions]
        self.after, self.before = [[] for _ in instructions], [[] for _ in instructions]
        for i, instruction in enumerate(instructions):
            goes_on = instruction.predicated or instruction.name not in ("BRA", "EXIT", "RET", "BRX", "JMP")
            following = []
            if instruction.name == "BRA" and (label := re.search(r"`\((.*?)\)", instruction.text)):
                if label[1] not in labels:
                    raise ValueError(f"{kernel} has a branch to {label[1]}, which is nowhere")
                following.append(labels[label[1]])
                # `BRA.U UP0, ...` and the like have their condition among what follows the name.
                goes_on |= not instruction.text.startswith("BRA `(")
            for to in following + [i + 1] * goes_on:
                if to < len(instructions):
                    self.after[i].append(to)
                    self.before[to].append(i)

    def innermost(self, within: set[int]) -> list[set[int]]:
        """The innermost cycles that hold products: of what lies on a cycle together, the ways in are taken out, and
        what is still on one is a loop inside it. Wherever ptxas enters a loop, and whatever it peeled off, this finds
        it.
        """
        found, seen = [], set()
        for product in sorted(i for i in within if self.products[i]):
            body = reached(self.after, product, within) & reached(self.before, product, within)
            if product in seen or product not in body:
                continue
            seen |= body
            rest = {i for i in body if not (i == 0 or any(start not in body for start in self.before[i]))}
            # What is never entered is never left either.
            inner = self.innermost(rest) if len(rest) < len(body) else []
            found += inner or [body]
        return found

    def one_pass(self, body: set[int]) -> set[int]:
        """What every pass of a loop takes, and where it multiplies, fetches and releases, though that be behind a
        branch that is taken by one lane or but near the end. Left out is what waits again, masks keys and caps scores.
        """
        anchor = min(i for i in body if self.products[i])
        always, taken = set(), None
        for i in sorted(body):
            follows = i - 1 in body and self.after[i - 1] == [i] and self.before[i] == [i - 1]
            if taken is None or not follows or anchor in (i - 1, i):
                taken = i == anchor or anchor not in reached(self.after, anchor, body, past=i)
            if taken:
                always.add(i)
        around = [after + before for after, before in zip(self.after, self.before)]
        does = lambda i: self.products[i] or self.instructions[i].opcode.startswith(("UTMALDG", "SYNCS.ARRIVE"))
        left = body - always
        while left:
            first = min(left)
            region = reached(around, first, left) | {first}
            left -= region
            if any(map(does, region)):
                always |= region
        return always

    def per_tile(self, products: int) -> dict[str, int]:
        """Instructions of a warp, by class, for a tile with so many pairs of a multiplication and an addition."""
        done = lambda taken: sum(self.products[i] for i in taken)
        passes = [self.one_pass(body) for body in self.innermost(set(range(len(self.instructions))))]
        if not passes:
            raise ValueError("its products are in no loop: no branch leads back to before them")
        # The one that most is done in; the shortest of equals.
        best = max(passes, key=lambda taken: (done(taken), -len(taken)))
        if done(best) % products:
            wanted = f"allowed: a multiple of {products}, those of a tile"
            raise ValueError(f"a pass of its loop multiplies {done(best)} pairs, {wanted}")
        counts = Counter(self.instructions[i].kind() for i in best)
        return {kind: math.ceil(counts[kind] / (done(best) // products)) for kind in CLASSES}
