"""The tasks: generators of a text, its prompts and their answers; the same seed gives the same examples.

`dialogue`, `summary` and `qa` are the paper's three. Each of the others breaks one assumption of prompt-in-decoder on
purpose, by one knob. Prompts end in " ?", which no text has: it marks where a prompt ends in either place.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tiny-t5"))

import dialogues  # noqa: E402

AREAS = "north south east west centre".split()
COLOURS = "red blue green black white yellow".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
DRUGS = "aspirin codeine insulin steroids zinc iron".split()
FOODS = "rice soup bread fish pasta cheese".split()
ILLNESSES = "asthma measles gout anaemia pneumonia diabetes".split()
JOBS = "baker doctor farmer lawyer painter teacher".split()
MONTHS = "march april may june july august".split()
NUMBERS = [str(number) for number in range(1, 10)]
PRICES = "cheap moderate expensive".split()
SYMPTOMS = "cough fever headache rash dizziness nausea".split()
THINGS = "car boat house lamp piano door coat chair".split()

NAMES = [a + b for a in dialogues.SYLLABLES for b in dialogues.SYLLABLES if a != b]
random.Random(7).shuffle(NAMES)
NAMES = NAMES[:60]
TIMES = [f"{hour:02d}:{minute}" for hour in range(8, 20) for minute in ("00", "30")]


@dataclass
class Example:
    """A text with its prompts, and what each is to be answered. `chained`: prompts that hold an earlier answer."""

    text: str
    prompts: list[str]
    answers: list[str]
    chained: list[tuple[str, str]] | None = None


class Task:
    """Draws examples. `all_prompt` asks for all answers in one sequence, parted by ";"."""

    nothing: str | None = None
    """The answer of a prompt that the text says nothing about."""
    all_prompt = "everything ?"
    knob: str | None = None
    """What `size` counts, of a task that has one."""
    size: int = 0

    def __init__(self, seed: int, size: int | None = None) -> None:
        self.rng = random.Random(seed)
        self.size = size or self.size

    def names(self, count: int) -> list[str]:
        return self.rng.sample(NAMES, count)

    def example(self) -> Example:
        raise NotImplementedError


class Dialogue(Task):
    """States of the dialogues of tools/tiny-t5, of at most 80 words, with fewer names and times: 30 slots."""

    nothing = dialogues.NONE
    longest: float = 80

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.generator = dialogues.Generator(seed, held_out=False)
        self.generator.open = {"name": NAMES, "time": TIMES}

    def example(self) -> Example:
        while len((dialogue := self.generator.dialogue()).text.split()) > self.longest:
            pass
        text = dialogue.text.replace(" ?", " .")
        return Example(text, [f"{slot} ?" for slot in dialogues.SLOTS], dialogue.answers)


class LongDialogue(Dialogue):
    """Those of any length."""

    longest = math.inf


class Summary(Task):
    """A visit to the doctor, whose record has four sections. Remarks on others and small talk belong to none."""

    nothing = "nothing"

    def example(self) -> Example:
        r = self.rng
        said: list[tuple[int, str, str | None]] = []
        for symptom in r.sample(SYMPTOMS, r.choice([0, 1, 1, 2])):
            day = r.choice(DAYS)
            form = r.choice(["patient : i have {0} since {1} .", "patient : since {1} there is {0} ."])
            said.append((0, form.format(symptom, day), f"{symptom} since {day}"))
        if r.random() < 0.7:
            illness, month = r.choice(ILLNESSES), r.choice(MONTHS)
            said.append((1, f"patient : i had {illness} in {month} .", f"{illness} in {month}"))
        if r.random() < 0.5:
            drug = r.choice(DRUGS)
            said.append((1, f"patient : so far i take {drug} .", f"takes {drug}"))
        for measure in r.sample(["pulse", "temperature", "weight"], r.choice([0, 1, 1, 2])):
            value = r.choice(NUMBERS)
            said.append((2, f"doctor : your {measure} is {value} .", f"{measure} {value}"))
        if r.random() < 0.7:
            drug, times = r.choice(DRUGS), r.choice(NUMBERS)
            said.append((3, f"doctor : take {drug} {times} times .", f"{drug} {times} times"))
        if r.random() < 0.6:
            day = r.choice(DAYS)
            said.append((3, f"doctor : come back on {day} .", f"back {day}"))
        if r.random() < 0.5:
            said.append((0, f"patient : my sister has {r.choice(SYMPTOMS)} .", None))
        if r.random() < 0.5:
            said.append((0, f"doctor : it is cold this {r.choice(DAYS)} .", None))
        r.shuffle(said)
        if not said:
            return self.example()
        # A section lists its items in the order in which they were said.
        answers = [" , ".join(item for at, _, item in said if at == section and item) for section in range(4)]
        prompts = ["complaint ?", "history ?", "findings ?", "plan ?"]
        return Example(" ".join(line for _, line, _ in said), prompts, [answer or self.nothing for answer in answers])


# question -> (values, or None for a name; sentences)
FACTS: dict[str, tuple[list[str] | None, list[str]]] = {
    "birthplace": (None, ["he was born in {}", "{} is where he was born"]),
    "home": (None, ["he lives in {}", "his home is {}"]),
    "school": (None, ["he went to school in {}", "his school is in {}"]),
    "job": (JOBS, ["he works as a {}", "his job is {}"]),
    "first job": (JOBS, ["he began as a {}", "his first job was {}"]),
    "wife": (None, ["he married {}", "his wife is {}"]),
    "brother": (None, ["{} is his brother", "his brother is {}"]),
    "friend": (None, ["{} is a friend of his", "his best friend is {}"]),
    "month": (MONTHS, ["his birthday is in {}", "the month of his birth was {}"]),
    "children": (NUMBERS, ["he has {} children", "he is father of {}"]),
    "car": (COLOURS, ["he drives a {} car", "his car is {}"]),
    "food": (FOODS, ["he likes {}", "he eats {} every day"]),
    "dislikes": (FOODS, ["he never eats {}", "he does not like {}"]),
    "day off": (DAYS, ["he rests on {}", "his day off is {}"]),
}


class Questions(Task):
    """Questions on a life told in nine sentences; five of the fourteen have no answer in it."""

    nothing = "unknown"

    def example(self) -> Example:
        told = set(self.rng.sample(list(FACTS), 9))
        names = iter(self.names(len(FACTS)))
        sentences, answers = [], []
        for question, (values, forms) in FACTS.items():
            value = self.rng.choice(values) if values else next(names)
            if question in told:
                sentences.append(self.rng.choice(forms).format(value) + " .")
            answers.append(value if question in told else self.nothing)
        self.rng.shuffle(sentences)
        return Example(" ".join(sentences), [f"{question} ?" for question in FACTS], answers)


class Counting(Task):
    """Broken: an encoding that serves every prompt. How many things have the colour that the prompt names?"""

    knob, size = "things", 10

    def example(self) -> Example:
        things = [(self.rng.choice(COLOURS), self.rng.choice(THINGS)) for _ in range(self.size)]
        text = " ".join(f"a {colour} {thing} ." for colour, thing in things)
        counts = [sum(c == colour for c, _ in things) for colour in COLOURS]
        if max(counts) > len(NUMBERS):  # There is no word for it.
            return self.example()
        return Example(text, [f"{colour} ?" for colour in COLOURS], [str(count) for count in counts])


class Choice(Task):
    """Broken: independent subtasks. Of the offers one is booked, whichever; what is booked must be of one offer."""

    slots = ["name", "area", "day", "stars"]

    def example(self) -> Example:
        count = self.rng.choice([2, 3])
        values = [self.names(count), self.rng.sample(AREAS, count), self.rng.sample(DAYS, count), self.rng.sample(NUMBERS, count)]
        offers = list(zip("abc", *values))
        text = " ".join(f"{key} {slot} {value} ." for key, *values in offers for slot, value in zip(self.slots, values))
        chosen = self.rng.choice(offers)
        chained = [(f"{chosen[0]} {slot} ?", value) for slot, value in zip(self.slots, chosen[1:])]
        return Example(text, [f"{slot} ?" for slot in ["offer", *self.slots]], list(chosen), chained)


class Order(Task):
    """Broken: a task that falls apart into prompts. One list, in the order of the text, cut into its places."""

    knob, size = "places", 6

    def example(self) -> Example:
        places = self.names(self.size)
        sentences = [self.rng.choice(["he went to {} .", "then {} was reached .", "he saw {} at noon ."]).format(p) for p in places]
        for _ in range(3):
            other = self.rng.choice([f"he ate {self.rng.choice(FOODS)} .", f"it was {self.rng.choice(DAYS)} ."])
            sentences.insert(self.rng.randrange(len(sentences) + 1), other)
        return Example(" ".join(sentences), [f"place {i} ?" for i in range(1, self.size + 1)], places)


class OneLine(Task):
    """Broken: an input of which most matters. Four sentences of a life among others that nobody asks for."""

    knob, size = "sentences", 28

    def example(self) -> Example:
        r, names = self.rng, iter(self.names(len(FACTS)))
        asked = r.sample(list(FACTS), 4)
        answers = [r.choice(FACTS[question][0] or [next(names)]) for question in asked]
        said = [r.choice(FACTS[question][1]).format(answer) + " ." for question, answer in zip(asked, answers)]
        talk = [("it was {} .", DAYS), ("he ate {} .", FOODS), ("it is {} .", COLOURS), ("he saw {} at noon .", NAMES)]
        for _ in range(self.size - len(asked)):
            form, values = r.choice(talk)
            said.append(form.format(r.choice(values)))
        r.shuffle(said)
        return Example(" ".join(said), [f"{question} ?" for question in asked], answers)


class Negation(Task):
    """Broken: prompts that say where to look. Two values of each kind, of which the prompt names the one that is not meant."""

    kinds = {"food": (FOODS, "he likes {} ."), "day": (DAYS, "he rests on {} ."), "car": (COLOURS, "he drives a {} car ."), "friend": (NAMES, "he saw {} at noon .")}

    def example(self) -> Example:
        said, prompts, answers = [], [], []
        for kind, (values, form) in self.kinds.items():
            denied, meant = self.rng.sample(values, 2)
            said += [form.format(denied), form.format(meant)]
            prompts.append(f"{kind} not {denied} ?")
            answers.append(meant)
        self.rng.shuffle(said)
        return Example(" ".join(said), prompts, answers)


class LongPrompts(Task):
    """Broken: an input longer than its prompts. A short key of colours, and prompts that are texts of their own."""

    def example(self) -> Example:
        owners = dict(zip(COLOURS, self.names(len(COLOURS))))
        pairs = list(owners.items())
        self.rng.shuffle(pairs)
        text = " ".join(f"{colour} of {owner} ." for colour, owner in pairs)
        prompts, answers = [], []
        for _ in range(4):
            meant = self.rng.choice(COLOURS)
            said = [f"it is {meant} ."]
            # Short ones too: of long ones alone it is luck whether a training finds the colour.
            for _ in range(self.rng.choice([0, 2, 8, 24])):
                said.append(self.rng.choice([f"he ate {self.rng.choice(FOODS)} .", f"it was {self.rng.choice(DAYS)} ."]))
            self.rng.shuffle(said)
            prompts.append(" ".join(said) + " ?")
            answers.append(owners[meant])
        return Example(text, prompts, answers)


SWEPT = {"counting": [2, 5, 15, 20], "order": [2, 3, 4], "one line": [56]}
"""Sizes of a task beside its own."""

TASKS: dict[str, Callable[..., Task]] = {
    "dialogue": Dialogue,
    "long dialogues": LongDialogue,
    "summary": Summary,
    "qa": Questions,
    "counting": Counting,
    "choice": Choice,
    "one line": OneLine,
    "negation": Negation,
    "order": Order,
    "long prompts": LongPrompts,
}
RESIZED = {f"{name} of {size}": (name, size) for name, sizes in SWEPT.items() for size in sizes}
TASKS |= {resized: partial(TASKS[name], size=size) for resized, (name, size) in RESIZED.items()}
