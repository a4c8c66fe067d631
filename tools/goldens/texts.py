"""Cases of text: a tiny random model with a tokenizer, and what transformers answers in text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ids
import tokens
import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 10


@dataclass
class Case:
    """What sets a folder apart from the others."""

    # Writes the tokenizer's files.
    tokenizer: Callable[[Path], None]
    input: str
    prompts: tuple[str, ...]
    # What one answer of all has to show, besides being some text.
    shows: Callable[[PreTrainedTokenizerBase, list[int]], bool] = lambda tokenizer, answer: True
    # pid: prompts in the decoder; pie: before the input.
    mode: str = "pid"
    config: dict = field(default_factory=dict)
    vocab: int | None = None
    # Ids that are often chosen, where most others are no text; none: all.
    often: tuple[int, ...] = ()


def text(tokenizer: PreTrainedTokenizerBase, answer: list[int]) -> str:
    return tokenizer.decode(answer, skip_special_tokens=True)


def special_within(tokenizer: PreTrainedTokenizerBase, answer: list[int]) -> bool:
    """Whether a special id stands among others, to be left out."""
    return bool(set(answer[:-1]) & set(tokenizer.all_special_ids))


def cleaned(tokenizer: PreTrainedTokenizerBase, answer: list[int]) -> bool:
    kept = tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text(tokenizer, answer) != kept


DIALOGUE = "user : i need a train . system : where to ?"
# Printable bytes and two sentinels.
BYT5 = {"config": ids.GATED, "vocab": 384, "often": (*range(3 + 32, 3 + 127), 259, 260)}
# The ids of CodeT5. Special tokens, printable bytes and merges.
BPE = {
    "config": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "often": (*range(99), *range(261, 320)),
}

CASES = {
    "byt5-sentinels": Case(
        tokens.byt5,
        "The <extra_id_0> walks",
        ("<extra_id_0>", "the <extra_id_1> sat", "hello", "one </s> two", "é"),
        special_within,
        **BYT5,
    ),
    # One space stands between such a line and the input, whether or not the line keeps its own.
    "byt5-pie-separator": Case(
        tokens.byt5_of_old, "the cat sat", ("summarize: ", "translate English to German: "), mode="pie", **BYT5
    ),
    "clean-up-spaces": Case(
        lambda folder: tokens.words(folder, added=True, clean=True),
        DIALOGUE,
        ("train leave at", "hotel name", "what is a taxi", "the world"),
        cleaned,
    ),
    "no-added-tokens": Case(
        lambda folder: tokens.words(folder, added=False, clean=False),
        DIALOGUE,
        ("train leave at", "hotel name", "what <extra_id_0> a taxi", "the </s> world"),
        special_within,
    ),
    "codet5": Case(
        tokens.bpe,
        "def add ( a , b ) :",
        ("return the sum", "name of the list", "print a", "<s> add </s>"),
        special_within,
        **BPE,
    ),
}

CONVERT = {
    "spiece": Case(
        tokens.spiece,
        "translate English to German: the <extra_id_0> is cheap </s> today",
        ("ｔｈｅ ｃａｔ", "where is <extra_id_5>", "leaves   at ten"),
        config=ids.GATED,
    ),
    "bpe": Case(
        tokens.bpe_files,
        "def add ( a , b ) :",
        ("return the sum", "name of the list", "print a", "<s> add </s>"),
        **BPE,
    ),
}


def answers(case: Case, folder: Path) -> tuple[PreTrainedTokenizerBase, list[list[int]], float]:
    """The tokenizer, the ids of every answer, and the smallest gap of all."""
    model, tokenizer = ids.load(folder), AutoTokenizer.from_pretrained(folder)
    outputs, gap = [], float("inf")
    for prompt in case.prompts:
        if case.mode == "pie":
            inputs, decoder = tokenizer(f"{prompt.strip()} {case.input}").input_ids, []
        else:
            inputs = tokenizer(case.input).input_ids
            decoder = tokenizer(prompt.strip(), add_special_tokens=False).input_ids
        answer, least = ids.greedy(model, inputs, decoder, MAX_NEW_TOKENS)
        outputs.append(answer)
        gap = min(gap, least)
    return tokenizer, outputs, gap


def model_of(case: Case, vocab: int, seed: int) -> PreTrainedModel:
    sizes = {**ids.SMALL, "vocab_size": vocab}
    model = ids.model_of(ids.Case(config=case.config, sizes=sizes), seed)
    with torch.no_grad():
        for i in set(range(vocab)) - set(case.often or range(vocab)):
            model.lm_head.weight[i] *= 0.3
    return model


def make(name: str, case: Case, folder: Path) -> None:
    """Tries seeds until the greedy path is clear and the texts are worth comparing."""
    if ids.MAJOR != 4:
        return
    folder.mkdir(parents=True, exist_ok=True)
    case.tokenizer(folder)
    vocab = case.vocab or len(AutoTokenizer.from_pretrained(folder))
    for seed in range(5000):
        ids.save(ids.Case(), model_of(case, vocab, seed), folder)
        case.tokenizer(folder)
        tokenizer, outputs, gap = answers(case, folder)
        said = [text(tokenizer, answer) for answer in outputs]
        varied = len(set(said)) == len(said) and max(len(set(answer)) for answer in outputs) > 3
        shown = any(case.shows(tokenizer, answer) for answer in outputs)
        if gap > ids.LEAST_GAP and varied and shown and all(len(t.strip()) > 2 for t in said):
            break
    else:
        raise RuntimeError(f"{name}: no seed will do")
    (folder / "input.txt").write_text(case.input + "\n")
    (folder / "prompts.txt").write_text("".join(prompt + "\n" for prompt in case.prompts))
    values = {"mode": case.mode, "max_new_tokens": MAX_NEW_TOKENS, "text": said}
    (folder / "expected_text.json").write_text(json.dumps(values, ensure_ascii=False) + "\n")
    print(f"{name}: seed {seed}, least gap {gap:.3f}, texts {said}")


def check(name: str, case: Case, folder: Path) -> list[str]:
    """What is wrong, if the running version answers something else."""
    tokenizer, outputs, _ = answers(case, folder)
    said = [text(tokenizer, answer) for answer in outputs]
    same = said == json.loads((folder / "expected_text.json").read_text())["text"]
    return [] if same else [f"{name}: {said} under transformers {transformers.__version__}"]
