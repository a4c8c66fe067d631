"""What the checks share: commands that are said before they run, virtual cards, their options and tables, and what a record says
of when it was made."""

import sys

if sys.version_info < (3, 11):
    sys.exit(f"error: Python is {sys.version.split()[0]}, allowed: 3.11 and newer, whose tomllib reads the tables")

import argparse
import functools
import os
import subprocess
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# The one reader of results, and what writes them.
sys.path += [str(ROOT / "tools" / folder) for folder in ("report", "peers")]

from results import Many, Named, Record, Refused, read
from results_file import today

# Where cargo builds.
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
RESULTS = ROOT / "results/reliability"


class Failed(Exception):
    """What a check says at its end, if that is not a good one."""


def main(program):
    if not {"XTASK", "WORKSPACE"} <= os.environ.keys():
        sys.exit(f"error: XTASK or WORKSPACE is not set; run this as `cargo xtask {Path(sys.argv[0]).stem}`, which sets them")
    try:
        program()
    except (Failed, Refused, OSError) as error:
        sys.exit(f"error: {error}")


class Command(NamedTuple):
    words: list
    # What it is given in its environment besides; None: taken out of it.
    env: dict = {}
    cwd: Path = ROOT

    def start(self, **options):
        given = os.environ | self.env
        env = {name: str(value) for name, value in given.items() if value is not None}
        try:
            return subprocess.Popen([str(word) for word in self.words], env=env, cwd=self.cwd, text=True, errors="replace", **options)
        except OSError as error:
            raise Failed(f"cannot run {self.words[0]}; is it installed? {error}") from None

    def ended(self, what, status):
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return Failed(f"{what}: {self.words[0]} ended with {how}")


def step(what, command, **options):
    """Runs a command, and says at its end how long it took."""
    print(f"==> {what}", file=sys.stderr)
    began = time.monotonic()
    status = command.start(**options).wait()
    if status:
        raise command.ended(what, status)
    print(f"<== {what}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def output(what, command):
    """What a command prints, which is shown where it fails; its standard error stays visible."""
    print(f"==> {what}", file=sys.stderr)
    running = command.start(stdout=subprocess.PIPE)
    said, _ = running.communicate()
    if running.returncode:
        sys.stderr.write(said)
        raise command.ended(what, running.returncode)
    return said


MOST = (1 << 32) - 1


def number(least):
    """A kind of option."""

    def checked(text):
        if not (text.isdecimal() and least <= int(text) <= MOST):
            raise argparse.ArgumentTypeError(f"{text}, allowed: a whole number, {least} to {MOST}")
        return int(text)

    return checked


def table(kind, path, text=None):
    """A file of TOML, or its text, as a `kind` of the reader of results; it has no other fields."""
    try:
        value = tomllib.loads(path.read_text("utf-8") if text is None else text)
        made = read(kind, value)
        known(kind, value)
    except (Refused, tomllib.TOMLDecodeError) as error:
        raise Failed(f"{path}: {error}") from None
    return made


def known(kind, value, at=""):
    match kind:
        case Record(fields):
            for name, of in value.items():
                if name not in fields:
                    raise Refused(f"{at or 'the table'} has a field {name}, allowed: {', '.join(fields)}")
                known(fields[name], of, f"{at}.{name}".lstrip("."))
        case Many(kind):
            for i, one in enumerate(value):
                known(kind, one, f"{at}[{i}]")
        case Named(kind):
            for name, one in value.items():
                known(kind, one, name)


def cargo(*words):
    return Command([os.environ.get("CARGO", "cargo"), *words])


def workspace(what, *words):
    """A command of cargo's for the packages and features that `cargo xtask test` asks for: what that compiled is not compiled
    again."""
    return cargo(what, *os.environ["WORKSPACE"].split(), "--features", "cuda", *words)


@functools.cache
def card_env(card, candle=False):
    """The environment in which a virtual card is the machine's."""
    command = Command([os.environ["XTASK"], "on", card, "--print-env", *(["--candle"] if candle else [])])
    return dict(line.split("=", 1) for line in output(f"ask for a virtual {card}", command).splitlines())


def when():
    """The date, and the commit that is checked out; with `+` where the tree is not it, but for what the checks write."""
    but_results = ["--", ".", ":!results", ":!docs/reliability.md"]
    changed = output("the commit", Command(["git", "status", "--porcelain", "--untracked-files=no", *but_results]))
    commit = output("the commit", Command(["git", "rev-parse", "--short", "HEAD"])).strip()
    return {"date": today(), "commit": commit + ("+" if changed.strip() else "")}


def write_page():
    """docs/reliability.md, of what is in results/reliability."""
    page = "docs/reliability.md"
    step(f"write {page}", Command([sys.executable, "-B", "tools/report/report.py", "--root", ".", "--only", page]))
