"""Ours and the peers in turn at every point, on the CPU: a machine's speed drifts within minutes.

`cargo xtask peers cpu` starts it; results/README.md describes the files. Every system is measured by a process that
stays and takes orders: ours is that of ours/, candle's `candle-t5 --orders`, the others' cpu.py. Standard
library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common import PROMPT_TOKENS, SHAPES, setting
from orders import ROOT, Failed, Server, in_turn, peers
from results_file import write_results

CPU = SHAPES["cpu"]
# A turn of attention.
BURST_S = 0.05
# A system has no more turns at a point once its runs took so long together.
BUDGET_S = 6.0

# Systems by who measures them. Of each work the first is what the others are compared with; Hugging Face's come before
# those that must answer alike.
SYSTEMS = {
    "attention": [
        ("ours", "onekv"),
        ("ours", "onekv, bf16"),
        ("ours", "onekv, f16"),
        ("cpu.py", "PyTorch SDPA, queries folded"),
        ("cpu.py", "PyTorch SDPA, K/V expanded"),
        ("candle", "candle flash, queries folded"),
        ("candle", "candle flash, K/V expanded"),
        ("candle", "candle matmul, queries folded"),
        ("candle", "candle matmul, K/V expanded"),
    ],
    "t5": [
        ("ours", "onekv, PID"),
        ("cpu.py", "HF, encoded once, batch 1 broadcast"),
        ("cpu.py", "HF, encoded once and expanded"),
        ("cpu.py", "ONNX Runtime, encoded once, batch 1 broadcast"),
        ("candle", "onekv on candle, PID"),
        ("candle", "candle, encodes once"),
        ("ours", "onekv, PIE"),
        ("cpu.py", "HF, PIE"),
        ("cpu.py", "CTranslate2, PIE"),
        ("cpu.py", "CTranslate2 int8, PIE"),
        ("cpu.py", "ONNX Runtime, PIE"),
    ],
}


class Point(NamedTuple):
    # Of a T5.
    shape: str | None
    rows: int
    keys: int


@dataclass
class Turns:
    """Seconds of a system's runs by its turns, and why it has no more."""

    turns: list[list[float]] = field(default_factory=list)
    error: str | None = None

    def done(self) -> bool:
        return self.error is not None or sum(map(sum, self.turns)) > BUDGET_S

    def outcome(self, ours: Turns) -> dict:
        """Fields of its line; beside those of `ours` the median over ours in the same turn."""
        if self.error is not None:
            return {"error": self.error}
        runs = [seconds for turn in self.turns for seconds in turn]
        # Of an even number the upper one.
        medians = [statistics.median_high(turn) for turn in self.turns]
        times = {"median_s": statistics.median_high(medians), "min_s": min(runs), "max_s": max(runs), "runs": len(runs)}
        if self is ours:
            return times
        ratios = [mine / statistics.median_high(turn) for mine, turn in zip(medians, ours.turns)]
        median = statistics.median_high(ratios)
        return times | {"of_ours": {"median": median, "min": min(ratios), "max": max(ratios), "turns": len(ratios)}}


def points(work: str, rows: list[int], keys: list[int]) -> list[Point]:
    """Of those in shapes.json the ones that were asked for; an empty list asks for all."""
    listed = CPU[work]
    chosen = lambda name, asked: [n for n in listed[name] if not asked or n in asked]
    return [
        Point(shape, u, n)
        for shape in listed.get("shapes", [None]) for n in chosen("keys", keys) for u in chosen("rows", rows)
    ]


def taken(by: str, point: Point) -> bool:
    """Whether a system is measured at a point. Candle's T5 takes a minute where the others take seconds."""
    return by != "candle" or point.shape is None or point in {Point("t5-base", 8, 512), Point("t5-base", 30, 512)}


def order(point: Point) -> dict:
    if point.shape is None:
        return {"what": "attention", "rows": point.rows, "keys": point.keys, "seconds": BURST_S}
    lengths = {"prompt_tokens": PROMPT_TOKENS, "new_tokens": CPU["t5"]["new_tokens"]}
    return {"what": "t5", **point._asdict(), **lengths}


def lines_at(servers: dict[str, Server], systems: list[tuple[str, str]], point: Point, rounds: int) -> list[dict]:
    """`rounds` turns of each system, or until there is none left to compare ours with."""
    all_turns = {system: Turns() for _, system in systems}
    ours, *peers = all_turns.values()
    for turn in range(rounds):
        if all(peer.done() for peer in peers):
            break
        for by, system in in_turn(systems, turn):
            turns = all_turns[system]
            if turns is not ours and turns.done():
                continue
            answer = servers[by].ask(system=system, **order(point))
            if "error" in answer and by != "ours":
                turns.error = answer["error"]
                print(f"{system}: {turns.error}", file=sys.stderr, flush=True)
            elif not answer.get("seconds"):
                raise Failed(f"{system}: {answer.get('error', answer)}")
            else:
                turns.turns.append(answer["seconds"])
    place = {name: value for name, value in point._asdict().items() if value is not None}
    return [{"system": system, **place, **turns.outcome(ours)} for system, turns in all_turns.items()]


