"""What each way to have the outputs of one input costs, on the CPU in f32 and with random weights: seconds, and the process's
largest memory. T5-base, where ours and Hugging Face's take turns, goes to cost.jsonl in --out, a Llama of the 1B shape to
decoder-only.jsonl.

Tasks and runs are written as they end. results/README.md describes the files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))

from common import setting
from orders import Failed, Server, in_turn, peers
from results_file import Results

SHAPE = "t5-base"
# A first run of less is not counted, as in tools/peers/cpu.py: it warms up.
WARMING_S = 2.0
# A way has no more turns once its runs took so long together.
BUDGET_S = 60.0


@dataclass(frozen=True)
class Task:
    """Lengths in tokens, chosen for what such a task looks like with a real tokenizer."""

    task: str
    prompts: int
    keys: int
    prompt_tokens: int
    new_tokens: int


TASKS = [
    Task("dialogue", prompts=30, keys=512, prompt_tokens=3, new_tokens=4),
    Task("summary", prompts=4, keys=1024, prompt_tokens=4, new_tokens=64),
    Task("qa", prompts=8, keys=768, prompt_tokens=12, new_tokens=8),
    Task("long prompts", prompts=8, keys=64, prompt_tokens=512, new_tokens=8),
]

METHODS = {"PID": "pid", "PID-replicated": "pid-replicated", "PIE": "pie"}
PEERS = ["HF, encoded once, batch 1 broadcast", "HF, encoded once and expanded", "HF, PIE"]

DOCUMENT = {"shape": "llama-1b", "document_tokens": 512, "prompts": 8, "prompt_tokens": 16, "new_tokens": 16}
MODES = ["shared", "copies", "recompute"]


def run(command: list[str]) -> tuple[dict, int]:
    """What a program prints as JSON, and its largest resident memory in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise Failed(f"{' '.join(command)}: ended with {status}")
    # Linux counts in KiB.
    return json.loads(text), usage.ru_maxrss * 1024


def of_t5(program: str, prompts: int, keys: int, prompt_tokens: int, new_tokens: int) -> list[str]:
    """The example's command line of a point."""
    lengths = {"keys": keys, "prompt-count": prompts, "prompt-tokens": prompt_tokens, "max-new-tokens": new_tokens}
    options = [word for name, value in lengths.items() for word in (f"--{name}", str(value))]
    return [program, "--random", SHAPE, "--backend", "cpu", "--json", *options]


def ours(program: str, threads: int, task: Task, way: str) -> dict:
    """One run in a process of its own."""
    mode, prompts, prompt_tokens, new_tokens = METHODS.get(way, "pid"), task.prompts, task.prompt_tokens, task.new_tokens
    if way == "one sequence":
        # A token parts an answer from the next.
        prompts, new_tokens = 1, task.prompts * task.new_tokens + task.prompts - 1
    elif way == "separate decoders":
        prompts, prompt_tokens = 1, 0
    command = of_t5(program, prompts, task.keys, prompt_tokens, new_tokens)
    command += ["--mode", mode, "--threads", str(threads), "--runs"]
    told, peak_bytes = run([*command, "1"])
    if told[mode]["total_s"] < WARMING_S:
        # Before two that count there is one that does not.
        told, peak_bytes = run([*command, "2"])
    figures = told[mode]
    if way == "separate decoders":
        # One decoder was run, and the others would take as long. Each projects K and V with weights of its own, which this
        # counts once, with the encoding. Nor are their weights in this memory.
        return {"seconds": figures["encode_s"] + task.prompts * (figures["prefill_s"] + figures["decode_s"])}
    return {"seconds": figures["total_s"], "peak_bytes": peak_bytes}


def decoder_only(program: str, threads: int, rounds: int, results: Results) -> None:
    """A run of each mode in turn, each in a process of its own."""
    spent = dict.fromkeys(MODES, 0.0)
    for turn in range(rounds):
        for mode in in_turn(MODES, turn):
            if spent[mode] > BUDGET_S:
                continue
            command = [program, "--mode", mode, "--threads", str(threads), "--json"]
            for name, value in DOCUMENT.items():
                command += [f"--{name.replace('_', '-')}", str(value)]
            told, peak_bytes = run(command)
            figures = told["modes"][mode] | {"peak_bytes": peak_bytes}
            spent[mode] += figures["total_s"]
            results.add({"mode": mode, **figures})
            print(f"decoder-only, turn {turn + 1} of {rounds}: {mode}: {figures}", flush=True)


def theirs(others: Server, task: Task, system: str) -> dict:
    """One run by a library that is measured in one process."""
    work = {"rows": task.prompts, "keys": task.keys, "prompt_tokens": task.prompt_tokens, "new_tokens": task.new_tokens}
    answer = others.ask("t5", system=system, shape=SHAPE, **work)
    if "error" in answer:
        raise Failed(f"{system}: {answer['error']}")
    return {"seconds": answer["seconds"][0]}


def explained(program: str, task: Task) -> dict:
    """FLOPs and bytes of each way, by formula."""
    told, _ = run([*of_t5(program, task.prompts, task.keys, task.prompt_tokens, task.new_tokens), "--explain"])
    return {way: {name: cost[name] for name in ("flops", "bytes")} for way, cost in told["ways"].items()}


def measured(program: str, others: Server, threads: int, rounds: int, task: Task) -> list[dict]:
    """A line for each way."""
    ways = [*METHODS, "one sequence", "separate decoders", *PEERS]
    runs: dict[str, list[dict]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in in_turn(ways, turn):
            if sum(run["seconds"] for run in runs[way]) > BUDGET_S:
                continue
            runs[way].append(theirs(others, task, way) if way in PEERS else ours(program, threads, task, way))
            print(f"{task.task}, turn {turn + 1} of {rounds}: {way}: {runs[way][-1]['seconds']:.3f} s", flush=True)
    costs = explained(program, task)
    lines = []
    for way, of_way in runs.items():
        line = asdict(task) | {"way": way, "seconds": [run["seconds"] for run in of_way], **costs.get(way.lower(), {})}
        # The peers answer from one process.
        if "peak_bytes" in of_way[0]:
            line["peak_bytes"] = max(run["peak_bytes"] for run in of_way)
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--t5", required=True, help="onekv's T5 example")
    parser.add_argument("--shared-prefix", required=True, help="onekv's decoder-only example")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results files")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    once = setting(args.threads)
    results = Results(args.out / "cost.jsonl", once | {"transformers": version("transformers"), "shape": SHAPE})
    with peers(sys.executable, args.threads) as others:
        for task in TASKS:
            results.add(*measured(args.t5, others, args.threads, args.rounds, task))
    results = Results(args.out / "decoder-only.jsonl", once | DOCUMENT)
    decoder_only(args.shared_prefix, args.threads, args.rounds, results)


if __name__ == "__main__":
    try:
        main()
    except (Failed, OSError) as error:
        sys.exit(f"error: {error}")
