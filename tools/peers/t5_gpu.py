"""Times T5 end to end on a card: onekv's example and its peers, random weights of known shapes; writes JSON lines.

One input of n tokens, U prompts of a few tokens, a fixed number of new tokens, greedy; EOS never ends a row.
results/README.md describes the lines. A system that fails on a point is a line with `error`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common import PROMPT_TOKENS, T5S, clock, describe, for_ctranslate2, spread, t5_config
from results_file import Results

# The points that say most first: time may run out.
PROMPTS = [64, 8, 32, 1, 128, 16, 2, 4]
KEYS = [512, 1024]
# Compiling takes a minute and more, for every point anew, and nothing can stop it: it comes last.
COMPILED = (512, 64)
COMPILING_SECONDS = 100
# CTranslate2 converts files: only for the smallest.
CONVERTED = "t5-base"
# One run of one of our points, start and random weights included.
OURS_SECONDS = 100


@dataclass(frozen=True)
class Point:
    shape: str
    keys: int
    prompts: int
    prompt_tokens: int
    new_tokens: int

    def options(self) -> list[str]:
        """Our example's."""
        return [
            "--random", self.shape, "--keys", str(self.keys), "--prompt-count", str(self.prompts), "--prompt-tokens",
            str(self.prompt_tokens), "--max-new-tokens", str(self.new_tokens),
        ]


def line(system: str, point: Point, dtype: str, **fields: object) -> dict:
    made = {"system": system, "dtype": dtype, **vars(point), **fields}
    if "latency_s" in made:
        tokens = point.prompts * point.new_tokens
        made["tokens_per_s"] = tokens / made["latency_s"]["median"]
        made["tokens_per_s_best"] = tokens / made["latency_s"]["min"]
    print(f"{system}: {point}: {made.get('latency_s', made.get('error'))}", flush=True)
    return made


def figures(program: str, point: Point, options: list[str]) -> dict[str, dict]:
    """What our example prints of one point, by method."""
    done = subprocess.run([program, "--json", *point.options(), *options], capture_output=True, text=True, timeout=OURS_SECONDS)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-400:] or f"ended with {done.returncode}")
    told = {name.lower(): figure for name, figure in json.loads(done.stdout).items() if isinstance(figure, dict)}
    if not told:
        raise RuntimeError(f"printed no figures: {done.stdout[:200]}")
    return told


# Of what the example prints, by method and, where they are not the card's default, by whose matrix products it took.
SYSTEMS = {
    "pid": "onekv, PID", "pid-replicated": "onekv, PID-replicated", "pie": "onekv, PIE",
    "pid, cublaslt": "onekv, PID, cublasLt",
}


def ours(program: str, point: Point, runs: int, dry: bool) -> list[dict]:
    """Our example on one point: a line per method, and on Hopper, which has products of ours, PID once more with cublasLt's."""
    device = [] if dry else ["--backend", "cuda", "--dtype", "bf16", "--runs", str(runs)]
    dtype = "f32" if dry else "bf16"
    told: dict[str, dict] = {}

    def run(mode: str, more: list[str], suffix: str) -> bool:
        try:
            made = figures(program, point, [*device, "--mode", mode, *more])
            told.update({name + suffix: figure for name, figure in made.items()})
            return True
        except (OSError, ValueError, RuntimeError, subprocess.TimeoutExpired) as error:
            told[mode + suffix] = {"error": describe(error)}
            return False

    if dry:
        run("both", [], "")
    else:
        # What does not fit the card should not take what does with it.
        if not run("all", [], ""):
            run("pid", [], "")
        if told["pid"].get("device", "").endswith(", own gemm"):
            run("pid", ["--gemm", "cublaslt"], ", cublaslt")
    lines = []
    for method, figure in told.items():
        system = SYSTEMS.get(method, f"onekv, {method}")
        if "total_s" not in figure:
            lines.append(line(system, point, dtype, error=str(figure.get("error", "no total_s"))))
            continue
        # The example tells its fastest run, unless it tells all.
        totals = figure.get("totals_s") or [figure["total_s"]]
        parts = {
            name: figure[name]
            for name in ("encode_s", "prefill_s", "decode_s", "decode_step_median_s", "decode_step_floor_bytes")
            if figure.get(name) is not None
        }
        peak = figure.get("peak_device_bytes")
        fastest = {} if "totals_s" in figure else {"fastest_of": 1 if dry else runs}
        lines.append(
            line(system, point, dtype, latency_s=spread(totals), peak_bytes=peak, **parts, **fastest)
        )
    return lines


