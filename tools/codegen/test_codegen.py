"""Machine code is read as it is, and what is wrong in the table is an error. `cargo test` runs it, with run.py's input.

tests/ has pieces of real machine code, of nvcc 13.0, thinned out: products, waits, branches and fetches are all there,
of the rest some. warps: `mma.sync`; a softcap, a mask and a fetch stand behind branches, a second wait behind the loop.
warpgroups: `wgmma`; the first tile's scores and the last one's values are peeled off. two_steps: T5's product; two
steps in one pass, with a way out between.
"""

from __future__ import annotations

import sys
import unittest
from dataclasses import replace
from types import SimpleNamespace

from build import ROOT, Made, of_ptxas, opcodes, read_facts
from check import check, check_bounds, check_tile
from page import Page, text
from sass import CLASSES, kernels

FACTS = read_facts(sys.stdin)
# Products of a tile of 32 keys and of 128, of head_dim 64; of a step in k.
OF_WARP, OF_WARPGROUP, OF_STEP = 2 * 16 * 32 * 64, 2 * 64 * 128 * 64, 64 * 128 * 64


def code(name: str) -> str:
    return (ROOT / "tools/codegen/tests" / f"{name}.sass").read_text()


def per_tile(code: str, products: int) -> list[int]:
    (kernel,) = kernels(code).values()
    return list(kernel.per_tile(products).values())


class Loops(unittest.TestCase):
    def test_a_warps_loop_with_its_fetch_and_without_softcap_mask_and_second_wait(self) -> None:
        self.assertEqual(per_tile(code("warps"), OF_WARP), [6, 32, 1, 4, 0, 4, 13, 2])

    def test_a_loop_whose_first_and_last_tiles_are_peeled_off(self) -> None:
        self.assertEqual(per_tile(code("warpgroups"), OF_WARPGROUP), [3, 12, 0, 5, 0, 7, 4, 0])

    def test_two_tiles_in_one_pass_count_as_two(self) -> None:
        self.assertEqual(per_tile(code("two_steps"), OF_STEP), [7, 4, 0, 0, 0, 4, 2, 0])

    def test_a_loop_that_is_entered_in_its_middle(self) -> None:
        entered = code("warps").replace("\n", "\n  /*0000*/  @P0 BRA `(.L_x_310) ;\n", 1)
        self.assertEqual(per_tile(entered, OF_WARP), per_tile(code("warps"), OF_WARP))

    def test_a_loop_in_a_loop_counts_and_what_is_around_it_does_not(self) -> None:
        # As of a grid whose blocks go on to the next tile of rows.
        back = "  /*5950*/  FADD R1, R1, R1 ;\n  /*5960*/  @P4 BRA `(.L_x_1) ;\n  /*5970*/  EXIT ;"
        around = code("warps").replace("  /*5950*/  EXIT ;", back)
        around = around.replace("\n", "\n.L_x_1:\n  /*0000*/  HMMA.16816.F32.BF16 R100, R36, R88, RZ ;\n", 1)
        self.assertEqual(per_tile(around, OF_WARP), per_tile(code("warps"), OF_WARP))

    def test_of_two_loops_that_counts_which_most_is_done_in(self) -> None:
        other = "\n.L_x_1:\n  /*6000*/  HMMA.16816.F32.BF16 R1, R1, R1, RZ ;\n  /*6010*/  @P0 BRA `(.L_x_1) ;\n"
        self.assertEqual(per_tile(code("warps") + other, OF_WARP), per_tile(code("warps"), OF_WARP))

    def test_a_kernel_without_the_loop_is_an_error_that_says_so(self) -> None:
        with self.assertRaisesRegex(ValueError, "in no loop"):
            per_tile(code("warps").replace("@!P2 BRA `(.L_x_300)", "NOP"), OF_WARP)
        with self.assertRaisesRegex(ValueError, "multiplies 65536 pairs, allowed: a multiple of 65537"):
            per_tile(code("warps"), OF_WARP + 1)
        with self.assertRaisesRegex(ValueError, ".L_x_310, which is nowhere"):
            per_tile(code("warps").replace(".L_x_310:", ""), OF_WARP)


class Counts(unittest.TestCase):
    def test_what_ptxas_says(self) -> None:
        said = "Compiling entry function 'one' for 'sm_90'\n"
        said += "16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
        said += "0 bytes stack frame, 0 bytes spill stores, 1 bytes spill loads\n"
        said += "Used 40 registers, 380 bytes smem, 8 bytes cmem[0]\n"
        self.assertEqual(of_ptxas(said), {"one": Made(40, 16, 13, 380)})
        with self.assertRaisesRegex(ValueError, "C7510"):
            of_ptxas(said + "info: (C7510) wgmma instructions are serialized\n")

    def test_fetches_before_the_wait_and_exponentials_beside_products(self) -> None:
        lines = ["UTMALDG.5D", "UTMALDG.5D.MULTICAST", "ACQBULK", "UTMALDG.5D", "MUFU.EX2"]
        lines += ["HGMMA.64x64x16 gsb0", "HGMMA.64x64x16", "WARPGROUP.DEPBAR.LE gsb0, 0x1", "MUFU.EX2", "MUFU.RCP"]
        lines += ["WARPGROUP.DEPBAR.LE gsb0, 0x0", "MUFU.EX2", "STG.E.128.X"]
        (kernel,) = kernels("\n".join([".text.one:"] + [f" /**/ {line} ;" for line in lines])).values()
        found = {"UTMALDG": 2, "UTMALDG.5D.MULTICAST": 1, "HGMMA": 2, "STG.E.128": 1}
        found |= {"HGMMA at a group's end": 1, "EX2 beside products": 1}
        self.assertEqual(opcodes("one", kernel), found)
        self.assertEqual(opcodes("t5_gemm_sm90a_one", kernel), found | {"UTMALDG before the wait": 1})


