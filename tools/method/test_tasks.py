"""Answers of the generated tasks against what their texts say, read back from the words alone: `python3 tools/method/test_tasks.py`.

It needs nothing but Python; `cargo test` runs it.
"""

from __future__ import annotations

import re
import unittest

from tasks import FACTS, RESIZED, TASKS, Choice, Example

COUNT = 300
"""Examples of each task."""


def sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in text.split(" .") if sentence.strip()]


def found(text: str, *forms: str) -> list[str]:
    """What stands in the place of `{}` in each sentence that has one of the forms."""
    patterns = [re.compile(re.escape(form).replace(r"\{\}", r"(\w+)")) for form in forms]
    matches = [pattern.fullmatch(sentence) for sentence in sentences(text) for pattern in patterns]
    return [match[1] for match in matches if match]


SECTIONS = {
    "complaint": [(r"patient : i have (\w+) since (\w+)", r"\1 since \2"), (r"patient : since (\w+) there is (\w+)", r"\2 since \1")],
    "history": [(r"patient : i had (\w+ in \w+)", r"\1"), (r"patient : so far i take (\w+)", r"takes \1")],
    "findings": [(r"doctor : your (\w+) is (\d)", r"\1 \2")],
    "plan": [(r"doctor : take (\w+ \d times)", r"\1"), (r"doctor : come back on (\w+)", r"back \1")],
}


def summary(text: str, prompt: str) -> str:
    rules = SECTIONS[prompt]
    items = [re.sub(old, new, line) for line in sentences(text) for old, new in rules if re.fullmatch(old, line)]
    return " , ".join(items) or "nothing"


def fact(text: str, prompt: str) -> str:
    answers = found(text, *FACTS[prompt][1])
    return answers[0] if len(answers) == 1 else "unknown"


def counting(text: str, prompt: str) -> str:
    return str(text.split().count(prompt))


def order(text: str, prompt: str) -> str:
    return found(text, "he went to {}", "then {} was reached", "he saw {} at noon")[int(prompt.split()[1]) - 1]


def negation(text: str, prompt: str) -> str:
    kind, _, denied = prompt.split()
    form = {"food": "he likes {}", "day": "he rests on {}", "car": "he drives a {} car", "friend": "he saw {} at noon"}[kind]
    (other,) = set(found(text, form)) - {denied}
    return other


def long_prompts(text: str, prompt: str) -> str:
    owners = dict(sentence.split(" of ") for sentence in sentences(text))
    (colour,) = (value for value in found(prompt, "it is {}"))
    return owners[colour]


READINGS = {
    "summary": summary,
    "qa": fact,
    "counting": counting,
    "one line": fact,
    "negation": negation,
    "order": order,
    "long prompts": long_prompts,
}


def examples(name: str) -> list[Example]:
    task = TASKS[name](seed=5)
    return [task.example() for _ in range(COUNT)]


class Tasks(unittest.TestCase):
    def test_answers_are_what_the_texts_say(self) -> None:
        for name in TASKS:
            reading = READINGS.get(RESIZED.get(name, (name,))[0])
            for example in examples(name) if reading else []:
                got = [reading(example.text, prompt.removesuffix(" ?")) for prompt in example.prompts]
                self.assertEqual(got, example.answers, f"{name}: {example.text}")

    def test_what_is_booked_is_of_one_offer(self) -> None:
        for example in examples("choice"):
            offer, *values = example.answers
            for slot, value, (prompt, chained) in zip(Choice.slots, values, example.chained, strict=True):
                self.assertIn(f"{offer} {slot} {value}", sentences(example.text))
                self.assertEqual((prompt, chained), (f"{offer} {slot} ?", value))

    def test_dialogues_have_their_answers_and_length(self) -> None:
        for name in ("dialogue", "long dialogues"):
            drawn = examples(name)
            for example in drawn:
                absent = set(example.answers) - set(example.text.split()) - {"none"}
                # "yes" and "no" may be said in other words.
                self.assertLessEqual(absent, {"yes", "no"}, example.text)
            self.assertEqual(any(len(example.text.split()) > 80 for example in drawn), name != "dialogue")

    def test_sizes_are_what_their_names_say(self) -> None:
        for name, (task, size) in RESIZED.items():
            for example in examples(name):
                held = len(example.prompts) if task == "order" else len(sentences(example.text))
                self.assertEqual(held, size, name)

    def test_a_mark_ends_every_prompt_and_stands_nowhere_else(self) -> None:
        for name in TASKS:
            for example in examples(name):
                self.assertNotIn("?", example.text)
                for prompt in [*example.prompts, *(prompt for prompt, _ in example.chained or [])]:
                    self.assertTrue(prompt.endswith(" ?") and prompt.count("?") == 1, prompt)

    def test_a_seed_draws_the_same_again_and_another_others(self) -> None:
        for name, task in TASKS.items():
            texts = lambda seed: [drawn.example().text for drawn in [task(seed=seed)] for _ in range(5)]
            self.assertEqual(texts(3), texts(3), name)
            self.assertNotEqual(texts(3), texts(4), name)


if __name__ == "__main__":
    unittest.main()
