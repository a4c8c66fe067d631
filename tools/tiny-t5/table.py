"""The built-in models on the held-out dialogues, PID beside PIE, as the paper's table: results/cpu/tiny.md.

`cargo xtask report tiny` builds the T5 example and starts it. Standard library alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NONE = "none"


def answers(program: Path, held_out: dict) -> list[dict]:
    """What the T5 example says of each dialogue."""
    with tempfile.TemporaryDirectory() as folder:
        dialogue, prompts = Path(folder) / "dialogue.txt", Path(folder) / "prompts.txt"
        prompts.write_text("\n".join(held_out["prompts"]))
        command = [program, "--json", "--input", dialogue, "--prompts", prompts]
        answers = []
        for one in held_out["dialogues"]:
            dialogue.write_text(one["text"])
            answers.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    return answers


def cells(method: str, answers: list[dict], dialogues: list[dict]) -> list[str]:
    """A column of the table."""
    outputs = [[output[method] for output in answer["inputs"][0]["outputs"]] for answer in answers]
    wanted = [dialogue["answers"] for dialogue in dialogues]
    slots = [pair for got, want in zip(outputs, wanted, strict=True) for pair in zip(got, want, strict=True)]

    def right(pairs: list[tuple]) -> str:
        return f"{100 * sum(got == want for got, want in pairs) / len(pairs):.1f} %"

    def mean(figure: str) -> float:
        return sum(answer["figures"][method][figure] for answer in answers) / len(answers)

    return [
        right(slots),
        right([(got, want) for got, want in slots if want != NONE]),
        right(list(zip(outputs, wanted))),
        f"{mean('flops_predicted') / 1e6:.1f}",
        f"{mean('total_s') * 1e3:.1f}",
        f"{mean('cross_kv_bytes') / 1e3:.0f}",
    ]


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    head, *lines = [f"| {' | '.join(map(str.ljust, row, widths))} |\n" for row in rows]
    return head + f"|{'|'.join('-' * (width + 2) for width in widths)}|\n" + "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--t5", type=Path, required=True, help="the T5 example, built")
    args = parser.parse_args()
    held_out = json.loads((ROOT / "examples/t5/assets/heldout.json").read_text())
    dialogues = held_out["dialogues"]
    said = answers(args.t5, held_out)
    names = ["", "slot accuracy", "slot accuracy, filled slots"]
    names += [f"joint accuracy (all {len(held_out['prompts'])} slots)"]
    names += ["MFLOPs per dialogue", "latency per dialogue, ms", "cross-attention K/V, kB"]
    columns = [[method.upper(), *cells(method, said, dialogues)] for method in ("pid", "pie")]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    text = (
        f"# The built-in models on {len(dialogues)} held-out dialogues\n\n{table(list(zip(names, *columns)))}\n"
        "Greedy decoding on the CPU, values of names and times not seen in training. "
        f"Made by `cargo xtask report tiny` at {commit}.\n"
    )
    path = ROOT / "results/cpu/tiny.md"
    path.write_text(text)
    print(f"{text}\n{path}")


if __name__ == "__main__":
    main()
