"""Results of machines that do not exist, for the tests."""

import copy
import json
import tempfile
from pathlib import Path

from report import pages

# Bytes per second of the card's copy.
COPY = 4e12
BASE = ("t5-base", 12, 12, 64)
GEMMA = ("t5gemma-2b", 8, 4, 256)
E4M3 = "onekv, K/V in e4m3"
COPIES = "onekv, K/V per prompt"
SDPA = "PyTorch SDPA flash"
PAGE = "docs/performance.md"


def machine(card="Made-up card of a test"):
    return {
        "card": card, "compute_capability": "9.0", "multiprocessors": 132, "simulated": False, "date": "1999-12-31",
        "driver": "0.0",
    }  # fmt: skip


def line(system, layout, model, shape, us):
    """As benches/card writes it, of inputs, rows and keys; `us`: its median with cold L2."""
    name, heads, kv_heads, head_dim = model
    inputs, rows, keys = shape
    width = heads * head_dim
    kv = 4 * inputs * (rows if layout == "replicated" else 1) * keys * kv_heads * head_dim
    kv = kv // 2 + 8 * kv_heads if layout == "e4m3" else kv
    return {
        "system": system, "layout": layout, "model": name, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim,
        "inputs": inputs, "rows": rows, "keys": keys, "kernel": "onekv_bf16_64_16", "split_keys": 64,
        "split_cluster": 1, "tile_rows": 16, "chosen": True, "bytes": kv + 4 * inputs * rows * width,
        "flops": 4.0 * inputs * rows * width * keys, "cold_us": {"median": us}, "warm_us": None, "mean_abs": 0.25,
    }  # fmt: skip


def ours(model, shape, us):
    return line("onekv", "shared", model, shape, us)


def attention(lines, card="Made-up card of a test"):
    return {
        "machine": machine(card), "sweep": "full", "copy_bytes_per_s": COPY, "empty_pair_us": {"median": 3.0},
        "lines": lines,
    }  # fmt: skip


def sweep():
    """A whole sweep with peers, of a card that obeys a roofline."""
    lines = []
    for model in (BASE, GEMMA):
        for shape in [(b, u, n) for b in (1, 8) for n in (128, 512, 2048, 4096) for u in (1, 4, 30, 64, 128, 512)]:

            def timed(system, layout, part, least, shape=shape, model=model):
                made = line(system, layout, model, shape, 1.0)
                us = least + max(made["bytes"] / COPY, made["flops"] / 800e12) / part * 1e6
                return made | {"cold_us": {"median": us}}

            lines.append(timed("onekv", "shared", 0.9, 4))
            lines += [timed(COPIES, "replicated", 0.85, 4)] if 1 < shape[1] <= 256 else []
            lines += [timed(E4M3, "e4m3", 0.85, 4)] if shape[1] <= 64 else []
            lines += [timed(SDPA, "folded", 0.5, 6), timed(SDPA, "expanded", 0.6, 8)]
    return attention(lines)


def t5_line(system, prompts, seconds):
    return {
        "system": system, "shape": "flan-t5-xl", "dtype": "bf16", "keys": 512, "prompts": prompts, "prompt_tokens": 3,
        "new_tokens": 16, "latency_s": {"median": 9.0, "min": seconds}, "peak_bytes": 6e9,
        "decode_step_median_s": seconds / 20, "decode_step_floor_bytes": 3e9,
    }  # fmt: skip


def t5(lines):
    return {"machine": machine(), "lines": lines}


# Three lines through U = 2, n = 100, 10 new tokens: U, n, new tokens, PIE's time over PID's measured and predicted.
LINES = [
    (2, 100, 10, 1.4, 1.5), (1, 100, 10, 0.9, 1.0), (4, 100, 10, 2.4, 2.5),
    (2, 25, 10, 1.2, 1.25), (2, 5, 10, 1.0, 1.0625), (2, 400, 10, 1.6, 1.75),
    (2, 100, 1, 1.6, 1.875), (2, 100, 40, 1.2, 1.125), (2, 100, 160, 1.0, 1.03125),
]  # fmt: skip


def crossover(lines=LINES, by="CPU of a test"):
    def point(prompts, keys, new_tokens, gain, predicted):
        pid, pie = ({"median": 9.0, "min": seconds} for seconds in (0.5, gain / 2))
        at = {"keys": keys, "prompts": prompts, "new_tokens": new_tokens}
        return at | {"pid_s": pid, "pie_s": pie, "predicted_gain": predicted}

    return {
        "machine": by, "threads": 3, "date": "1999-12-31", "shape": "t5-small", "dtype": "f32", "prompt_tokens": 3,
        "base": {"keys": 100, "prompts": 2, "new_tokens": 10},
        "predicted": {
            "roofline": {"flops_per_s": 123e9, "bytes_per_s": 45.6e9}, "pays_from": 1.1, "gain": 1.5,
            "crossover": {"least_prompts": 2, "least_keys": 9, "most_new_tokens": 77},
        },
        "lines": [point(*one) for one in lines],
    }  # fmt: skip


def on_cpu(lines):
    probes = [{"fma_flops_per_s": fma, "copy_bytes_per_s": 40e9} for fma in (300e9, 100e9)]
    peers = {"torch": {"version": "9.9", "note": "of no use"}}
    return {"machine": "m", "threads": 2, "date": "1999-12-31", "peers": peers, "probes": probes, "lines": lines}


