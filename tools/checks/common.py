"""What the checks share: commands that are said before they run, virtual cards, and the files of results/reliability."""

import sys

if sys.version_info < (3, 11):
    sys.exit(f"error: Python is {sys.version.split()[0]}, allowed: 3.11 and newer, whose tomllib reads the tables")

import argparse
import functools
import json
import os
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# The one reader of results is there.
sys.path.append(str(ROOT / "tools/report"))

from results import Refused

# Where cargo builds.
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
RESULTS = ROOT / "results/reliability"


class Failed(Exception):
    """What a check says at its end, if that is not a good one."""


def main(program):
    if "XTASK" not in os.environ:
        sys.exit(f"error: XTASK is not set; run this as `cargo xtask {Path(sys.argv[0]).stem}`, which names itself there")
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


def number(least, most=(1 << 32) - 1):
    """A kind of option."""

    def checked(text):
        if not (text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text}, allowed: a whole number, {least} to {most}")
        return int(text)

    return checked


def cargo(*words):
    return Command([os.environ.get("CARGO", "cargo"), *words])


def workspace(what, *words):
    """A command of cargo's for the whole workspace, with the features that `cargo xtask test` asks for: what that compiled is
    not compiled again. Without the packages that link NVIDIA's libraries."""
    features = ["--features", "candle,tracing", "--features", "cuda"]
    return cargo(what, "--workspace", *features, "--exclude", "onekv-cust", "--exclude", "onekv-nccl", *words)


@functools.cache
def card_env(card, candle=False):
    """The environment in which a virtual card is the machine's."""
    command = Command([os.environ["XTASK"], "on", card, "--print-env", *(["--candle"] if candle else [])])
    return dict(line.split("=", 1) for line in output(f"ask for a virtual {card}", command).splitlines())


def date():
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")


def commit():
    """The commit that is checked out; with `+` where the tree is not it, but for what the checks write."""
    but_results = ["--", ".", ":!results", ":!docs/reliability.md"]
    changed = output("the commit", Command(["git", "status", "--porcelain", "--untracked-files=no", *but_results]))
    return output("the commit", Command(["git", "rev-parse", "--short", "HEAD"])).strip() + ("+" if changed.strip() else "")


def put(path, head, lines):
    """Writes a file of results: what is said once, then a line for each thing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in (head, *lines)), "utf-8")


def write_page():
    """docs/reliability.md, of what is in results/reliability."""
    page = "docs/reliability.md"
    step(f"write {page}", Command([sys.executable, "-B", "tools/report/report.py", "--root", ".", "--only", page]))
