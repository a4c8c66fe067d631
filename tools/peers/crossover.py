"""Times where prompt-in-decoder (PID) pays and where it does not: onekv's T5 example, PID and PIE in one process.

Three lines through a base point: over the prompts U, the input's tokens n, and the new tokens. Beside each measured gain,
PIE's time over PID's, stands the one that the cost model predicts from what the device does at best: a card says it of
itself, a CPU's is given. results/README.md describes the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from common import PROMPT_TOKENS, T5S, describe, spread
from results_file import Results
from t5_gpu import OURS_SECONDS, Point, figures

PROMPTS = [1, 2, 4, 8, 16, 32, 64]
KEYS = [8, 16, 32, 64, 128, 256, 512, 1024]
NEW_TOKENS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
# Shape, U, n and new tokens, such that the model predicts the crossover within all three lines.
BASES = {"cpu": ("t5-small", 2, 128, 16), "cuda": ("t5-base", 2, 512, 16)}


def coarse_first(values: list[int]) -> list[int]:
    """The ends, then the middles of what lies between: time may run out."""
    kept = [values[0], values[-1]]
    spans = [(0, len(values) - 1)]
    while spans:
        low, high = spans.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            kept.append(values[middle])
            spans += [(low, middle), (middle, high)]
    return kept


def points(base: Point, prompts: list[int], keys: list[int], new_tokens: list[int]) -> list[Point]:
    """The base, then the three lines by turns, each point once."""
    lines = [
        [replace(base, prompts=u) for u in coarse_first(prompts)],
        [replace(base, keys=n) for n in coarse_first(keys)],
        [replace(base, new_tokens=t) for t in coarse_first(new_tokens)],
    ]
    longest = max(map(len, lines))
    turns = [line[i] for i in range(longest) for line in lines if i < len(line)]
    return list(dict.fromkeys([base, *turns]))


def options(args: argparse.Namespace) -> list[str]:
    chosen = ["--backend", args.backend, "--mode", "both"]
    if args.backend == "cuda":
        chosen += ["--dtype", args.dtype]
    if args.threads:
        chosen += ["--threads", str(args.threads)]
    if args.roofline:
        chosen += ["--roofline", args.roofline]
    return chosen


def predicted(program: str, base: Point, chosen: list[str]) -> dict:
    """What the example says of the base point without running it."""
    command = [program, "--explain", "--json", *base.options(), *chosen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=OURS_SECONDS)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-400:] or f"ended with {done.returncode}")
    told = json.loads(done.stdout)
    if told["roofline"] is None:
        raise RuntimeError("the device does not say what it does at best: give --roofline")
    return {name: told[name] for name in ("roofline", "pays_from", "gain", "crossover")}


def measured(program: str, point: Point, chosen: list[str]) -> dict:
    """A line of the file."""
    work = {name: value for name, value in vars(point).items() if name not in ("shape", "prompt_tokens")}
    try:
        told = figures(program, point, chosen)
        line = {f"{method}_s": spread(told[method]["totals_s"]) for method in ("pid", "pie")}
        line["predicted_gain"] = told["pid"]["predicted"]["gain"]
        line["device"] = told["pid"]["device"]
        gain = line["pie_s"]["min"] / line["pid_s"]["min"]
        print(f"{work}: {gain:.3f}x, predicted {line['predicted_gain'] or float('nan'):.3f}x", flush=True)
    except (OSError, ValueError, LookupError, RuntimeError, subprocess.TimeoutExpired) as error:
        line = {"error": describe(error)}
        print(f"{work}: {line['error']}", flush=True)
    return work | line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--t5", required=True, help="onekv's T5 example")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, a line as each is measured")
    parser.add_argument("--backend", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="bf16", help="on a card")
    parser.add_argument("--threads", type=int, help="on the CPU")
    parser.add_argument(
        "--roofline", metavar="TFLOPS,GB_PER_S", help="what the device does at best; a CPU does not say it"
    )
    parser.add_argument("--budget", type=float, default=900, help="end after about so many seconds")
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each method at each point")
    parser.add_argument("--shape", choices=[*T5S, "tiny"], help="of the model [default: t5-small; on a card t5-base]")
    parser.add_argument("--base", type=int, nargs=3, metavar=("U", "N", "NEW"), help="where the lines meet")
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS, help="U, rising")
    parser.add_argument("--keys", type=int, nargs="+", default=KEYS, help="n, rising")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=NEW_TOKENS, help="rising")
    parser.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS)
    args = parser.parse_args()
    begin = time.monotonic()
    chosen = options(args)
    shape, *base = BASES[args.backend]
    shape, (prompts, keys, new_tokens) = args.shape or shape, args.base or base
    base = Point(shape, keys, prompts, args.prompt_tokens, new_tokens)
    head = {
        "shape": shape,
        "dtype": "f32" if args.backend == "cpu" else args.dtype,
        "prompt_tokens": args.prompt_tokens,
        "base": {"keys": keys, "prompts": prompts, "new_tokens": new_tokens},
        "predicted": predicted(args.t5, base, chosen),
    }
    results = Results(args.out, head)
    chosen += ["--runs", str(args.runs)]
    for point in points(base, args.prompts, args.keys, args.new_tokens):
        if time.monotonic() - begin < args.budget:
            results.add(measured(args.t5, point, chosen))
        else:
            results.leave_out({"system": "onekv", **vars(point)})
    return results.end()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        sys.exit(f"error: {describe(error)}")
