"""Results as lines of JSON, for programs that are not Python: tools/model."""

import argparse
import json
import sys
from pathlib import Path

from results import ATTENTION, PLAN, QUALITY, Refused, read_file, results

# Layouts of ours with one K/V for all prompts: whether it is in e4m3.
SHARED = {"shared": False, "e4m3": True}


def sweeps(path):
    """By their paths: one, or in a folder of results those of all cards."""
    if not path.is_dir():
        return {path: read_file(ATTENTION, path)}
    files = {path / card / name: run for card, runs in results(path).cards.items() for name, run in runs.items()}
    return {file: run for file, run in files.items() if file.name.startswith("attention-")}


def plans(path):
    """The plans of ours that were timed. Those of a shape stand together, in the order of the file."""
    for file, run in sweeps(path).items():
        of = {"file": str(file), "folder": file.parent.name, "sweep": run.sweep}
        of |= {name: getattr(run.machine, name) for name in ("card", "compute_capability", "multiprocessors", "date")}
        ours = [line for line in run.lines if line.layout in SHARED]
        for line in sorted(ours, key=lambda line: (line.shape, SHARED[line.layout])):
            plan = {name: getattr(line, name) for name in (*PLAN, "by_cost", "us")}
            yield of | line.shape._asdict() | {"e4m3_kv": SHARED[line.layout]} | plan


def tasks(path):
    """What the tiny models were trained on: prompts of a text and mean tokens."""
    for name, task in read_file(QUALITY, path).tasks.items():
        lengths = ("prompts", "input_tokens", "prompt_tokens", "new_tokens")
        yield {"task": name} | {length: getattr(task, length) for length in lengths}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("of", choices=("plans", "tasks"))
    arguments.add_argument("paths", type=Path, nargs="+", help="result files; for plans a folder of results too")
    arguments = arguments.parse_args()
    for path in arguments.paths:
        for line in {"plans": plans, "tasks": tasks}[arguments.of](path):
            print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    try:
        main()
    except Refused as error:
        sys.exit(str(error))
