"""Trains one tiny T5 checkpoint: `python train.py pid` or `python train.py pie`."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from dialogues import NONE, SLOTS, Dialogue, Generator, assert_disjoint
from vocabulary import EOS, PAD, load_or_build

ASSETS = Path(__file__).resolve().parents[2] / "examples" / "t5" / "assets"


def config(vocab_size: int) -> T5Config:
    """The architecture of both checkpoints: 1.0 million parameters, 2 MB in f16."""
    return T5Config(
        vocab_size=vocab_size,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_heads=4,
        num_layers=3,
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=True,
        dropout_rate=0.0,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


class Batches:
    """Training batches of either kind from freshly generated dialogues."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.generator = Generator(seed, held_out=False)
        self.rng = random.Random(seed)
        self.encode = lambda text, end: tokenizer.encode(text, add_special_tokens=end).ids
        self.prompts = [self.encode(slot, False) for slot in SLOTS]

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

    def pid(self, dialogues: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encoder ids, the dialogue of each row, decoder ids, labels."""
        inputs, owner, decoder, labels = [], [], [], []
        for b in range(dialogues):
            dialogue = self.generator.dialogue()
            inputs.append(self.encode(dialogue.text, True))
            for slot in self.slots(dialogue, 5):
                prompt, answer = self.prompts[slot], self.encode(dialogue.answers[slot], True)
                owner.append(b)
                decoder.append([PAD] + prompt + answer[:-1])
                labels.append([-100] * len(prompt) + answer)
        return padded(inputs, PAD), torch.tensor(owner), padded(decoder, PAD), padded(labels, -100)

    def pie(self, dialogues: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same, with the prompt before the dialogue in the encoder: one input per row."""
        inputs, decoder, labels = [], [], []
        for _ in range(dialogues):
            dialogue = self.generator.dialogue()
            text = self.encode(dialogue.text, True)
            # Four rows a dialogue: each row costs an encoding of its own.
            for slot in self.rng.sample(self.slots(dialogue, 3), 4):
                answer = self.encode(dialogue.answers[slot], True)
                inputs.append(self.prompts[slot] + text)
                decoder.append([PAD] + answer[:-1])
                labels.append(answer)
        return padded(inputs, PAD), torch.arange(len(inputs)), padded(decoder, PAD), padded(labels, -100)


def loss_of(model: T5ForConditionalGeneration, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Encodes every input once, then decodes the rows that belong to it."""
    inputs, owner, decoder, labels = batch
    mask = (inputs != PAD).long()
    memory = model.encoder(input_ids=inputs, attention_mask=mask).last_hidden_state
    out = model(
        encoder_outputs=BaseModelOutput(memory[owner]),
        attention_mask=mask[owner],
        decoder_input_ids=decoder,
        labels=labels,
        use_cache=False,
    )
    return out.loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("kind", choices=["pid", "pie"])
    parser.add_argument("--minutes", type=float, default=25, help="wall time of the training")
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
    model = T5ForConditionalGeneration(config(tokenizer.get_vocab_size()))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    batches = Batches(tokenizer, args.seed)
    make = batches.pid if args.kind == "pid" else batches.pie

    start, seconds = time.time(), args.minutes * 60
    step = rows = 0
    smooth = None
    while (elapsed := time.time() - start) < seconds:
        # Warm up over 100 steps, then fall along a cosine of the time that is left.
        factor = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * elapsed / seconds))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * max(factor, 0.01)
        batch = make(args.dialogues)
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        rows += len(batch[1])
        smooth = loss.item() if smooth is None else 0.97 * smooth + 0.03 * loss.item()
        if step % 50 == 0:
            print(f"{args.kind} step {step} {elapsed:.0f} s loss {smooth:.4f}", flush=True)
        if step % 500 == 0:
            save(model, folder)
    save(model, folder)
    facts = {"seconds": round(time.time() - start), "steps": step, "dialogues": step * args.dialogues, "rows": rows}
    facts |= {"seed": args.seed, "threads": args.threads, "lr": args.lr, "loss": round(smooth, 5)}
    (Path(__file__).parent / f"training-{args.kind}.json").write_text(json.dumps(facts, indent=1) + "\n")


def save(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Writes the checkpoint in f16: within 3 MB, and what is evaluated is what is shipped."""
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    T5ForConditionalGeneration(model.config).half().save_pretrained(folder, state_dict=state)
    (folder / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
