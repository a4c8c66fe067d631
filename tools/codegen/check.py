"""What the kernels are held to, by cuda/codegen.md."""

from __future__ import annotations

import re
from types import SimpleNamespace

from build import EARLY, ENDS, HIDDEN, MULTICAST, PRODUCT, ROWS_OUT
from page import NONE, OR, Page

WARPGROUPS = {
    # 32, 48 and 74 are the descriptors of products, 6 the shifts of polynomials; clusters of two take 7 to 11 more.
    "address": {64: 70, 128: 90, 256: 103},
    # As long as no tile rescales the output.
    "FP32": {64: 312, 128: 312, 256: 168},
}
"""The most instructions of a class that a tile of keys may take on Hopper, by head_dim: warpgroups issue these between
their products, which wait for them. What was counted, rounded up."""
STREAM = {
    (2, 64, 16): 243,
    (2, 64, 32): 388,
    (2, 128, 16): 216,
    (2, 128, 32): 340,
    (2, 256, 16): 287,
    (2, 256, 32): 290,
    # 31, 27 and 21 % of what can be issued while their bytes come; with 32 rows 47, 39 and 35.
    (1, 64, 16): 508,
    (1, 128, 16): 445,
    (1, 256, 16): 706,
    (1, 64, 32): 767,
    (1, 128, 32): 641,
    (1, 256, 32): 577,
}
"""The most of all classes, by bytes of an element of K and V, head_dim and folded rows. They are slots that pass while
a tile's bytes arrive, at 20 bytes a clock: the parts of them that docs/kernels.md has."""
PRODUCT_BLOCKS = {"64": 2, "128": 2, "256": 1}
"""As `GemmShape` in examples/t5/cuda/gemm_sm90a.cu has it: a block begins beside those of the product before."""


def check(page: Page, digest: str, facts: SimpleNamespace) -> None:
    """The page is of these sources and of today's compilers, no kernel spills, and each is what it is meant to be."""
    if f"Sources: `{digest}`" not in page.head:
        raise ValueError("cuda/codegen.md is of other sources than there are now; run `cargo xtask codegen`")
    for version in facts.compilers:
        if f" V{version}." not in page.head:
            raise ValueError(f"cuda/codegen.md has nothing of nvcc {version}; run `cargo xtask codegen`")
    for kernel, cells in page.made.items():
        if any("spills" in cell for cell in cells):
            raise ValueError(f"{kernel} spills registers or has a stack frame: {cells}")
    for variant in facts.variants.values():
        cards = {card.capability: cell for card, cell in zip(facts.cards, page.made.get(variant.kernel, []))}
        check_blocks(variant.kernel, cards, variant.resident)
        if variant.architecture != "sm_80":
            if variant.kernel not in page.code or variant.kernel not in page.loops:
                raise ValueError(f"cuda/codegen.md has no machine code or no tile of keys of {variant.kernel}")
            for code in page.code[variant.kernel]:
                check_code(variant, code)
            loops = page.loops[variant.kernel]
            check_tile(variant, loops.get("9.0") or next(iter(loops.values())))
    for kernel in filter(lambda kernel: kernel.startswith(PRODUCT), page.code):
        wanted = PRODUCT_BLOCKS[kernel.split("_")[-1]]
        cards = {card.capability: cell for card, cell in zip(facts.cards, page.made[kernel])}
        check_blocks(kernel, cards, dict.fromkeys(cards, wanted))
        for code in page.code[kernel]:
            # What the wait for the work before is there to hide: copies that all come before some wait may all come
            # behind another.
            if not 0 < code.get(EARLY, 0) < code.get("UTMALDG", 0):
                raise ValueError(f"{kernel} waits before it fetches weights: {code}")
            check_products(kernel, code, ["HGMMA"])


def check_blocks(kernel: str, cells: dict[str, str], wanted: dict[str, int]) -> None:
    """As many blocks fit on a card's multiprocessor as are counted on: of `registers, blocks` by each compiler."""
    made = {card: cell for card, cell in cells.items() if cell != NONE}
    if not made:
        raise ValueError(f"cuda/codegen.md has {kernel} on no card")
    for card, cell in made.items():
        blocks = min(int(f"{of}, 0".split(", ")[1]) for of in cell.split(OR))
        if blocks < wanted.get(card, 0):
            raise ValueError(f"{kernel} on {card} is to have {wanted[card]} blocks on a multiprocessor, found: {cell}")


def check_code(v: SimpleNamespace, code: dict[str, int]) -> None:
    """A kernel of Hopper's uses what it is there for."""
    # The exponentials of a thread's scores: those that a softcap adds stand behind a branch. One of every fifth pair of
    # a row's weights is a polynomial.
    polynomials = 2 * ((v.tile_keys // 8 + 2) // 5) if v.head_dim <= 128 else 0
    if v.warpgroups and code.get(HIDDEN) != v.tile_keys + 2 - polynomials:
        raise ValueError(f"the exponentials of {v.kernel} do not run beside its products: {code}")
    copies = MULTICAST if v.cluster > 1 else "UTMALDG"
    check_products(v.kernel, code, ["HGMMA" if v.warpgroups else "HMMA", copies, ROWS_OUT])


def check_products(kernel: str, code: dict[str, int], meant: list[str]) -> None:
    """All instructions are there that are meant to be, and the products of a group are in flight together."""
    for opcode in meant:
        if opcode not in code:
            raise ValueError(f"the machine code of {kernel} has no {opcode}: {code}")
    if "HGMMA" in code and code.get(ENDS, 0) >= code["HGMMA"]:
        raise ValueError(f"the products of {kernel} wait for each other: {code}")


def check_tile(v: SimpleNamespace, counts: dict[str, int]) -> None:
    """No more instructions of a tile than are claimed where the kernels are described."""
    if v.architecture == "sm_120":
        return
    found = {kind: (counts[kind], most.get(v.head_dim)) for kind, most in WARPGROUPS.items()}
    if not v.warpgroups:
        found = {"all": (sum(counts.values()), STREAM.get((v.kv_bytes, v.head_dim, v.tile_rows)))}
    for kind, (takes, most) in found.items():
        if most and takes > most:
            raise ValueError(f"{v.kernel} takes {takes} instructions a tile of keys ({kind}), allowed: {most}")


def check_bounds(file: str, source: str) -> None:
    """Launch bounds name the blocks that a multiprocessor holds: without, a compiler may lose one silently."""
    # A line holds all of it, and a kernel's name.
    for bounds in re.findall(r"__launch_bounds__\((.*)", source):
        bounds = bounds.partition(") ")[0]
        if "," not in bounds:
            raise ValueError(f"{file}: __launch_bounds__({bounds}) has no number of blocks")
