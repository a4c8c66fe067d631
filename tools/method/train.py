"""One training: a task, a way to ask, a seed. Steps are counted, not timed: the machine changes nothing of the result."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass

import torch
from tokenizers import Tokenizer
from transformers import T5ForConditionalGeneration

from tasks import TASKS, Example, Task  # First: it has Python find what follows in tools/tiny-t5.
from start import config, initialise, packed, padded, parameter_groups
from vocabulary import EOS, PAD

# Of a step: texts, and prompts of each.
EXAMPLES, PROMPTS = 16, 4
LEARNING_RATE = 2e-3
# All 30 answers of a dialogue in one sequence, with what parts them, are 60 and more.
MAX_NEW_TOKENS = 100


@dataclass(frozen=True)
class Run:
    """A way: `pid`, the prompt in the decoder; `marked`, with its mark alone before the text, where PIE has the prompt; `pie`, in the
    encoder; `unmarked`, there without the mark at its end; `one` prompt that asks for everything, in the decoder; `decoders`, one for
    each prompt of the task, over one encoder and without prompts."""

    task: str
    way: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.task.replace(' ', '-')}-{self.way}-{self.seed}-{self.steps}"


@dataclass
class Row:
    """One decoder row: whose text it reads, what it begins with, what it answers; `decoder`: which one."""

    input: int
    begin: list[int]
    answer: list[int]
    decoder: int = 0


class Asker:
    """Turns examples into encoder inputs and decoder rows, the way `way` has it."""

    def __init__(self, tokenizer: Tokenizer, task: Task, way: str) -> None:
        self.task, self.way = task, way
        self.ids = lambda text, end: tokenizer.encode(text, add_special_tokens=end).ids
        self.text = tokenizer.decode
        self.in_encoder = way in ("pie", "unmarked")

    def rows(self, examples: list[tuple[str, list[tuple[int, str, str]]]]) -> tuple[list[list[int]], list[Row]]:
        """Of texts with (index, prompt, answer) of what is asked."""
        inputs: list[list[int]] = []
        rows: list[Row] = []
        for text, asked in examples:
            ids = self.ids("? " + text if self.way == "marked" else text, True)
            if not self.in_encoder:
                inputs.append(ids)
            for index, prompt, answer in asked:
                prompt_ids = self.ids(prompt.removesuffix(" ?") if self.way == "unmarked" else prompt, False)
                if self.in_encoder:
                    inputs.append(prompt_ids + ids)
                begin = [PAD] + (prompt_ids if self.way in ("pid", "marked", "one") else [])
                decoder = index if self.way == "decoders" else 0
                rows.append(Row(len(inputs) - 1, begin, self.ids(answer, True), decoder))
        return inputs, rows

    def everything(self, example: Example) -> list[tuple[int, str, str]]:
        """What there is to ask of a text."""
        if self.way == "one":
            return [(0, self.task.all_prompt, " ; ".join(example.answers))]
        return list(zip(range(len(example.prompts)), example.prompts, example.answers))

    def drawn(self, example: Example) -> list[tuple[int, str, str]]:
        """What a step asks: of prompts without an answer one, where there are enough others. Where prompts may hold an earlier
        answer, all but one of those: what is drawn at random needs no learning."""
        rng, asked = self.task.rng, self.everything(example)
        rng.shuffle(asked)
        empty = [a for a in asked if a[2] == self.task.nothing]
        filled = [a for a in asked if a[2] != self.task.nothing]
        drawn = (filled[: PROMPTS - 1] + empty[:1] + filled[PROMPTS - 1 :] + empty[1:])[:PROMPTS]
        if example.chained and self.way in ("pid", "pie"):
            drawn = drawn[:1] + [(0, *pair) for pair in rng.sample(example.chained, PROMPTS - 1)]
        return drawn


class Model(torch.nn.Module):
    """The T5, and for separate decoders copies of its decoder that share its encoder and embedding."""

    def __init__(self, words: int, decoders: int) -> None:
        super().__init__()
        self.t5 = T5ForConditionalGeneration(config(words, d_model=64))
        initialise(self.t5)
        self.others = torch.nn.ModuleList(copy.deepcopy(self.t5.decoder) for _ in range(decoders - 1))
        for other in self.others:
            other.embed_tokens = self.t5.shared

    def encode(self, inputs: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = padded(inputs)
        mask = (ids != PAD).long()
        return self.t5.encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    def logits(self, decoder: int, ids: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor, own=None) -> torch.Tensor:
        stack = self.others[decoder - 1] if decoder else self.t5.decoder
        out = stack(
            input_ids=ids, attention_mask=own, encoder_hidden_states=memory, encoder_attention_mask=mask, use_cache=False
        )
        return self.t5.lm_head(out.last_hidden_state * self.t5.config.d_model**-0.5)

    def loss(self, inputs: list[list[int]], rows: list[Row]) -> torch.Tensor:
        """Of the answers' tokens; encodes every input once, and its rows share the K/V."""
        memory, mask = self.encode(inputs)
        losses, count = torch.zeros(()), 0
        for decoder in sorted({row.decoder for row in rows}):
            by_input: dict[int, list[tuple[list[int], list[int]]]] = {}
            for row in rows:
                if row.decoder == decoder:
                    unasked = [-100] * (len(row.begin) - 1)
                    by_input.setdefault(row.input, []).append((row.begin + row.answer[:-1], unasked + row.answer))
            ids, labels, own = packed(list(by_input.values()))
            at = list(by_input)
            logits = self.logits(decoder, ids, memory[at], mask[at], own)
            losses = losses + torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            count += int((labels != -100).sum())
        return losses / count

    @torch.no_grad()
    def generate(self, inputs: list[list[int]], rows: list[Row], sampler: torch.Generator | None = None) -> list[list[int]]:
        """Greedy, or drawn from the softmax with a `sampler`; answers without their end."""
        memory, mask = self.encode(inputs)
        answers: list[list[int]] = [[] for _ in rows]
        for decoder in sorted({row.decoder for row in rows}):
            live = [i for i, row in enumerate(rows) if row.decoder == decoder]
            for _ in range(MAX_NEW_TOKENS):
                given = [rows[i].begin + answers[i] for i in live]
                at = [rows[i].input for i in live]
                logits = self.logits(decoder, padded(given), memory[at], mask[at])
                last = logits[torch.arange(len(live)), torch.tensor([len(ids) - 1 for ids in given])]
                chosen = last.argmax(-1) if sampler is None else torch.multinomial(last.softmax(-1), 1, generator=sampler)[:, 0]
                for i, token in zip(live, chosen.tolist()):
                    answers[i].append(token)
                live = [i for i in live if answers[i][-1] != EOS]
                if not live:
                    break
        return [[token for token in answer if token != EOS] for answer in answers]


def train(run: Run, tokenizer: Tokenizer, say) -> tuple[Model, dict]:
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    task = TASKS[run.task](seed=1000 + run.seed)
    asker = Asker(tokenizer, task, run.way)
    decoders = len(task.example().prompts) if run.way == "decoders" else 1
    model = Model(tokenizer.get_vocab_size(), decoders)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    begin, smooth, curve = time.process_time(), None, []
    for step in range(run.steps):
        # Warm up over 100 steps, then fall along a cosine.
        factor = min(1.0, (step + 1) / 100) * max(0.02, 0.5 * (1 + math.cos(math.pi * step / run.steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * group["relative"] * factor
        examples = [task.example() for _ in range(EXAMPLES)]
        loss = model.loss(*asker.rows([(example.text, asker.drawn(example)) for example in examples]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        if (step + 1) % 50 == 0:
            curve.append(round(smooth, 4))
            say(f"{run.name} step {step + 1} loss {smooth:.4f}")
    seconds = round(time.process_time() - begin)
    parameters = sum(p.numel() for p in model.parameters())
    return model.eval(), asdict(run) | {"cpu_seconds": seconds, "parameters": parameters, "loss_every_50_steps": curve}
