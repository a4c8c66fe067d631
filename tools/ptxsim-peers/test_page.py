"""What the page says of rows: `python3 tools/ptxsim-peers/test_page.py`.

It needs nothing but Python; `cargo test` runs it.
"""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from page import faults, page, totals, write
from results import PTXSIM, read_file

RESULTS = Path(__file__).resolve().parents[2] / "results" / "ptxsim"


def row(package: str, kernel: str, card: str, outcome: str, message: str = "") -> dict:
    return {
        "package": package, "version": "1.0", "kernel": kernel, "card": card, "outcome": outcome, "message": message
    }


ROWS = [
    row("b", "m:add", "a100", "right"),
    row("b", "m:add", "h200", "right"),
    row("a", "m:add", "h200", "unsupported", "no `x.y|z`"),
]


class Pages(unittest.TestCase):
    def test_what_is_committed_is_what_would_be_written(self) -> None:
        report = read_file(PTXSIM, RESULTS / "peers.jsonl")
        rows = [{name: value for name, value in vars(row).items() if name != "number"} for row in report.rows]
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), rows, report.date)
            for name in ("peers.jsonl", "README.md"):
                self.assertEqual((Path(folder) / name).read_bytes(), (RESULTS / name).read_bytes(), name)

    def test_a_kernel_on_two_cards_is_one_kernel(self) -> None:
        self.assertEqual(
            totals(ROWS),
            "| package | version | kernels | rows | right | unsupported | wrong | blamed |\n"
            "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
            "| a | 1.0 | 1 | 1 | 0 | 1 | 0 | 0 |\n"
            "| b | 1.0 | 1 | 2 | 2 | 0 | 0 | 0 |\n"
            "| all |  | 2 | 3 | 2 | 1 | 0 | 0 |\n",
        )

    def test_a_kernel_is_listed_once_per_outcome(self) -> None:
        listed = page(ROWS, "2026-01-01").split("| --- | --- | --- | --- | --- |\n")[-1]
        self.assertEqual(
            listed, "| a | `m:add` | h200 | unsupported | no `x.y\\|z` |\n| b | `m:add` | a100, h200 | right |  |\n"
        )

    def test_only_ptxsims_faults_count(self) -> None:
        self.assertEqual(faults(ROWS), [])
        rows = [*ROWS, row("a", "k", "h200", "blamed", "Race"), row("a", "k", "a100", "wrong", "of 3")]
        self.assertEqual(faults(rows), ["k on h200: Race", "k on a100: of 3"])


if __name__ == "__main__":
    unittest.main()
