"""What the peers' scripts share: shapes, of shapes.json, and how figures, failures and results files are written. Standard
library alone."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

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


class Results:
    """A results file of JSON lines: its head, then a line for each thing as it is measured. Whoever is stopped leaves those."""

    def __init__(self, path: Path, head: dict) -> None:
        self.path = path
        self.lines: list[dict] = []
        self.left_out: list[dict] = []
        self.write(head, mode="w")

    def write(self, *objects: dict, mode: str = "a") -> None:
        with self.path.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)

    def add(self, *lines: dict) -> None:
        self.lines += lines
        self.write(*lines)

    def leave_out(self, *lines: dict) -> None:
        """What the time budget has no room for."""
        self.left_out += lines
        self.write(*({"kind": "left out", **line} for line in lines))

    def end(self) -> int:
        """Says how many there are; 1, for the shell, where none has a time."""
        failed = sum("error" in line for line in self.lines)
        print(f"{len(self.lines)} lines, {failed} of them errors; {len(self.left_out)} left out")
        return 0 if failed < len(self.lines) else 1
