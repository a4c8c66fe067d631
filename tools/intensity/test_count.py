"""What is read of callgrind's files: `python3 tools/intensity/test_count.py`.

It needs nothing but Python; `cargo test` runs it.
"""

from __future__ import annotations

import unittest

from count import arguments, callgrind_counts

FILE = """# callgrind format
version: 1
events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw ILdmr DLdmr DLdmw
fn=(1) main
3 7 1
totals: 1000 300 200 9 80 70 5 40 30"""


class Callgrind(unittest.TestCase):
    def test_totals_are_read(self) -> None:
        # Zeros at the end are left out: nothing was written back.
        counts = {"read_bytes": 64 * (5 + 40 + 30), "written_bytes": 0, "instructions": 1000}
        self.assertEqual(callgrind_counts(FILE), counts)
        self.assertEqual(callgrind_counts(FILE + " 1 20 300\n")["written_bytes"], 64 * 321)

    def test_what_a_file_lacks_is_named(self) -> None:
        with self.assertRaisesRegex(ValueError, '^it has no line "totals:"$'):
            callgrind_counts("events: Ir\n")
        with self.assertRaisesRegex(ValueError, "^it counts no ILmr, but Ir, Dr$"):
            callgrind_counts("events: Ir Dr\ntotals: 1 2\n")


class Programs(unittest.TestCase):
    def test_sizes_are_the_programs_arguments(self) -> None:
        options = ["--heads=32", "--kv-heads=8", "--head-dim=64"]
        self.assertEqual(arguments("prefix shared", 8), [*options, "1x8x512", "8x1x32"])


if __name__ == "__main__":
    unittest.main()
