"""What parts of reliability count and show."""

import tempfile
import unittest
from pathlib import Path

import reliability
from common import Command, Failed, output, step


class Reliability(unittest.TestCase):
    def test_passed_tests_are_counted_over_programs(self):
        said = (
            "running 2 tests\ntest a ... ok\ntest result: ok. 2 passed; 0 failed; 1 ignored;\n"
            "test result: ok. 0 passed; 0 failed;\ntest result: ok. 11 passed; 0 failed;\n"
        )
        self.assertEqual(reliability.passed(said), 13)
        self.assertEqual(reliability.tested("all", Command(["echo", said]), 5)["found"], "13 tests, 5 cases of each property")
        with self.assertRaisesRegex(Failed, "all: no test has run"):
            reliability.tested("all", Command(["echo", "test result: ok. 0 passed; 0 failed;"]))

    def test_commands_are_shown_without_this_machines_paths(self):
        env = {"RUSTFLAGS": "-a -b", "CASES": "4", "DIR": "/tmp/x", "OTHER": Path("/tmp/y"), "GONE": None}
        command = Command(["/usr/bin/cargo", "test", "--lib"], env)
        self.assertEqual(reliability.shown(command), "CASES=4 RUSTFLAGS='-a -b' cargo test --lib")

    def test_kernels_are_known_by_their_bytes(self):
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, "debug/build/onekv-1/out")
            made.mkdir(parents=True)
            with self.assertRaisesRegex(Failed, "no kernels in"):
                reliability.fatbins(Path(folder))
            (made / "a.fatbin").write_bytes(b"1")
            before = reliability.fatbins(Path(folder))
            (made / "a.fatbin").write_bytes(b"2")
            self.assertNotEqual(before, reliability.fatbins(Path(folder)))
            Path(folder, "debug/build/onekv-2/out").mkdir(parents=True)
            Path(folder, "debug/build/onekv-2/out/a.fatbin").write_bytes(b"2")
            with self.assertRaisesRegex(Failed, "a.fatbin was made twice in"):
                reliability.fatbins(Path(folder))


class Commands(unittest.TestCase):
    def test_a_command_that_fails_says_how(self):
        for run in (step, output):
            with self.assertRaisesRegex(Failed, "try: sh ended with exit status 3"):
                run("try", Command(["sh", "-c", "exit 3"]))
            with self.assertRaisesRegex(Failed, "cannot run /nothing/here; is it installed?"):
                run("try", Command(["/nothing/here"]))

    def test_what_is_none_is_no_part_of_the_environment(self):
        command = Command(["sh", "-c", "echo ${HOME-none} $MINE"], {"HOME": None, "MINE": 5})
        self.assertEqual(output("ask", command), "none 5\n")


if __name__ == "__main__":
    unittest.main()
