"""Trains one tiny T5 checkpoint: `python train.py pid` or `python train.py pie`."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import T5ForConditionalGeneration

from dialogues import NONE, SLOTS, Dialogue, Generator, assert_disjoint
from start import config, initialise, packed, padded, parameter_groups
from vocabulary import PAD, load_or_build

ASSETS = Path(__file__).resolve().parents[2] / "examples" / "t5" / "assets"


class Batches:
    """Training batches of either kind from freshly generated dialogues."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.generator = Generator(seed, held_out=False)
        self.rng = random.Random(seed)
        self.encode = lambda text, end: tokenizer.encode(text, add_special_tokens=end).ids
        self.prompts = [self.encode(slot, False) for slot in SLOTS]

    def dialogue(self, progress: float) -> Dialogue:
        """Short dialogues first: copying a name is learned where there is little to copy from."""
        return self.generator.dialogue(simple=self.rng.random() > 4 * progress)

    def slots(self, dialogue: Dialogue, none: int) -> list[int]:
        """All filled slots and `none` of the empty ones, so that "none" does not drown them."""
        filled = [i for i, a in enumerate(dialogue.answers) if a != NONE]
        empty = [i for i, a in enumerate(dialogue.answers) if a == NONE]
        # Half of them from domains under discussion: those are the hard ones.
        talked = {SLOTS[i].split()[0] for i in filled}
        hard = [i for i in empty if SLOTS[i].split()[0] in talked]
        picked = self.rng.sample(hard, min(len(hard), none // 2 + none % 2))
        rest = [i for i in empty if i not in picked]
        return filled + picked + self.rng.sample(rest, none - len(picked))

    def pid(self, dialogues: int, progress: float) -> Batch:
        """Every dialogue with its filled slots and a few empty ones."""
        batch = Batch()
        for _ in range(dialogues):
            dialogue = self.dialogue(progress)
            batch.inputs.append(self.encode(dialogue.text, True))
            rows = []
            for slot in self.slots(dialogue, 3):
                prompt, answer = self.prompts[slot], self.encode(dialogue.answers[slot], True)
                rows.append(([PAD] + prompt + answer[:-1], [-100] * len(prompt) + answer))
            batch.rows.append(rows)
        return batch

    def pie(self, dialogues: int, progress: float) -> Batch:
        """The prompt before the dialogue in the encoder: one input per slot."""
        batch = Batch()
        for _ in range(dialogues):
            dialogue = self.dialogue(progress)
            text = self.encode(dialogue.text, True)
            # Five slots a dialogue: each costs an encoding of its own. Most slots are empty, and here
            # nothing but the examples tells how many.
            slots = self.slots(dialogue, 3)
            filled, empty = slots[:-3], slots[-3:]
            for slot in self.rng.sample(filled, min(len(filled), 2)) + empty:
                answer = self.encode(dialogue.answers[slot], True)
                batch.inputs.append(self.prompts[slot] + text)
                batch.rows.append([([PAD] + answer[:-1], answer)])
        return batch


@dataclass
class Batch:
    """Encoder ids, and for each input its decoder rows (ids, labels)."""

    inputs: list[list[int]] = field(default_factory=list)
    rows: list[list[tuple[list[int], list[int]]]] = field(default_factory=list)


def loss_of(model: T5ForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Encodes every input once; its rows share the K/V."""
    inputs = padded(batch.inputs)
    ids, labels, mask = packed(batch.rows)
    return model(
        input_ids=inputs,
        attention_mask=(inputs != PAD).long(),
        decoder_input_ids=ids,
        decoder_attention_mask=mask,
        labels=labels,
        use_cache=False,
    ).loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("kind", choices=["pid", "pie"])
    parser.add_argument("--minutes", type=float, default=25, help="CPU time of the training")
    parser.add_argument("--start", type=Path, help="folder of a checkpoint to start from")
    parser.add_argument("--dialogues", type=int, default=16, help="dialogues per step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()

    assert_disjoint()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    folder = args.out / args.kind
    tokenizer = load_or_build(folder / "tokenizer.json")
    # 1.0 million parameters, 2 MB in f16.
    model = T5ForConditionalGeneration(config(tokenizer.get_vocab_size(), d_model=128))
    if args.start:
        model.load_state_dict(T5ForConditionalGeneration.from_pretrained(args.start, dtype=torch.float32).state_dict())
    else:
        initialise(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)
    batches = Batches(tokenizer, args.seed)
    make = batches.pid if args.kind == "pid" else batches.pie

    # CPU time, so that what else the machine does changes neither the schedule nor the result.
    start, seconds = time.process_time(), args.minutes * 60
    step = rows = 0
    smooth = None
    while (elapsed := time.process_time() - start) < seconds:
        # Warm up over 100 steps, then fall along a cosine of the time that is left.
        factor = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * elapsed / seconds))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * group["relative"] * max(factor, 0.01)
        batch = make(args.dialogues, elapsed / seconds)
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        rows += sum(map(len, batch.rows))
        smooth = loss.item() if smooth is None else 0.97 * smooth + 0.03 * loss.item()
        if step % 50 == 0:
            print(f"{args.kind} step {step} {elapsed:.0f} s loss {smooth:.4f}", flush=True)
        if step % 500 == 0:
            save(model, folder)
    save(model, folder)
    facts = {"cpu_seconds": round(time.process_time() - start), "steps": step, "dialogues": step * args.dialogues, "rows": rows}
    facts |= {"seed": args.seed, "threads": args.threads, "lr": args.lr, "loss": round(smooth, 5)}
    (Path(__file__).parent / f"training-{args.kind}.json").write_text(json.dumps(facts, indent=1) + "\n")


def save(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Writes the checkpoint in f16: within 3 MB, and what is evaluated is what is shipped."""
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    T5ForConditionalGeneration(model.config).half().save_pretrained(folder, state_dict=state)
    (folder / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
