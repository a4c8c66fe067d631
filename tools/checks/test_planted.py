"""Planted bugs: how they are chosen, and how tests end at the first that fails."""

import tempfile
import time
import unittest
from pathlib import Path

import planted
from common import Command, Failed


class Table(unittest.TestCase):
    def test_every_bug_that_is_soon_compiled_comes_first_in_some_sample(self):
        bugs, first = planted.all_bugs(), set()
        for at in range(len(bugs)):
            sample = planted.sample(bugs, at + 3 * len(bugs), 3)
            self.assertTrue(len(sample) <= 3 and len({bug.name for bug in sample}) == len(sample))
            self.assertEqual({sample[0].kind}, {bug.kind for bug in sample})
            first.add(sample[0].name)
        needs_more = ("--features", "ptxsim", "shared-prefix", "candle", "cudart", "cublaslt")
        for bug in bugs:
            soon = not any(word in " ".join(bug.tests) for word in needs_more)
            self.assertEqual(bug.name in first, soon, bug.name)

    def test_what_a_table_may_not_hold_is_named(self):
        group = '[a]\ntests = ["-p", "x"]\n'
        bug = '[[a.bugs]]\nname = "n"\nfile = "f"\nfrom = "1"\nto = "2"\n'
        for text, said in (
            (group + bug + "car = 1", r"a.bugs\[0\] has a field car, allowed: name, file, from, to, card"),
            (group + 'cards = "a100"\n' + bug, "a has a field cards, allowed: tests, card, bugs"),
            (group + bug.replace('"2"', "2"), r"a.bugs\[0\].to is 2, allowed: a text"),
            (group + bug.replace("from", "fro"), r"a.bugs\[0\].from is missing"),
            (group, "a.bugs is missing"),
        ):
            with self.assertRaisesRegex(Exception, said):
                planted.all_bugs(text)
        self.assertEqual(planted.all_bugs(group + bug), [planted.Bug("n", "f", "1", "2", ("-p", "x"), "a100")])
        self.assertEqual(planted.all_bugs(group + 'card = "h200"\n' + bug)[0].card, "h200")
        self.assertEqual(planted.all_bugs(group + bug + 'card = "b200"')[0].card, "b200")

    def test_a_bug_needs_a_place_of_its_own(self):
        bug = planted.Bug("n", "f", "a", "b", ("-p", "x"), "a100")
        with tempfile.TemporaryDirectory() as folder:
            for text, times in (("", 0), ("aa", 2)):
                Path(folder, "f").write_text(text)
                with self.assertRaisesRegex(Failed, f"`a` occurs {times} times in f; a planted bug needs a place of its own"):
                    bug.text(Path(folder))
            Path(folder, "f").write_text("bab")
            self.assertEqual(bug.text(Path(folder)), "bab")


class FirstFailed(unittest.TestCase):
    def failed(self, script):
        return planted.first_failed(Command(["sh", "-c", script]))

    def test_the_first_test_that_fails_ends_all(self):
        # What it starts would hold the pipe open, and this test up, for a minute.
        began = time.monotonic()
        self.assertEqual(self.failed("echo 'test a::b ... FAILED'; sleep 60 & echo 'test c ... FAILED'; wait"), "a::b")
        self.assertLess(time.monotonic() - began, 30)

    def test_a_program_that_ends_badly_fails_without_a_test(self):
        self.assertEqual(self.failed("echo 'test a::b ... ok'; exit 101"), "a program's end")
        self.assertIsNone(self.failed("echo 'test a::b ... ok'; echo 'about test c ... FAILED'"))


class Choice(unittest.TestCase):
    def chosen(self, *words):
        bugs = planted.all_bugs()
        found = {bug.name: None if i < 3 else "caught" for i, bug in enumerate(bugs)}
        return bugs, planted.chosen(planted.options().parse_args(words), bugs, found)

    def test_the_rest_are_those_without_a_record(self):
        bugs, some = self.chosen("--rest")
        self.assertEqual({bug.name for bug in bugs[:3]}, {bug.name for bug in some})

    def test_only_is_a_part_of_a_name_or_a_file(self):
        bugs, some = self.chosen("--only", "src/cpu/block.rs")
        self.assertTrue(some and all(bug.file == "src/cpu/block.rs" for bug in some))
        _, some = self.chosen("--only", bugs[7].name)
        self.assertIn(bugs[7], some)
        with self.assertRaisesRegex(Failed, "--only is nothing like it, allowed: a part of a planted bug's name or file"):
            self.chosen("--only", "nothing like it")


if __name__ == "__main__":
    unittest.main()
