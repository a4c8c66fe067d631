"""Writes the assets that go with the checkpoints, and evaluates both by greedy decoding.

`dialogue.txt`, `prompts.txt`: the example's built-in input. `heldout.json`: dialogues with names
and times never seen in training. `expected.json`: what transformers answers on the built-in input.
`results.json` beside this file: accuracies, and how each checkpoint was trained.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import T5ForConditionalGeneration

from dialogues import NONE, SLOTS, Dialogue, Generator, assert_disjoint
from train import ASSETS
from vocabulary import EOS, PAD

MAX_NEW_TOKENS = 16


class Answerer:
    """One checkpoint, its weights in f32 as the Rust example has them."""

    def __init__(self, kind: str, assets: Path) -> None:
        self.kind = kind
        self.model = T5ForConditionalGeneration.from_pretrained(assets / kind, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(assets / kind / "tokenizer.json"))
        self.prompts = [self.tokenizer.encode(slot, add_special_tokens=False).ids for slot in SLOTS]

    @torch.no_grad()
    def answer(self, text: str) -> list[str]:
        """The answer to every slot, one prompt at a time."""
        ids = self.tokenizer.encode(text).ids
        answers = []
        memory = self.model.encoder(torch.tensor([ids])) if self.kind == "pid" else None
        for prompt in self.prompts:
            if self.kind == "pie":
                memory = self.model.encoder(torch.tensor([prompt + ids]))
            decoder = [PAD] + (prompt if self.kind == "pid" else [])
            start = len(decoder)
            while len(decoder) - start < MAX_NEW_TOKENS:
                logits = self.model(encoder_outputs=memory, decoder_input_ids=torch.tensor([decoder])).logits
                decoder.append(int(logits[0, -1].argmax()))
                if decoder[-1] == EOS:
                    break
            answers.append(self.tokenizer.decode(decoder[start:]))
        return answers


def show_case(seed: int) -> Dialogue:
    """The first held-out dialogue that is changed, has something forgotten and something denied."""
    generator = Generator(seed, held_out=True)
    while True:
        dialogue = generator.dialogue()
        if all(words in dialogue.text for words in ("actually", "forget", " is not ")):
            return dialogue


def accuracy(answers: list[list[str]], dialogues: list[Dialogue]) -> dict[str, float]:
    pairs = [(got, want) for a, d in zip(answers, dialogues) for got, want in zip(a, d.answers)]
    filled = [(got, want) for got, want in pairs if want != NONE]
    share = lambda hits: round(sum(hits) / len(hits), 4)
    return {
        "slot": share([got == want for got, want in pairs]),
        "filled_slots": share([got == want for got, want in filled]),
        "joint": share([a == d.answers for a, d in zip(answers, dialogues)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=50, help="held-out dialogues")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--assets", type=Path, default=ASSETS)
    args = parser.parse_args()
    assert_disjoint()
    torch.set_num_threads(1)

    shown = show_case(args.seed)
    generator = Generator(args.seed + 1, held_out=True)
    dialogues = [generator.dialogue() for _ in range(args.dialogues)]
    (args.assets / "dialogue.txt").write_text(shown.text + "\n")
    (args.assets / "prompts.txt").write_text("\n".join(SLOTS) + "\n")
    held_out = [{"text": d.text, "answers": d.answers} for d in dialogues]
    (args.assets / "heldout.json").write_text(json.dumps({"prompts": SLOTS, "dialogues": held_out}) + "\n")

    here = Path(__file__).parent
    results, expected = {"dialogues": args.dialogues, "seed": args.seed}, {}
    for kind in ("pid", "pie"):
        answerer = Answerer(kind, args.assets)
        expected[kind] = answerer.answer(shown.text)
        answers = [answerer.answer(d.text) for d in dialogues]
        training = json.loads((here / f"training-{kind}.json").read_text())
        results[kind] = {"accuracy": accuracy(answers, dialogues), "training": training}
        print(kind, results[kind]["accuracy"], flush=True)
    results["always_none"] = accuracy([[NONE] * len(SLOTS)] * len(dialogues), dialogues)
    (args.assets / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    (here / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
