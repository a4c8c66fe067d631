"""Writes results files, for all scripts that measure, count or check. Standard library alone; results/README.md describes the
files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path


def today() -> str:
    """In UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")


def text(*objects: dict) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)


def write_results(path: Path, head: dict, lines: Iterable[dict]) -> None:
    """A results file whose lines are all known. Whoever is stopped leaves the one of before."""
    half = path.with_name(f"{path.name}.half")
    half.write_text(text(head, *lines), "utf-8")
    half.replace(path)


class Results:
    """A results file of JSON lines: its head, then a line for each thing as it is measured. Whoever is stopped leaves those."""

    def __init__(self, path: Path, head: dict) -> None:
        self.path = path
        self.lines: list[dict] = []
        self.left_out: list[dict] = []
        self.write(head, mode="w")

    def write(self, *objects: dict, mode: str = "a") -> None:
        with self.path.open(mode, encoding="utf-8") as file:
            file.write(text(*objects))

    def add(self, *lines: dict) -> None:
        self.lines += lines
        self.write(*lines)

    def leave_out(self, *lines: dict) -> None:
        """What the time budget has no room for."""
        self.left_out += lines
        self.write(*({"kind": "left out", **line} for line in lines))

    def end(self) -> int:
        """Says how many there are; 1, for the shell, where none has a time."""
        failed = sum("error" in line for line in self.lines)
        print(f"{len(self.lines)} lines, {failed} of them errors; {len(self.left_out)} left out")
        return 0 if failed < len(self.lines) else 1
