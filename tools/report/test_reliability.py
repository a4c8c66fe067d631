"""The page of reliability holds what was found, and says what was not looked for yet."""

import json
import tempfile
import unittest
from pathlib import Path

import reliability
from results import PLANTED, Refused, read_lines, results

CAUGHT = {"test": "a::b", "date": "2026-01-05", "commit": "jkl"}
WHEN = {"date": "2026-01-02", "commit": "abc"}
TESTED = WHEN | {"tool": "miri 1"}, {"what": "plans", "command": "cargo t", "found": "3 tests"}
STATUSES = {"statuses": ["OUT_OF_MEMORY", "UNKNOWN"]}
CALL = {"call": "cuMemAlloc", "injected": 5, "error": 3, "recovered": 1, "dropped": 4} | STATUSES
FAILING = {"date": "2026-01-03", "commit": "def", "card": "virtual h200", "injected": 5}, CALL
COUNTS = {"runs": 7, "seconds": 8, "coverage": 9, "features": 12, "corpus": 10, "corpus_bytes": "1Kb", "peak_mb": 11}
PTX = {"target": "ptx", "date": "2026-01-04", "commit": "ghi"} | COUNTS
BOUNDS = {"timeout": 10, "rss_limit_mb": 2048}
TABLE = {"table": "planted.toml"}


def lines(*of):
    return "".join(json.dumps(one) + "\n" for one in of)


class Reliability(unittest.TestCase):
    def page(self, **changed):
        files = {"miri.jsonl": TESTED, "fuzz.jsonl": (BOUNDS, PTX), "planted.jsonl": (TABLE, {"bug": "off by one"} | CAUGHT)}
        files |= {name: FAILING for name in reliability.CALLERS.values()}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "reliability").mkdir()
            for name, of in (files | changed).items():
                (Path(folder) / "reliability" / name).write_text(lines(*of))
            return reliability.page(results(Path(folder)).reliability)

    def test_every_part_has_its_figures(self):
        page = self.page()
        for line in (
            "2026-01-02, onekv at abc, miri 1.",
            "| plans | 3 tests | `cargo t` |",
            "| ptx | 7 | 8 s | 9 | 10 | 11 MB | 2026-01-04, ghi |",
            "2026-01-03, onekv at def, a virtual h200: 5 failures of 1 functions that T5 calls.",
            "| cuMemAlloc | 5 | 2 | 3 | 1 | 4 |",
            "Not run yet: `cargo xtask reliability --part soak`.",
        ):
            self.assertIn(f"\n{line}\n", page)

    def test_bugs_that_nobody_caught_are_counted(self):
        def said(**bugs):
            text = lines(TABLE, *({"bug": bug} | caught for bug, caught in bugs.items()))
            return reliability.planted(read_lines(PLANTED, text)).replace("\n", " ")

        later = CAUGHT | {"date": "2026-02-01"}
        self.assertIn("All have a record of being caught, from 2026-01-05 to 2026-02-01:", said(a=later, b=CAUGHT))
        self.assertIn("puts 3 known bugs", said(a=later, b=CAUGHT, c={}))
        self.assertIn("So far 2 have", said(a=later, b=CAUGHT, c={}))
        with self.assertRaisesRegex(Refused, "line 2: date or commit is missing beside test"):
            said(a={"test": "b"})

    def test_files_of_another_form_are_refused(self):
        with self.assertRaisesRegex(Refused, r"fuzz\.jsonl: line 2: runs is \"many\", allowed: a whole number"):
            self.page(**{"fuzz.jsonl": (BOUNDS, PTX | {"runs": "many"})})


if __name__ == "__main__":
    unittest.main()