class HuggingFace:
    """One model of random weights on the device."""

    def __init__(self, shape: str, device: str) -> None:
        import torch
        from transformers import T5Config, T5ForConditionalGeneration

        self.device, self.torch = device, torch
        if device == "cuda":
            torch.cuda.empty_cache()
        self.dtype = torch.bfloat16 if device == "cuda" else torch.float32
        torch.manual_seed(1)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(device):
                self.model = T5ForConditionalGeneration(T5Config(**t5_config(shape)))
        finally:
            torch.set_default_dtype(before)
        self.model.eval().requires_grad_(False)
        # SDPA, where its T5 has it: 5.24.0 does.
        self.attention = self.model.config._attn_implementation

    def inputs(self, point: Point) -> tuple:
        torch = self.torch
        made = torch.Generator().manual_seed(2)
        ids = lambda *size: torch.randint(3, 32000, size, generator=made).to(self.device)
        return ids(1, point.keys), ids(point.prompts, point.prompt_tokens)

    def pie(self, point: Point, options: dict) -> Callable[[], object]:
        input_ids, prompts = self.inputs(point)
        both = self.torch.cat([prompts, input_ids.expand(point.prompts, -1)], dim=1)
        return lambda: self.model.generate(both, **options)

    def shared(self, point: Point, options: dict, copies: int) -> Callable[[], object]:
        from transformers.modeling_outputs import BaseModelOutput

        torch = self.torch
        input_ids, prompts = self.inputs(point)
        start = torch.zeros(point.prompts, 1, dtype=torch.long, device=self.device)
        decoder_ids = torch.cat([start, prompts], dim=1)

        def run() -> object:
            memory = self.model.encoder(input_ids).last_hidden_state.expand(copies, -1, -1)
            return self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=memory), decoder_input_ids=decoder_ids, **options
            )

        return run

    def expanded(self, point: Point, options: dict) -> Callable[[], object]:
        return self.shared(point, options, point.prompts)

    def broadcast(self, point: Point, options: dict) -> Callable[[], object]:
        """Attention broadcasts over the prompts: K/V of the input are computed and held once, as ours."""
        return self.shared(point, options, 1)

    def lines(self, point: Point, runs: int) -> list[dict]:
        return [
            self.line("HF, encoded once and expanded", point, runs, self.expanded, {}),
            self.line("HF, encoded once, batch 1 broadcast", point, runs, self.broadcast, {}),
            self.line("HF, PIE", point, runs, self.pie, {}),
        ]

    def compiled_line(self, point: Point, runs: int) -> dict:
        """`generate` compiles the decoder's step by itself when the cache is of fixed size."""
        static = {"cache_implementation": "static"}
        return self.line("HF, encoded once and expanded, compiled", point, runs, self.expanded, static)

    def line(self, system: str, point: Point, runs: int, make: Callable, more: dict) -> dict:
        torch = self.torch
        cuda = self.device == "cuda"
        dtype = str(self.dtype).removeprefix("torch.").replace("bfloat16", "bf16").replace("float32", "f32")
        new = point.new_tokens
        options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "num_beams": 1, **more}
        try:
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            with torch.inference_mode():
                run = make(point, options)
                # Warm-up; compiled ones record their graphs in the second and third.
                for _ in range(3 if more else 1):
                    made = run()
                decoded = made.shape[1] - 1 - (0 if make == self.pie else point.prompt_tokens)
                if made.shape[0] != point.prompts or decoded != new:
                    raise RuntimeError(f"decoded {tuple(made.shape)}, wanted {point.prompts} x {new} new tokens")
                settle = torch.cuda.synchronize if cuda else lambda: None
                settle()
                times = [clock(lambda: (run(), settle())) for _ in range(runs)]
            peak = torch.cuda.max_memory_allocated() if cuda else None
        except Exception as error:  # Out of memory, a compiler that is missing: a line, not the end.
            return line(system, point, dtype, error=describe(error))
        return line(system, point, dtype, latency_s=spread(times), peak_bytes=peak, attention=self.attention)


def ctranslate2_lines(hf: HuggingFace, points: list[Point], runs: int) -> list[dict]:
    """PIE through CTranslate2: its own format, stand-in words."""
    import ctranslate2

    lines = []
    with tempfile.TemporaryDirectory() as folder:
        compute = "bfloat16" if hf.device == "cuda" else "float32"
        target = for_ctranslate2(hf.model, Path(folder), compute)
        translator = ctranslate2.Translator(str(target), device=hf.device, compute_type=compute)
        for point in points:
            dtype = "bf16" if hf.device == "cuda" else "f32"
            try:
                input_ids, prompts = hf.inputs(point)
                rows = hf.torch.cat([prompts, input_ids.expand(point.prompts, -1)], dim=1).tolist()
                tokens = [[f"w{i}" for i in row] for row in rows]
                new = point.new_tokens
                run = lambda: translator.translate_batch(
                    tokens, beam_size=1, max_decoding_length=new, min_decoding_length=new, max_input_length=0
                )
                if any(len(result.hypotheses[0]) != new for result in run()):
                    raise RuntimeError(f"did not decode {new} tokens")
                times = [clock(run) for _ in range(runs)]
            except Exception as error:
                lines.append(line("CTranslate2, PIE", point, dtype, error=describe(error)))
                continue
            lines.append(line("CTranslate2, PIE", point, dtype, latency_s=spread(times), peak_bytes=None))
    return lines


