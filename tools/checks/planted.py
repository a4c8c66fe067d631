"""Are the tests able to fail? Plants each bug of planted.toml in a copy of the tree, one at a time: the tests that are meant to
catch it must turn red. Which one did, and when, goes to results/reliability/planted.jsonl: it is tried first again."""

from common import RESULTS, ROOT, Command, Failed, card_env, cargo, main, number, output, table, when, write_page

import argparse
import os
import re
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace
from typing import NamedTuple

from results import PLANTED, TEXT, Many, Maybe, Named, Record, read_file
from results_file import write_results

TABLE = ROOT / "tools/checks/planted.toml"
RECORDS = RESULTS / "planted.jsonl"
FOLDER = ROOT / "target/planted"
# What is in a test's place where the program ended without one that failed.
PROGRAMS_END = "a program's end"

BUG = Record({name: TEXT for name in ("name", "file", "from", "to")} | {"card": Maybe(TEXT)})
TESTS = Record({"tests": Many(TEXT, 2), "card": Maybe(TEXT), "bugs": Many(BUG, 1)})


class Bug(NamedTuple):
    name: str
    file: str
    before: str
    after: str
    # Arguments of `cargo test` for the tests that must catch it, and on which virtual card.
    tests: tuple
    card: str

    @property
    def kind(self):
        """Bugs of the same kind are looked for by the same tests on the same card."""
        return self.tests, self.card

    @property
    def soon_compiled(self):
        """Without the CUDA compiler, candle, or the virtual GPU."""
        return self.tests[1] in ("onekv", "onekv-cost", "onekv-model", "t5", "xtask") and "--features" not in self.tests

    def card_env(self):
        return card_env(self.card, "candle-cuda" in self.tests)

    def text(self, tree):
        """Its file, in which its text has a place of its own."""
        text = (tree / self.file).read_text("utf-8")
        found = text.count(self.before)
        if found != 1:
            raise Failed(f"`{self.before}` occurs {found} times in {self.file}; a planted bug needs a place of its own")
        return text

    def command(self, copy, only=None):
        """The tests that must fail, in the copy of the tree; `only`: those of these names."""
        # The simulator too: as optimised as for the gate, in one piece, each bug in it would take minutes.
        quick = [f"--config=profile.dev.package.ptxsim.{how}" for how in ("opt-level=1", "codegen-units=16")]
        env = {
            "CARGO_TARGET_DIR": FOLDER / "build",
            # A bug may leave something unused.
            "RUSTFLAGS": None,
            # One function of a crate is new: with these the rest is not compiled again.
            "CARGO_INCREMENTAL": "1",
            "CARGO_PROFILE_DEV_OPT_LEVEL": "1",
        }
        names = [] if only is None else ["--", "--exact", *sorted(only)]
        return Command(cargo("test", *quick, *self.tests, *names).words, env | self.card_env(), copy)


def all_bugs(text=None):
    """Those of the table."""
    return [
        # `from` is a word of Python's.
        Bug(bug.name, bug.file, getattr(bug, "from"), bug.to, tuple(group.tests), bug.card or group.card or "a100")
        for group in table(Named(TESTS), TABLE, text).values()
        for bug in group.bugs
    ]


def records():
    """By the names of bugs, those that were caught; of those that were not, nothing is said but the name."""
    return {line.bug: line for line in read_file(PLANTED, RECORDS).bugs} if RECORDS.exists() else {}


def record(found):
    lines = []
    for bug, caught in sorted(found.items()):
        of = {name: getattr(caught, name) for name in ("test", "date", "commit")} if caught else {}
        lines.append({"bug": bug} | of)
    write_results(RECORDS, {"table": TABLE.relative_to(ROOT).as_posix()}, lines)


def sample(bugs, at, most):
    """The first is the one that `at` counts to, round and round, among those that are soon compiled; others are of its kind."""
    soon = [bug for bug in bugs if bug.soon_compiled]
    at %= len(soon)
    turned = soon[at:] + soon[:at]
    return [bug for bug in turned if bug.kind == turned[0].kind][:most]


def chosen(arguments, bugs, found):
    if arguments.sample:
        seconds = output("the time of the last commit", Command(["git", "log", "-1", "--format=%ct"]))
        named = sample(bugs, int(seconds) // 60, arguments.sample)
    else:
        named = [bug for bug in bugs if arguments.only in bug.name or arguments.only in bug.file]
        if not named:
            raise Failed(f"--only is {arguments.only}, allowed: a part of a planted bug's name or file")
        # What one leaves compiled, others of the same tests find; nvcc takes longest.
        named.sort(key=lambda bug: (not bug.file.endswith(".rs"), bug.kind))
    return [bug for bug in named if not (arguments.rest and found[bug.name])]


def copy_of_the_tree():
    """The files that git knows, in a folder of their own. Those that are there already keep their time, by which cargo knows
    what it has compiled."""
    copy, list_of = FOLDER / "tree", FOLDER / "files"
    files = output("copy the tree to target/planted", Command(["git", "ls-files"]))
    # What is no longer known must not stay.
    if copy.exists() and not (list_of.exists() and list_of.read_text("utf-8") == files):
        shutil.rmtree(copy)
    for file in files.splitlines():
        to = copy / file
        if not (to.is_file() and to.read_bytes() == (ROOT / file).read_bytes()):
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, to)
    list_of.write_text(files, "utf-8")
    return copy