def intensity():
    def point(layout, read, model):
        return {
            "backend": "virtual x", "layout": layout, "prompts": 2, "flops": 8000, "read_bytes": read - 1000,
            "written_bytes": 1000, "model_bytes": model, "distinct_bytes": model + 100, "kernels": ["a", "b"],
        }  # fmt: skip

    lines = [point(layout, 16_000, 1900) for layout in ("shared", "replicated", "pie")]
    lines += [point("prefix shared", 4000, 1900), point("prefix copied", 9000, 4900)]
    decoder_only = {"model": "made up", "heads": 4, "kv_heads": 2, "head_dim": 8, "prefix_keys": 16, "suffix_keys": 4}
    return {
        "date": "1999-12-31", "heads": 1, "head_dim": 1, "keys": 1, "prompt_tokens": 1,
        "backends": [{"name": "virtual x", "dtype": "bf16", "counted": "made up"}], "decoder_only": decoder_only,
        "lines": lines,
    }  # fmt: skip


def training(task, way, steps=100, **held_out):
    return {
        "task": task, "way": way, "steps": steps, "parameters": 250_000, "loss_every_50_steps": [1.0, 0.0],
        "held_out": held_out,
    }  # fmt: skip


def quality():
    def task(nothing):
        example = {"text": "a text", "prompts": ["place 1 ?", "place 2 ?"], "answers": ["here", "there"]}
        lengths = {"prompts": 3, "input_tokens": 40.5, "prompt_tokens": 2.0, "new_tokens": 1.5}
        return lengths | {"always_nothing": nothing, "example": example}

    return {
        "date": "1999-12-31", "packages": {"torch": "0.0"}, "examples_of_a_step": 16, "prompts_of_an_example": 4,
        "evaluated_examples": 100, "tasks": {"qa": task({"accuracy": 0.25}), "order": task(None)},
        "runs": [
            training("qa", "pid", accuracy=0.9, joint=0.5), training("qa", "pid", accuracy=0.8, joint=0.5),
            training("qa", "pie", accuracy=1.0, joint=1.0), training("order", "one", accuracy=0.75, joint=0.5),
            training("order", "one", 300, accuracy=1.0, joint=1.0),
        ],
    }  # fmt: skip


def formula(quality):
    costs = {"pid": 10, "pie": 35, "one": 9, "decoders": 11}
    at = {"prompt_tokens": 4, "prompts": 8, "pid_flops": 1, "pid_bytes": 3, "pie_flops": 4, "pie_bytes": 4}
    head = {"shape": "t5-base", "dtype": "f32", "keys": 64, "new_tokens": 10}
    return head | {"lines": [{"task": task, **costs} for task in quality["tasks"]], "long_prompts": [at]}


def costs():
    task = {"task": "qa", "prompts": 8, "keys": 768, "prompt_tokens": 12, "new_tokens": 8}

    def way(name, seconds, flops):
        counts = {"flops": flops, "bytes": 2_000_000_000, "peak_bytes": 3_000_000_000}
        return task | {"way": name, "seconds": seconds} | counts

    # The machine's speed drifts: the median of a turn's ratios is 2, the ratio of medians 3.
    ways = [way("PID", [1.0, 2.0, 9.0], 4_000_000_000), way("PIE", [2.0, 6.0, 9.0], 20_000_000_000)]
    ways.append(task | {"way": "HF, PIE", "seconds": [5.0, 5.0, 5.0]})
    return {
        "machine": "made up", "date": "1999-12-31", "threads": 2, "transformers": "0.0", "shape": "t5-base",
        "lines": ways,
    }  # fmt: skip


def decoder_only():
    def run(mode, decode_s, kv_bytes):
        return {
            "mode": mode, "prefilled_tokens": 768, "kv_bytes": kv_bytes, "decode_step_kv_bytes": kv_bytes, "prefill_s": 1.0,
            "copy_kv_s": 0.5, "decode_s": decode_s, "tokens_per_s": 10.0, "peak_bytes": 5_000_000_000,
        }  # fmt: skip

    runs = [run("shared", 1.0, 20_000_000), run("copies", 4.0, 300_000_000), run("recompute", 4.0, 300_000_000)]
    return {
        "machine": "made up", "date": "1999-12-31", "threads": 2, "shape": "llama-1b", "document_tokens": 512,
        "prompts": 16, "prompt_tokens": 16, "new_tokens": 16, "lines": runs,
    }  # fmt: skip


# What a value here has apart from its head, and the kind of line that it is.
KINDS = {"tasks": "task", "long_prompts": "long prompts", "lines": None, "runs": None, "left_out": "left out", "after": "after"}
KINDS |= {"probes": "probe"}


def text_of(value):
    """A results file as the programs write it."""
    lines = [{name: part for name, part in value.items() if name not in KINDS}]
    for name, kind in KINDS.items():
        of = value.get(name, [])
        of = [{"task": task, **line} for task, line in of.items()] if type(of) is dict else of
        lines += [line if kind is None else {"kind": kind, **line} for line in of]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def report(files):
    """What is made of a folder of results; texts are written as they are."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content if isinstance(content, str) else text_of(content), "utf-8")
        return pages(Path(folder))


def method(quality, **more):
    files = {f"method/{name.replace('_', '-')}.jsonl": content for name, content in more.items()}
    return report({"method/quality.jsonl": quality, "method/formula.jsonl": formula(quality), **files})


def changed(value, path, to):
    """A copy with another value at a path; ... removes what is there."""
    made = copy.deepcopy(value)
    at = made
    for name in path[:-1]:
        at = at[name]
    if to is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return made
