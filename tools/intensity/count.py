"""FLOP per byte of a decode step's cross-attention against the number of prompts, from bytes that are counted: arXiv
2403.13112 says that it rises with the prompts where they share K/V, and stays where they do not.

`cargo xtask intensity` starts it; results/README.md describes the file that it writes. Standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "peers"))

from results_file import today, write_results

PROMPTS = [1, 2, 4, 8, 16, 32, 64, 128]
# T5-base's heads; tokens of the input and of a prompt.
T5 = {"heads": 12, "kv_heads": 12, "head_dim": 64}
KEYS, PROMPT_TOKENS = 512, 3
# Llama-3.2-1B's heads; tokens of the document, and what a sequence has behind it.
LLAMA = {"heads": 32, "kv_heads": 8, "head_dim": 64}
PREFIX_KEYS, SUFFIX_KEYS = 512, 32
CARDS = ["h200", "a100"]

# What callgrind plays: a core's L1, and for the last level a core's L2. K and V of one layer, 3.1 MB, do not stay in it
# until the next step.
CACHES = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64"]
LINE_BYTES, SECTOR_BYTES = 64, 32


def batches(layout: str, prompts: int) -> list[tuple[int, int, int]]:
    """Inputs, and the rows and keys of each; results of several batches are merged."""
    return {
        "shared": [(1, prompts, KEYS)],
        "replicated": [(prompts, 1, KEYS)],
        "pie": [(prompts, 1, KEYS + PROMPT_TOKENS)],
        "prefix shared": [(1, prompts, PREFIX_KEYS), (prompts, 1, SUFFIX_KEYS)],
        "prefix copied": [(prompts, 1, PREFIX_KEYS + SUFFIX_KEYS)],
    }[layout]


STEP, PREFIX = ["shared", "replicated", "pie"], ["prefix shared", "prefix copied"]


def heads_of(layout: str) -> dict[str, int]:
    return LLAMA if layout in PREFIX else T5


def arguments(layout: str, prompts: int) -> list[str]:
    """Those of the program."""
    options = [f"--{name.replace('_', '-')}={count}" for name, count in heads_of(layout).items()]
    return options + ["x".join(map(str, batch)) for batch in batches(layout, prompts)]


def of_model(program: Path, layout: str, prompts: int, element_bytes: int) -> dict[str, int]:
    """FLOPs and bytes of the cost model."""
    command = [program, "formula", f"--element-bytes={element_bytes}", *arguments(layout, prompts)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def run(command: list[object], **environment: object) -> None:
    subprocess.run(list(map(str, command)), env=os.environ | {k: str(v) for k, v in environment.items()}, check=True)


# The CPU.


def callgrind_counts(text: str) -> dict[str, int]:
    """Totals of a file of callgrind's."""

    def fields(name: str) -> list[str]:
        for line in text.splitlines():
            if line.startswith(name):
                return line.removeprefix(name).split()
        raise ValueError(f'it has no line "{name}"')

    names = fields("events:")
    # Zeros at the end are left out.
    counts = dict(zip_longest(names, map(int, fields("totals:")), fillvalue=0))

    def total(*events: str) -> int:
        for event in events:
            if event not in counts:
                raise ValueError(f"it counts no {event}, but {', '.join(names)}")
        return sum(counts[event] for event in events)

    # Misses of the last level: a line comes from memory, for a write too; some put out a line that had been written.
    return {
        "read_bytes": LINE_BYTES * total("ILmr", "DLmr", "DLmw"),
        "written_bytes": LINE_BYTES * total("ILdmr", "DLdmr", "DLdmw"),
        "instructions": total("Ir"),
    }


def on_cpu(program: Path, folder: Path, layout: str, prompts: int) -> dict:
    def counted(steps: int) -> dict[str, int]:
        file = folder / f"{layout}-{prompts}-{steps}.callgrind"
        command = ["valgrind", "-q", "--tool=callgrind", "--cache-sim=yes", "--simulate-wb=yes", *CACHES]
        # It warns of caches that are not this machine's.
        command += [f"--callgrind-out-file={file}", f"--log-file={file.with_suffix('.log')}"]
        run([*command, program, "cpu", f"--steps={steps}", *arguments(layout, prompts)])
        try:
            return callgrind_counts(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    # They differ by one step after others, without what a process does before it.
    few, more = counted(1), counted(2)
    counts = {name: more[name] - few[name] for name in few}
    return {"backend": "CPU", "layout": layout, "prompts": prompts, **of_model(program, layout, prompts, 4), **counts}


# Cards.


def on_card(program: Path, folder: Path, card: str, layout: str, prompts: int) -> dict:
    report = folder / f"{card}-{layout}-{prompts}.jsonl"
    report.write_text("")
    # Of right kernels counts are the same without checks; points are counted side by side.
    virtual = {"PTXSIM_DEVICE": card, "PTXSIM_REPORT": report, "PTXSIM_CHECKS": "none", "PTXSIM_THREADS": 1}
    run([program, "card", *arguments(layout, prompts)], LD_LIBRARY_PATH=folder, **virtual)
    launches = [json.loads(line) for line in report.read_text().splitlines()]

    def total(field: str) -> int:
        return sum(launch[field] for launch in launches)

    return {
        "backend": f"virtual {card}",
        "layout": layout,
        "prompts": prompts,
        **of_model(program, layout, prompts, 2),
        "read_bytes": SECTOR_BYTES * total("global_load_sectors"),
        "written_bytes": SECTOR_BYTES * total("global_store_sectors"),
        "distinct_bytes": total("distinct_bytes"),
        "tensor_flops": total("tensor_flops"),
        "kernels": [launch["kernel"] for launch in launches],
    }


def head() -> dict:
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    by_callgrind = (
        f"by callgrind of {version}, lines of 64 bytes that miss the last level of its caches ({' '.join(CACHES)}: "
        "1 MiB, as a core's L2), or are written back from it; one thread, AVX2, as valgrind knows no wider vectors"
    )
    by_driver = (
        "by the virtual GPU's counters, 32-byte sectors that the multiprocessors ask for. It has no L2: memory moves at "
        "most that, and at least what each launch touches, each byte once"
    )
    cards = [{"name": f"virtual {card}", "dtype": "bf16", "counted": by_driver} for card in CARDS]
    return {
        "date": today(),
        "heads": T5["heads"],
        "head_dim": T5["head_dim"],
        "keys": KEYS,
        "prompt_tokens": PROMPT_TOKENS,
        "backends": [{"name": "CPU", "dtype": "f32", "counted": by_callgrind}, *cards],
        "decoder_only": {"model": "Llama-3.2-1B", **LLAMA, "prefix_keys": PREFIX_KEYS, "suffix_keys": SUFFIX_KEYS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="onekv-intensity, optimised, with its feature cuda")
    parser.add_argument("--work", type=Path, required=True, help="folder of the virtual driver; counts go there too")
    parser.add_argument("--out", type=Path, required=True, help="the results file")
    args = parser.parse_args()
    counts = [partial(on_cpu, args.program, args.work, layout, u) for layout in STEP for u in PROMPTS]
    for card in CARDS:
        at = [(layout, u) for layout in STEP + PREFIX for u in PROMPTS]
        counts += [partial(on_card, args.program, args.work, card, *point) for point in at]
    once, lines = head(), []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for line in threads.map(lambda count: count(), counts):
            lines.append(line)
            point = f"{line['backend']}, {line['layout']}, U = {line['prompts']}"
            print(f"{len(lines)} of {len(counts)}: {point}", file=sys.stderr)
    write_results(args.out, once, lines)
    print(args.out)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
