"""The table of planted bugs fits the tree: each has a place, a record, and a test that there is."""

import os
import unittest

import planted
from common import ROOT, Failed


def rust_files():
    """All Rust files; not by git, which knows none in a copy of the tree."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in ("target", ".git")]
        yield from (os.path.join(folder, file) for file in files if file.endswith(".rs"))


class Table(unittest.TestCase):
    def test_a_change_that_moves_a_text_takes_its_bug_along(self):
        def astray(bug):
            try:
                bug.text(ROOT)
            except (Failed, OSError) as error:
                return f"{bug.name}: {error}"

        self.assertEqual([], [*filter(None, map(astray, planted.all_bugs()))])

    def test_a_bug_that_is_new_has_a_place_in_the_records(self):
        """`cargo xtask planted --rest` makes it."""
        self.assertEqual([*planted.records()], sorted(bug.name for bug in planted.all_bugs()))

    def test_every_test_that_caught_a_bug_is_there(self):
        """`cargo xtask planted --only BUG` says what catches it where that test is gone, or has another name."""
        texts = []
        for file in rust_files():
            with open(file, encoding="utf-8") as text:
                texts.append(text.read())
        tests = {line.test for line in planted.records().values() if line.test} - {planted.PROGRAMS_END}
        self.assertGreater(len(tests), 100)
        gone = [test for test in tests if not any(f"fn {test.split('::')[-1]}(" in text for text in texts)]
        self.assertEqual([], gone)


if __name__ == "__main__":
    unittest.main()