def table(lines: list[dict]) -> str:
    """Medians, and how many times as long as ours each peer takes, with the spread over turns."""
    rows = [["shape", "keys", "rows", "system", "median", "runs", "of ours", "spread"]]
    for line in lines:
        row = [line.get("shape", ""), str(line["keys"]), str(line["rows"]), line["system"]]
        if "error" in line:
            row += ["", "", "", line["error"]]
        else:
            row += [f"{line['median_s'] * 1e3:.3f} ms", str(line["runs"]), "", ""]
        if ratio := line.get("of_ours"):
            row[-2:] = f"{ratio['median']:.2f}x", f"{ratio['min']:.2f} to {ratio['max']:.2f}"
        rows.append(row)
    # The last column may be long.
    widths = [max(map(len, column)) for column in zip(*rows)][:-1] + [0]
    head, *rest = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([head, "─" * len(head), *rest])


def ours(args: argparse.Namespace) -> Server:
    return Server("ours", [str(args.programs / "ours"), "--threads", str(args.threads)])


def probe(server: Server) -> dict:
    say("the machine's rates")
    return {"kind": "probe", **server.told("probe")}


def say(what: str) -> None:
    print(f"==> {what}", file=sys.stderr, flush=True)


def candle() -> dict:
    """Candle, in the version that is built."""
    found = re.search(r'name = "candle-core"\nversion = "([^"]*)"', (ROOT / "Cargo.lock").read_text())
    if found is None:
        raise Failed("Cargo.lock has no candle-core")
    note = "flash: its flash_attn; matmul: products and softmax as in its T5, which projects K and V again in every step"
    return {"version": found[1], "note": note}


def measured(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    """What the head of the file says of the libraries, and its lines."""
    with contextlib.ExitStack() as stack:
        servers = {"ours": stack.enter_context(ours(args))}
        command = [str(args.programs / "candle-t5"), "--orders"]
        servers["candle"] = stack.enter_context(Server("candle", command, RAYON_NUM_THREADS=str(args.threads)))
        if args.python:
            servers["cpu.py"] = stack.enter_context(peers(args.python, args.threads))
            servers["cpu.py"].told("peers")
        systems = [(by, system) for by, system in SYSTEMS[args.work] if by in servers]
        all_points = points(args.work, args.rows, args.keys)
        before, lines = probe(servers["ours"]), []
        for i, point in enumerate(all_points, 1):
            say(f"{args.work}, point {i} of {len(all_points)}: {point.shape or ''} U = {point.rows}, n = {point.keys}")
            lines += lines_at(servers, [one for one in systems if taken(one[0], point)], point, args.rounds)
        after = probe(servers["ours"])
        libraries = {"candle": candle()} | (servers["cpu.py"].told("peers") if args.python else {})
    print(table(lines))
    # Notes of the libraries tell of what was measured: the head is not known before.
    return {"peers": dict(sorted(libraries.items()))}, [before, *lines, after]


def crossover(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Where PID pays, of ours alone; every method runs `rounds` times at each point."""
    with ours(args) as server:
        rates = probe(server)
    roofline = f"{rates['fma_flops_per_s'] / 1e12},{rates['copy_bytes_per_s'] / 1e9}"
    out = ROOT / "target" / "crossover.jsonl"
    script = [sys.executable, "tools/peers/crossover.py", "--t5", str(args.programs / "t5"), "--out", str(out)]
    script += ["--threads", str(args.threads), "--runs", str(args.rounds), "--roofline", roofline]
    if ended := subprocess.run(script, cwd=ROOT).returncode:
        raise Failed(f"tools/peers/crossover.py ended with {ended}")
    with out.open(encoding="utf-8") as file:
        head, *lines = map(json.loads, file)
    return head, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=[*SYSTEMS, "crossover"])
    parser.add_argument("--programs", type=Path, required=True, help="folder of ours, candle-t5 and t5, built")
    parser.add_argument("--out", type=Path, required=True, help="the results file")
    parser.add_argument("--threads", type=int, default=2, help="of every system")
    parser.add_argument("--rounds", type=int, default=5, help="times ours and the peers take turns at each point")
    parser.add_argument("--python", help="one with requirements.txt; without it ours and candle's alone are measured")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="only so many prompts, of those in shapes.json")
    parser.add_argument("--keys", type=int, nargs="*", default=[], help="only so many keys, of those in shapes.json")
    args = parser.parse_args()
    try:
        head, lines = crossover(args) if args.work == "crossover" else measured(args)
    except Failed as error:
        sys.exit(f"error: {error}")
    write_results(args.out, setting(args.threads) | head, lines)
    print(args.out)


if __name__ == "__main__":
    main()
