"""Peers of onekv on the CPU. Takes orders on standard input, one JSON object a line, and answers each with one.

{"what": "attention", "system", "rows", "keys", "seconds"}: PyTorch's scaled_dot_product_attention, 12 heads x 64, f32,
about so many seconds long. {"what": "t5", "system", "shape", "rows", "keys", "prompt_tokens", "new_tokens"}: one run of
Hugging Face, CTranslate2 or ONNX Runtime. Both answer {"seconds": [of each run]}. {"what": "peers"} answers
{"peers": {name: {"version", "note"}}}. What fails answers {"error"}.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

from common import MODELS, clock, describe, for_ctranslate2, t5_config
from onnx_t5 import OnnxT5

# A first run of less is not counted: it warms up.
WARMING_S = 2.0
LEAST_RUNS = 3
# Runs that begin sooner are not counted: threads that slept wake up on one core.
SETTLING_S = 0.1
# Nor is the first of a turn of T5, of less: settling would be much of it.
SHORT_S = 10 * SETTLING_S
HEADS, HEAD_DIM = MODELS["t5-base"]["heads"], MODELS["t5-base"]["head_dim"]


def burst(work: Callable[[], object], seconds: float) -> list[float]:
    """Times of runs after some that warm up."""
    settled = time.perf_counter() + SETTLING_S
    work()
    while time.perf_counter() < settled:
        work()
    runs: list[float] = []
    end = time.perf_counter() + seconds
    while len(runs) < LEAST_RUNS or time.perf_counter() < end:
        runs.append(clock(work))
    return runs


@functools.lru_cache(maxsize=1)
def attentions(rows: int, keys: int) -> dict[str, Callable[[], torch.Tensor]]:
    """One input: K/V expanded over the prompts (stride 0), and the queries of all prompts folded into rows: the best
    that SDPA can be given."""
    sdpa = functional.scaled_dot_product_attention
    k, v = torch.randn(2, 1, HEADS, keys, HEAD_DIM)
    q = torch.randn(rows, HEADS, 1, HEAD_DIM)
    folded = q.transpose(0, 2).contiguous()
    every = lambda x: x.expand(rows, HEADS, keys, HEAD_DIM)
    works = {
        "PyTorch SDPA, K/V expanded": lambda: sdpa(q, every(k), every(v), scale=1.0),
        "PyTorch SDPA, queries folded": lambda: sdpa(folded, k, v, scale=1.0),
    }
    expanded, folded_too = (work() for work in works.values())
    torch.testing.assert_close(expanded.transpose(0, 2), folded_too, rtol=1e-3, atol=1e-4)
    return works


class T5:
    """A shape of random weights in every library."""

    def __init__(self, shape: str, threads: int, notes: dict[str, str]) -> None:
        self.shape, self.threads, self.notes = shape, threads, notes
        self.point: tuple | None = None
        self.translators: dict[str, object] = {}
        torch.manual_seed(1)
        config = transformers.T5Config(**t5_config(shape))
        self.model = transformers.T5ForConditionalGeneration(config).eval().requires_grad_(False)
        # As initialised, a tied model repeats the last token; the answers are to depend on the input.
        for name, weights in self.model.named_parameters():
            if name.endswith((".o.weight", ".wo.weight")):
                weights.mul_(3)
        self.check_sdpa()
        self.folder = tempfile.TemporaryDirectory()

    def check_sdpa(self) -> None:
        """SDPA is what T5 takes by default; every attention of every layer has to."""
        calls = []
        sdpa = functional.scaled_dot_product_attention
        functional.scaled_dot_product_attention = lambda *args, **more: calls.append(1) or sdpa(*args, **more)
        try:
            self.model(input_ids=torch.full((1, 4), 5), decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
        finally:
            functional.scaled_dot_product_attention = sdpa
        layers = self.model.config.num_layers
        if self.model.config._attn_implementation != "sdpa" or len(calls) != 3 * layers:
            raise RuntimeError(f"T5 called SDPA {len(calls)} times, wanted {3 * layers}")

    @functools.cached_property
    def onnx(self) -> OnnxT5:
        return OnnxT5(self.model, Path(self.folder.name), self.threads)

    @functools.cached_property
    def converted(self) -> Path:
        return for_ctranslate2(self.model, Path(self.folder.name), "float32")

    def translator(self, system: str) -> object:
        import ctranslate2

        if system not in self.translators:
            compute_type = "int8" if "int8" in system else "float32"
            self.translators[system] = ctranslate2.Translator(
                str(self.converted), device="cpu", intra_threads=self.threads, compute_type=compute_type
            )
        return self.translators[system]

    def translate(self, system: str) -> list[list[int]]:
        results = self.translator(system).translate_batch(
            self.words, beam_size=1, max_decoding_length=self.new, min_decoding_length=self.new, max_input_length=0
        )
        return [[int(word[1:]) if word[0] == "w" else 0 for word in r.hypotheses[0]] for r in results]

    def generate(self, **inputs: object) -> torch.Tensor:
        new = self.new
        return self.model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)[:, -new:]

    def shared(self, copies: int) -> torch.Tensor:
        encoded = self.model.encoder(self.ids).last_hidden_state.expand(copies, -1, -1)
        return self.generate(encoder_outputs=BaseModelOutput(encoded), decoder_input_ids=self.start)

    def at(self, rows: int, keys: int, prompt_tokens: int, new_tokens: int) -> None:
        """Inputs and works of a point; EOS never ends a row, so that all decode as many tokens."""
        if self.point == (rows, keys, prompt_tokens, new_tokens):
            return
        self.point, self.new = (rows, keys, prompt_tokens, new_tokens), new_tokens
        self.ids = torch.randint(3, 32000, (1, keys))
        prompts = torch.randint(3, 32000, (rows, prompt_tokens))
        self.in_encoder = torch.cat([prompts, self.ids.expand(rows, keys)], dim=1)
        self.begin = torch.zeros(rows, 1, dtype=torch.long)
        self.start = torch.cat([self.begin, prompts], dim=1)
        self.words = [[f"w{i}" for i in row] for row in self.in_encoder.tolist()]
        # Answers by whether the prompts are in the encoder: those of the first system, which is Hugging Face.
        self.wanted: dict[bool, torch.Tensor] = {}
        onnx = lambda ids, start: self.onnx.generate(ids.numpy(), start.numpy(), new_tokens)
        self.works: dict[str, Callable[[], object]] = {
            "HF, PIE": lambda: self.generate(input_ids=self.in_encoder),
            "HF, encoded once and expanded": lambda: self.shared(rows),
            "HF, encoded once, batch 1 broadcast": lambda: self.shared(1),
            **{s: lambda s=s: self.translate(s) for s in ("CTranslate2, PIE", "CTranslate2 int8, PIE")},
            "ONNX Runtime, PIE": lambda: onnx(self.in_encoder, self.begin),
            "ONNX Runtime, encoded once, batch 1 broadcast": lambda: onnx(self.ids, self.start),
        }
        self.ran: set[str] = set()

    def run(self, system: str) -> float:
        work, answers = self.works[system], []
        if system.startswith("ONNX Runtime"):
            self.onnx
        elif system.startswith("CTranslate2"):
            self.translator(system)
        seconds = clock(lambda: answers.append(work()))
        new = system not in self.ran
        if new:
            self.ran.add(system)
            self.compare(system, torch.as_tensor(answers[0]))
        return clock(work) if seconds < (WARMING_S if new else SHORT_S) else seconds

    def compare(self, system: str, answers: torch.Tensor) -> None:
        """f32 answers as Hugging Face does; what int8 changes is noted."""
        rows, _, _, new = self.point
        if answers.shape != (rows, new):
            raise RuntimeError(f"{system} answered {tuple(answers.shape)}, wanted {(rows, new)}")
        wanted = self.wanted.setdefault(system.endswith("PIE"), answers)
        equal = (answers == wanted).sum().item()
        if "int8" in system:
            before = self.notes.get(system, (0, 0))
            self.notes[system] = (before[0] + equal, before[1] + answers.numel())
        elif equal != answers.numel():
            raise RuntimeError(f"{system} answers {equal} of {answers.numel()} tokens as Hugging Face does")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    # What libraries print is not an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    equal: dict[str, tuple[int, int]] = {}
    model: T5 | None = None

    def peers() -> dict:
        notes = {"torch": "as its wheel is: oneDNN, OpenMP"}
        if model is not None:
            alike, all_tokens = equal.get("CTranslate2 int8, PIE", (0, 0))
            notes |= {
                "ctranslate2": "PIE alone: it offers no prompt in the decoder over one encoding. f32 answers as "
                f"Hugging Face does; of the tokens of int8, {alike} of {all_tokens} are the same",
                "onnxruntime": "the graphs of tools/peers/onnx_t5.py; answers as Hugging Face does",
                "transformers": "SDPA in every attention, which is its default",
            }
        return {name: {"version": importlib.metadata.version(name), "note": note} for name, note in notes.items()}

    def answer(what: str, **order: object) -> dict:
        nonlocal model
        if what == "peers":
            return {"peers": peers()}
        system = order.pop("system")
        if what == "attention":
            seconds = order.pop("seconds")
            return {"seconds": burst(attentions(**order)[system], seconds)}
        shape = order.pop("shape")
        if model is None or model.shape != shape:
            model = None
            model = T5(shape, args.threads, equal)
        model.at(**order)
        return {"seconds": [model.run(system)]}

    with torch.inference_mode():
        for text in sys.stdin:
            try:
                answered = answer(**json.loads(text))
            except Exception as error:  # The others go on.
                answered = {"error": describe(error)}
            print(json.dumps(answered), file=answers, flush=True)


if __name__ == "__main__":
    main()
