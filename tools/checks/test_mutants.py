"""Mutants are counted by what came of them, and by what was read of those that went unnoticed."""

import re
import unittest
from types import SimpleNamespace

import mutants
from common import ROOT, Failed

RULES = {"drop-wait": "a wait", "drop-fence": "a fence", "drop-store": "a store"}


def reason(rule, kernel, place, judgement, why):
    return SimpleNamespace(rule=rule, kernel=kernel, place=place, judgement=judgement, why=why)


def tried(rule, kernel, place, verdict):
    return dict(rule=rule, kernel=kernel, card="h200", line=1, place=f"mov.b32 <{place}> ret", before=place, after="", verdict=verdict)


READ = [
    reason("drop-fence", "a", "<x>", "harmless", "one"),
    reason("drop-fence", "", "<y>", "not shown", "two"),
    reason("drop-wait", "", "<z>", "lenient", "three"),
]
ALL = [
    tried("drop-fence", "a", "x", "survived"),
    tried("drop-fence", "b", "x", "survived"),
    tried("drop-fence", "b", "y", "survived"),
    tried("drop-wait", "b", "z", "survived"),
    tried("drop-wait", "b", "y", {"fault": "Race"}),
    tried("drop-wait", "b", "y", "not_run"),
]


class Page(unittest.TestCase):
    def page(self, all=ALL, read=READ):
        return mutants.page(7, RULES, all, read, 4, 1)

    def test_survivors_count_by_what_was_read_of_them(self):
        page = self.page()
        for line in (
            # One of three that a card may get wrong.
            "| all | 1 | 0 | 1 | 1 | 1 | 1 | 33.3 % | 1 | 0 |",
            "| drop-fence | 0 | 0 | 1 | 1 | 0 | 1 | 0.0 % | 0 | 0 |",
            "| drop-fence | 1 | not shown | two |",
        ):
            self.assertIn(f"\n{line}\n", page)
        self.assertIn("7 launches on\n", page)
        # One did not run.
        self.assertIn("chosen by seed 1: 5 in all", page)

    def test_rules_come_in_their_order(self):
        page = self.page()
        self.assertLess(page.index("| drop-wait | 1 |"), page.index("| drop-fence | 0 |"))
        self.assertNotIn("| drop-store | 0 |", page)
        self.assertIn("\n| drop-store | a store |\n", page)

    def test_every_verdict_has_its_column(self):
        verdicts = [{"differs": {"address": 1, "bytes": 2}}, {"refused": "why"}, "panicked"]
        page = self.page([tried("drop-store", "b", "x", verdict) for verdict in verdicts], [])
        # The one that made the simulator panic was not noticed.
        self.assertIn("\n| drop-store | 0 | 1 | 0 | 0 | 0 | 0 | 50.0 % | 0 | 1 |\n", page)

    def test_reasons_are_of_rules_that_there_are(self):
        with self.assertRaisesRegex(Failed, "rule is drop-wonder, allowed: drop-wait, drop-fence, drop-store"):
            self.page(read=[reason("drop-wonder", "", "", "lenient", "")])
        rules = (ROOT / "ptxsim/src/mutate/rules.rs").read_text("utf-8")
        names = re.findall(r'(?:name: |const \w+: &str = )"([^"]+)"', rules)
        self.assertEqual(set(), {one.rule for one in mutants.reasons()} - {*names})

    def test_families_are_told_apart(self):
        for kernel, name in (
            ("onekv_sm90_combine_bf16_64", "combination of splits"),
            ("onekv_sm90a_bf16_128_128x2", "many rows on Hopper"),
            ("onekv_sm90_bf16_e4m3_64_16", "few rows from 9.0 on, e4m3"),
            ("onekv_bf16_64_16", "16 bits from 8.0 on"),
        ):
            self.assertEqual(mutants.family(kernel), name)


if __name__ == "__main__":
    unittest.main()