def first_failed(command):
    """The test that failed, if one did: with it, all are ended."""
    # In a group of their own, so that the programs that cargo starts end with it.
    tests = command.start(process_group=0, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        for line in tests.stdout:
            if said := re.fullmatch(r"test (.+) \.\.\. FAILED\n", line):
                return said[1]
        return PROGRAMS_END if tests.wait() else None
    finally:
        if tests.poll() is None:
            os.killpg(tests.pid, signal.SIGKILL)
        tests.wait()
        tests.stdout.close()


class Field:
    """Where bugs are planted."""

    def __init__(self, bugs, found):
        self.copy, self.bugs, self.found = copy_of_the_tree(), bugs, found
        for bug in bugs:
            # Where there is no driver, no bug is to blame.
            bug.card_env()
        # Of each kind of bug, whether its tests pass without one: if not, they would catch any. All of them, or those that are
        # tried first.
        self.sound = {}

    def test_that_catches(self, bug):
        """The test that fails, if any does: the one that did before, else any of the bug's."""
        if before := self.found[bug.name]:
            same = (self.found[other.name] for other in self.bugs if other.kind == bug.kind)
            self.must_pass(bug, {caught.test for caught in same if caught})
            if test := self.plant(bug, {before.test}):
                return test
        self.must_pass(bug)
        return self.plant(bug)

    def must_pass(self, bug, only=None):
        key = bug.kind, only is None
        if key not in self.sound:
            tests = bug.command(self.copy, only).start(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said, _ = tests.communicate()
            self.sound[key] = tests.returncode == 0
            if not self.sound[key]:
                print(said)
        if not self.sound[key]:
            raise Failed(f"`{' '.join(bug.tests)}` fails without a planted bug")

    def plant(self, bug, only=None):
        """Plants one bug, runs the tests that must fail, takes it out again. The name of the test that failed."""
        path, text = self.copy / bug.file, bug.text(self.copy)
        path.write_text(text.replace(bug.before, bug.after), "utf-8")
        try:
            # A bug that does not compile shows nothing.
            build = bug.command(self.copy)
            built = Command([*build.words, "--no-run"], build.env, build.cwd).start(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            _, said = built.communicate()
            if built.returncode:
                raise Failed(f"it does not compile: {said}")
            return first_failed(bug.command(self.copy, only))
        finally:
            path.write_text(text, "utf-8")


def options():
    parser = argparse.ArgumentParser(prog="cargo xtask planted", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", metavar="PART", default="", help="only those whose name or file contains this")
    which.add_argument(
        "--sample",
        metavar="N",
        type=number(1),
        help="only so many, at most, and none recorded: where in the table they begin the time of the last commit says, and they "
        "are of the same tests, of those that need neither the CUDA compiler nor candle nor the virtual GPU compiled anew",
    )
    parser.add_argument("--rest", action="store_true", help="only those that results/reliability/planted.jsonl does not have as caught")
    return parser


def planted():
    arguments = options().parse_args()
    bugs, before = all_bugs(), records()
    caught = {name: line for name, line in before.items() if line.test}
    found = {bug.name: caught.get(bug.name) for bug in bugs}
    some = chosen(arguments, bugs, found)
    if not some:
        print("none is left: each has a record of being caught")
        return
    field = Field(some, found)
    begun = when()
    astray = []
    for i, bug in enumerate(some, 1):
        began, test = time.monotonic(), None
        try:
            test = field.test_that_catches(bug)
            what = f"caught by {test}" if test else "UNNOTICED"
        except (Failed, OSError) as error:
            what = f"BROKEN\n{error}"
        seconds = int(time.monotonic() - began)
        print(f"{i:>3} of {len(some)}, {seconds:>3} s: {bug.name} ({bug.file}): {what}", flush=True)
        found[bug.name] = SimpleNamespace(test=test, **begun) if test else None
        if not test:
            astray.append(bug.name)
        # At once: what was seen is not lost where this is stopped. Of samples nothing: the gate tests the tree meanwhile.
        if not arguments.sample:
            record(found)
    if not arguments.sample:
        write_page()
    if astray:
        raise Failed(f"{len(astray)} planted bugs went unnoticed or cannot be planted: {'; '.join(astray)}")


if __name__ == "__main__":
    main(planted)
