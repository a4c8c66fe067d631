"""What the peers' scripts share: shapes, of shapes.json, and how times, failures and the machine are told. Standard library
alone."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from results_file import today

SHAPES = json.loads(Path(__file__).with_name("shapes.json").read_text())
MODELS = SHAPES["models"]
# The T5s that are measured end to end.
T5S = [name for name, model in MODELS.items() if "layers" in model]
VOCABULARY = SHAPES["vocabulary"]
PROMPT_TOKENS = SHAPES["prompt_tokens"]


def t5_config(shape: str) -> dict:
    """What transformers' T5Config takes: v1.0, or v1.1 with a gated GELU and a head of its own."""
    model = MODELS[shape]
    return {
        "vocab_size": VOCABULARY, "d_model": model["d_model"], "d_kv": model["head_dim"], "d_ff": model["d_ff"],
        "num_layers": model["layers"], "num_heads": model["heads"],
        "feed_forward_proj": "gated-gelu" if model["gated"] else "relu", "tie_word_embeddings": not model["gated"],
        "decoder_start_token_id": 0, "use_cache": True,
    }


def for_ctranslate2(model: object, folder: Path, quantization: str) -> Path:
    """A model of transformers in CTranslate2's format, in `folder`; its vocabulary is made of stand-in words."""
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    source, target = folder / "hf", folder / "ct2"
    words = ["<pad>", "</s>", "<unk>"] + [f"w{i}" for i in range(3, VOCABULARY)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    model.save_pretrained(source)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(source)
    TransformersConverter(str(source)).convert(str(target), quantization=quantization)
    return target


def describe(error: BaseException) -> str:
    """One line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def clock(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(runs: list[float]) -> dict:
    return {"median": statistics.median(runs), "min": min(runs), "max": max(runs), "runs": len(runs)}


def setting(threads: int) -> dict:
    """What is said once of all that was measured on this machine's processor."""
    told = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    machine = f"{told[1] if told else 'unknown CPU'}, {len(os.sched_getaffinity(0))} cores"
    return {"machine": machine, "threads": threads, "date": today()}