class Checks(unittest.TestCase):
    """Of a file with one kernel of the plan and one of T5's products, as they should be."""

    def setUp(self) -> None:
        kernel, product = ("onekv_sm90a_bf16_256_64", "9.0a"), ("t5_gemm_sm90a_bf16_256", "9.0a")
        variants = {kernel[0]: FACTS.variants[kernel[0]]}
        self.facts = SimpleNamespace(compilers=FACTS.compilers, cards=FACTS.cards, variants=variants)
        ours = {"EX2 beside products": 66, "HGMMA": 40, "HGMMA at a group's end": 4, "STG.E.128": 4, "UTMALDG": 3}
        theirs = {"HGMMA": 12, "HGMMA at a group's end": 3, "UTMALDG": 30, "UTMALDG before the wait": 15}
        counts = dict(zip(CLASSES, [90, 20, 34, 137, 1, 8, 5, 8]))
        first = {kernel: Made(168, 0, 0, 0, ours, counts), product: Made(92, 0, 0, 0, theirs)}
        # The other compiler's takes fewer registers.
        tables = [first, {key: replace(made, registers=90) for key, made in first.items()}]
        self.page = text(self.facts, "1234", [f"V{version}.1" for version in FACTS.compilers], tables)

    def test_what_is_as_it_should_be_passes(self) -> None:
        check(Page(self.page), "1234", self.facts)
        self.assertIn("| onekv_sm90a_bf16_256_64 | 256 | 161 | - | - | - | 168, 1 / 90, 1 | - | - |\n", self.page)

    def test_what_is_not_is_an_error(self) -> None:
        for old, new, error in [
            ("`1234`", "`1235`", "of other sources than there are now"),
            ("V13.5.1", "V13.4.1", "has nothing of nvcc 13.5"),
            ("90, 1 | -", "90, 1, **spills 8 B, stack 0 B** | -", "spills registers or has a stack frame"),
            ("168, 1", "168, 0", "onekv_.* is to have 1 blocks on a multiprocessor, found: 168, 0 / 90, 1"),
            ("92, 1", "92, 0", "t5_.* is to have 1 blocks on a multiprocessor"),
            ("168, 1 / 90, 1", "-", "on no card"),
            ("66 EX2", "65 EX2", "the exponentials of .* do not run beside its products"),
            ("40 HGMMA, 4 HGMMA", "40 HGMMA, 40 HGMMA", "the products of onekv_.* wait for each other"),
            (", 3 UTMALDG", "", "the machine code of .* has no UTMALDG"),
            (", 4 STG.E.128", "", "the machine code of .* has no STG.E.128"),
            ("15 UTMALDG before", "30 UTMALDG before", "t5_.* waits before it fetches weights"),
            (", 15 UTMALDG before the wait", "", "t5_.* waits before it fetches weights"),
            ("12 HGMMA, 3 HGMMA", "12 HGMMA, 12 HGMMA", "the products of t5_.* wait for each other"),
            ("| 90 | 20 |", "| 104 / 90 | 20 |", r"takes 104 instructions a tile of keys \(address\), allowed: 103"),
        ]:
            self.assertIn(old, self.page)
            with self.subTest(new), self.assertRaisesRegex(ValueError, error):
                check(Page(self.page.replace(old, new)), "1234", self.facts)

    def test_more_instructions_than_are_allowed_are_an_error(self) -> None:
        variant = FACTS.variants["onekv_sm90_bf16_64_16"]
        check_tile(variant, dict.fromkeys(CLASSES, 0) | {"shared": 243})
        with self.assertRaisesRegex(ValueError, r"takes 244 instructions a tile of keys \(all\), allowed: 243"):
            check_tile(variant, dict.fromkeys(CLASSES, 0) | {"shared": 243, "other": 1})

    def test_launch_bounds_without_blocks_are_not_allowed(self) -> None:
        bounds = "void __launch_bounds__(256, blocks(DIM)) one() {}\nvoid __launch_bounds__(128) two(int a, int b) {}\n"
        with self.assertRaisesRegex(ValueError, r"__launch_bounds__\(128\) has no number of blocks"):
            check_bounds("file", bounds)


if __name__ == "__main__":
    unittest.main()
