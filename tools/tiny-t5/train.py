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
from transformers import T5Config, T5ForConditionalGeneration

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


def parameter_groups(model: T5ForConditionalGeneration) -> list[dict]:
    """Adam moves every weight by about the learning rate, so those that must grow large, the
    relative biases (several units, to look at exactly the token before) and the embedding (T5
    initialises it to deviation 1), get larger rates: copying is learned in minutes, not hours."""
    relative = {"relative_attention_bias": 15.0, "shared": 4.0}
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = next((rate for part, rate in relative.items() if part in name), 1.0)
        groups.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "relative": rate} for rate, parameters in groups.items()]


@torch.no_grad()
def initialise(model: T5ForConditionalGeneration) -> None:
    """Starts from heads that pre-trained T5s have and that small ones take long to find: encoder
    heads that look at a near neighbour, and a last cross-attention that copies what it looks at."""
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    # Buckets of the keys one before, one after, two before the query; the fourth head is free.
    for head, bucket in enumerate([1, 17, 2]):
        bias[bucket, head] = 5.0
    cross = model.decoder.block[-1].layer[1].EncDecAttention
    identity = torch.eye(model.config.d_model)
    cross.v.weight.copy_(identity)
    cross.o.weight.copy_(1.5 * identity)


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
            # Four slots a dialogue: each costs an encoding of its own.
            slots = self.slots(dialogue, 2)
            for slot in self.rng.sample(slots, min(len(slots), 4)):
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
    """Encodes every input once. Its rows stand one after the other in a single decoder sequence
    and read one cross-attention K/V; a block-diagonal mask keeps them apart, and since T5's
    positions are relative, each row computes what it would compute alone."""
    inputs = padded(batch.inputs, PAD)
    most = max(map(len, batch.rows))
    width = max(len(ids) for rows in batch.rows for ids, _ in rows)
    ids = torch.full((len(batch.rows), most, width), PAD)
    labels = torch.full((len(batch.rows), most, width), -100)
    for b, rows in enumerate(batch.rows):
        for r, (row_ids, row_labels) in enumerate(rows):
            ids[b, r, : len(row_ids)] = torch.tensor(row_ids)
            labels[b, r, : len(row_labels)] = torch.tensor(row_labels)
    causal = torch.ones(width, width).tril()
    blocks = torch.block_diag(*[causal] * most)
    mask = torch.where(blocks > 0, 0.0, torch.finfo(torch.float32).min)[None, None]
    return model(
        input_ids=inputs,
        attention_mask=(inputs != PAD).long(),
        decoder_input_ids=ids.flatten(1),
        decoder_attention_mask=mask.expand(len(batch.rows), 1, -1, -1),
        labels=labels.flatten(1),
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
    model = T5ForConditionalGeneration(config(tokenizer.get_vocab_size()))
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
