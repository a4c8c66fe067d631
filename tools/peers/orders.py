"""Processes that stay and measure what they are told, one order at a time: a line of JSON in, a line of JSON out.

Standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Threads that wait for work may spin, and take time from whoever is measured next: for so long at most.
LONGEST_SPIN_S = 5.0
# Three of the kernel's ticks.
LOOK_S = 0.03


class Failed(Exception):
    """What ends the measurement."""


class Server:
    """A running process that takes orders. It ends when there are none to come."""

    def __init__(self, name: str, command: list[str], **environment: str) -> None:
        self.name = name
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        try:
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **pipes)
        except OSError as error:
            raise Failed(f"{name}: cannot run {command[0]}: {error}") from error

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, what: str, **order: object) -> dict:
        """The answer, once the process is idle again."""
        order = {"what": what, **order}
        try:
            print(json.dumps(order), file=self.process.stdin, flush=True)
        except OSError as error:
            raise Failed(f"{self.name} has ended: {error}") from error
        text = self.process.stdout.readline()
        if not text:
            raise Failed(f"{self.name} ended at {order}")
        self.settle()
        try:
            return dict(json.loads(text))
        except (TypeError, ValueError) as error:
            raise Failed(f"{self.name} answered {text}") from error

    def told(self, what: str) -> dict:
        """What it says of itself or of the machine."""
        answer = self.ask(what)
        if what not in answer:
            raise Failed(f"{self.name}, asked for {what}: {answer}")
        return answer[what]

    def settle(self) -> None:
        end = time.monotonic() + LONGEST_SPIN_S
        while time.monotonic() < end:
            before = self.ticks()
            time.sleep(LOOK_S)
            if self.ticks() == before:
                return
        raise Failed(f"{self.name} keeps computing after its answer: what is measured beside it would be too slow")

    def ticks(self) -> int:
        """User and system time of all threads."""
        # Fields 14 and 15; the second is the name, in parentheses.
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[14 - 3]) + int(fields[15 - 3])


def in_turn(systems: list, turn: int) -> list:
    """A B C, C B A, A B C: none always follows the same other."""
    return systems if turn % 2 == 0 else systems[::-1]


def peers(python: str, threads: int) -> Server:
    """Those in Python. It has read its libraries, which takes seconds, when it answers."""
    command = [python, "tools/peers/cpu.py", "--threads", str(threads)]
    return Server("tools/peers/cpu.py", command, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
