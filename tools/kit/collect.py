"""Writes the kit's result files: figures with the machine they were measured on, and how each step ended.

Standard library alone, and results_file.py, which the kit has beside it. Formats: results/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

from results_file import write_results

# Of `nvidia-smi --query-gpu`; None for what a card does not say.
QUERIED = {
    "driver": "driver_version",
    "power_limit_w": "power.limit",
    "clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "application_clock_mhz": "clocks.applications.graphics",
    "top_clock_mhz": "clocks.max.sm",
    "top_memory_clock_mhz": "clocks.max.mem",
    "ecc": "ecc.mode.current",
    "pstate": "pstate",
}

# Lines of a log that say what came of it.
TELLING = re.compile(
    r"^test result:|ERROR SUMMARY|RACECHECK SUMMARY|^conformance:|rounds with equal bits|lines?,? .*left out|^error:|panicked at"
)


def read(path: Path | None) -> dict:
    """A JSON object, or nothing where there is none, or half of one."""
    try:
        return json.loads(path.read_text()) if path else {}
    except (OSError, ValueError):
        return {}


def grown(path: Path | None) -> tuple[dict, list[dict]]:
    """Head and lines of a results file, or nothing where there is none. Whoever was stopped in a line did not end it."""
    try:
        head, *lines = map(json.loads, path.read_text("utf-8").split("\n")[:-1] if path else ["{}"])
        return head, lines
    except (OSError, ValueError):
        return {}, []


def number(text: str) -> float | str | None:
    text = text.strip()
    try:
        return float(text)
    except ValueError:
        return None if text.startswith("[") or not text else text


def smi() -> dict:
    """What the driver says of the first card, in one question; one by one if it does not know some name."""

    def ask(names: list[str]) -> list[str]:
        queries = ",".join(QUERIED[name] for name in names)
        asked = ["nvidia-smi", "--id=0", f"--query-gpu={queries}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return []
        return done.stdout.strip().split(",") if done.returncode == 0 else []

    names = list(QUERIED)
    values = ask(names)
    if len(values) == len(names):
        return {name: number(value) for name, value in zip(names, values)}
    return {name: number(value) for name in names for value in ask([name])[:1]}


def clocks(path: Path | None) -> list[dict]:
    """Lines of nvidia-smi's samples of the first card."""
    if path is None or not path.exists():
        return []
    names = ("sm_mhz", "memory_mhz", "watts", "celsius")
    samples, begin = [], None
    for line in path.read_text(errors="replace").splitlines():
        stamp, *values = line.split(",")
        try:
            at = datetime.datetime.strptime(stamp.strip(), "%Y/%m/%d %H:%M:%S.%f")
        except ValueError:
            continue
        begin = begin or at
        seconds = round((at - begin).total_seconds(), 1)
        samples.append({"kind": "clock", "seconds": seconds, **dict(zip(names, map(number, values)))})
    return samples


def machine(args: argparse.Namespace) -> None:
    """What `card --machine` wrote, with what the driver, the kit and this Python know."""
    told = read(args.out) | smi() | read(args.kit)
    told["python"] = sys.version.split()[0]
    told["date"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")
    args.out.write_text(json.dumps(told, indent=1))


def merge(args: argparse.Namespace) -> None:
    """One file of ours and the peers'."""
    (ours, lines), (peers, of_peers) = grown(args.ours), grown(args.peers)
    if not ours:
        ours = {"error": "our benchmark left no results"}
    told = read(args.machine) | ours.pop("machine", {})
    theirs = peers.get("peer_machine") or ours.get("peer_machine") or {}
    told |= {name: theirs[name] for name in ("torch", "torch_cuda", "cudnn", "triton") if name in theirs}
    lines += of_peers
    suspects = mark_suspects(lines)
    write_results(args.out, {"machine": told, "peers": None} | peers | ours, [*lines, *clocks(args.clocks)])
    timed = sum("kind" not in line for line in lines)
    failed = sum("error" in line for line in lines)
    left_out = sum(line.get("kind") == "left out" for line in lines)
    print(f"{args.out.name}: {timed} lines, {failed} of them errors, {suspects} suspect, {left_out} shapes left out")


def mark_suspects(lines: list[dict]) -> int:
    """Marks results that are not those of the plan of ours that was chosen, on the same numbers."""
    key = lambda line: tuple(line.get(name) for name in ("model", "inputs", "rows", "keys"))
    told = [line for line in lines if "mean_abs" in line and line.get("layout") != "replicated"]
    ours = {key(line): line["mean_abs"] for line in told if line["system"] == "onekv" and line["chosen"]}
    suspects = 0
    for line in told:
        want = ours.get(key(line))
        # Written so that NaN is suspect.
        if want is not None and not abs(line["mean_abs"] / want - 1) <= 0.01:
            line["suspect"] = f"mean_abs is {line['mean_abs']:.6f}, onekv has {want:.6f}"
            suspects += 1
    return suspects


def stages(args: argparse.Namespace) -> None:
    steps = []
    for row in args.steps.read_text().splitlines():
        name, outcome, status, seconds = row.split("\t")
        log = args.logs / f"{name}.log"
        text = log.read_text(errors="replace").splitlines() if log.exists() else []
        telling = [line.strip("= ").strip()[:300] for line in text if TELLING.search(line)]
        # What a failure says last is more than nothing.
        detail = telling[-20:] or ([] if outcome == "passed" else [line[:300] for line in text[-3:]])
        steps.append(
            {"name": name, "outcome": outcome, "status": int(status), "seconds": int(seconds), "detail": detail}
        )
    write_results(args.out, {"machine": read(args.machine)}, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    describing, merging, staging = (commands.add_parser(name) for name in ("machine", "merge", "stages"))
    describing.add_argument("--kit", type=Path, required=True, help="kit.json")
    describing.set_defaults(run=machine)
    for command in (merging, staging):
        command.add_argument("--machine", type=Path, required=True, help="what `machine` wrote")
    for command in (describing, merging, staging):
        command.add_argument("--out", type=Path, required=True)
    merging.add_argument("--ours", type=Path, required=True)
    merging.add_argument("--peers", type=Path)
    merging.add_argument("--clocks", type=Path, help="samples of nvidia-smi")
    merging.set_defaults(run=merge)
    staging.add_argument("--steps", type=Path, required=True, help="name, outcome, status, seconds by tabs")
    staging.add_argument("--logs", type=Path, required=True)
    staging.set_defaults(run=stages)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
