"""What a trained model answers on examples that it was not trained on, and how much of it is right."""

from __future__ import annotations

import torch
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import Tokenizer

from tasks import TASKS, Choice, Example
from train import Asker, Model, Run

EXAMPLES = 100


def answers(model: Model, asker: Asker, text: str, prompts: list[str], sampler=None) -> list[str]:
    """To each prompt; for one prompt that asks for everything, to each of its parts."""
    inputs, rows = asker.rows([(text, [(i, prompt, "") for i, prompt in enumerate(prompts)])])
    texts = [asker.text(ids) for ids in model.generate(inputs, rows, sampler)]
    return [part.strip() for part in texts[0].split(";")] if asker.way == "one" else texts


def share(hits: list[bool] | list[float]) -> float:
    return round(sum(hits) / len(hits), 4)


def evaluate(run: Run, model: Model, tokenizer: Tokenizer) -> dict:
    torch.manual_seed(run.seed)
    task = TASKS[run.task](seed=1)
    asker = Asker(tokenizer, task, run.way)
    examples = [task.example() for _ in range(EXAMPLES)]
    asked = lambda e: [task.all_prompt] if run.way == "one" else e.prompts
    got = [answers(model, asker, e.text, asked(e)) for e in examples]
    got = [(texts + [""] * len(e.answers))[: len(e.answers)] for texts, e in zip(got, examples)]
    if run.task == "choice":
        return choice(run, model, asker, examples, got)
    pairs = [(a, b) for texts, e in zip(got, examples) for a, b in zip(texts, e.answers)]
    figures = {
        "accuracy": share([a == b for a, b in pairs]),
        "joint": share([texts == e.answers for texts, e in zip(got, examples)]),
    }
    if task.nothing:
        figures["answered"] = share([a == b for a, b in pairs if b != task.nothing])
    if run.task == "summary":
        rouge = RougeScorer(["rougeL"])
        figures["rouge_l"] = share([rouge.score(b, a)["rougeL"].fmeasure for a, b in pairs])
    return figures


def choice(run: Run, model: Model, asker: Asker, examples: list[Example], got: list[list[str]]) -> dict:
    """Whichever offer is booked is right; that all of it is of one offer is what counts."""

    def coherent(e: Example, texts: list[str]) -> bool:
        said = {f"{texts[0]} {slot} {value} ." for slot, value in zip(Choice.slots, texts[1:])}
        sentences = {sentence.strip() + " ." for sentence in e.text.split(".")}
        return len(texts) == len(e.answers) and said <= sentences

    figures = {"joint": share([coherent(e, texts) for e, texts in zip(examples, got)])}
    sampler = torch.Generator().manual_seed(run.seed)
    drawn = [answers(model, asker, e.text, [asker.task.all_prompt] if run.way == "one" else e.prompts, sampler) for e in examples]
    figures["joint_sampled"] = share([coherent(e, texts) for e, texts in zip(examples, drawn)])
    if run.way in ("pid", "pie"):
        for name, sampler in (("in_order", None), ("in_order_sampled", torch.Generator().manual_seed(run.seed))):
            hits = []
            for e in examples:
                first = answers(model, asker, e.text, e.prompts[:1], sampler)
                rest = answers(model, asker, e.text, [f"{first[0]} {slot} ?" for slot in Choice.slots], sampler)
                hits.append(coherent(e, first + rest))
            figures[name] = share(hits)
    return figures


def always_nothing(task: str) -> dict | None:
    """What the answer "there is none", given to every prompt, would get."""
    drawn = TASKS[task](seed=1)
    if drawn.nothing is None:
        return None
    wanted = [answer for _ in range(EXAMPLES) for answer in drawn.example().answers]
    return {"accuracy": share([answer == drawn.nothing for answer in wanted])}