def same_answers(program: str, assets: Path) -> object:
    """Whether CPU and CUDA answer the built-in dialogue alike, in f32."""
    answers = []
    for backend in ("cpu", "cuda"):
        command = [
            program, "--backend", backend, "--dtype", "f32", "--mode", "pid", "--json", "--model", str(assets / "pid"),
            "--input", str(assets / "dialogue.txt"), "--prompts", str(assets / "prompts.txt"),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=OURS_SECONDS)
            if done.returncode != 0:
                return f"{backend}: {done.stderr.strip()[-300:]}"
            answers.append(json.loads(done.stdout)["inputs"][0]["outputs"])
        except (OSError, ValueError, LookupError, subprocess.TimeoutExpired) as error:
            return f"{backend}: {describe(error)}"
    return answers[0] == answers[1]


def peers(dry: bool) -> dict:
    """What is there, and why not."""
    found = {}
    for name, module in {"PyTorch": "torch", "HF": "transformers", "CTranslate2": "ctranslate2"}.items():
        try:
            found[name] = {"version": str(__import__(module).__version__)}
        except Exception as error:
            found[name] = {"absent": describe(error)}
    if "version" in found["PyTorch"] and not dry:
        import torch

        if not torch.cuda.is_available():
            found["HF"] = {"absent": "PyTorch finds no card"}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--t5", required=True, help="onekv's T5 example")
    parser.add_argument("--assets", type=Path, help="its assets: dialogue.txt, prompts.txt, pid/")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, a line as each is measured")
    parser.add_argument("--budget", type=float, default=1800, help="end after about so many seconds")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each point")
    parser.add_argument("--shapes", nargs="+", choices=T5S, default=["flan-t5-xl", "t5-base", "t5-large"])
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS, help="U")
    parser.add_argument("--keys", type=int, nargs="+", default=KEYS, help="n")
    parser.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU: tests this script")
    args = parser.parse_args()
    begin = time.monotonic()
    found = peers(args.dry_run)
    head: dict = {"machine": {"simulated": args.dry_run}, "peers": found}
    if "version" in found["PyTorch"]:
        import torch

        head["peer_machine"] = {"torch": torch.__version__, "torch_cuda": torch.version.cuda}

    if args.assets:
        head["same_answers_f32"] = same_answers(args.t5, args.assets)
    results = Results(args.out, head)
    device = "cpu" if args.dry_run else "cuda"
    for number, shape in enumerate(args.shapes):
        # An equal share of what is left; half of it for each side.
        share = (args.budget - (time.monotonic() - begin)) / (len(args.shapes) - number)
        ours_end = time.monotonic() + share / 2
        shape_end = time.monotonic() + share
        points = [
            Point(shape, keys, prompts, args.prompt_tokens, args.new_tokens)
            for keys in args.keys
            for prompts in args.prompts
        ]
        for point in points:
            if time.monotonic() < ours_end:
                results.add(*ours(args.t5, point, args.runs, args.dry_run))
            else:
                results.leave_out({"system": "onekv", **vars(point)})
        if "absent" in found["HF"]:
            continue
        try:
            hf = HuggingFace(shape, device)
        except Exception as error:
            results.add(line("HF", points[0], "bf16", error=describe(error)))
            continue
        for point in points:
            if time.monotonic() < shape_end:
                results.add(*hf.lines(point, args.runs))
            else:
                results.leave_out({"system": "HF", **vars(point)})
        if shape == CONVERTED and "version" in found["CTranslate2"] and time.monotonic() < shape_end:
            try:
                results.add(*ctranslate2_lines(hf, [point for point in points if point.keys == args.keys[0]], args.runs))
            except Exception as error:
                results.add(line("CTranslate2, PIE", points[0], "bf16", error=describe(error)))
        del hf
    for shape in args.shapes if "version" in found["HF"] else []:
        point = Point(shape, *COMPILED, args.prompt_tokens, args.new_tokens)
        if args.budget - (time.monotonic() - begin) < COMPILING_SECONDS:
            results.leave_out({"system": "HF, compiled", **vars(point)})
            continue
        try:
            results.add(HuggingFace(shape, device).compiled_line(point, args.runs))
        except Exception as error:
            results.add(line("HF, encoded once and expanded, compiled", point, "bf16", error=describe(error)))
    return results.end()


if __name__ == "__main__":
    sys.exit(main())
