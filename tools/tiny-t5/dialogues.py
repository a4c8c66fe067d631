"""Synthetic multi-domain dialogues with 30 slots: mentioned, changed later, denied or absent."""

from __future__ import annotations

import random
from dataclasses import dataclass

NONE = "none"

AREAS = ["north", "south", "east", "west", "centre"]
PRICES = ["cheap", "moderate", "expensive"]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
NUMBERS = ["1", "2", "3", "4", "5", "6", "7", "8"]
FOODS = ["thai", "italian", "indian", "chinese", "greek", "spanish", "korean", "french"]
TYPES = ["museum", "park", "theatre", "gallery", "castle", "cinema"]
CHOICE = ["yes", "no"]

ONSETS = "b d f g k l m n p r s t v z".split()
VOWELS = "a e i o u".split()
SYLLABLES = [o + v for o in ONSETS for v in VOWELS]


def open_values(held_out: bool) -> dict[str, list[str]]:
    """Names and times; the held-out half shares no value with the training half."""
    rng = random.Random(7)
    names = sorted({"".join(rng.choices(SYLLABLES, k=rng.choice([2, 3]))) for _ in range(4000)})
    times = [f"{h:02d}:{m:02d}" for h in range(5, 24) for m in range(0, 60, 5)]
    rng.shuffle(names)
    rng.shuffle(times)
    cut = lambda xs: xs[: len(xs) // 5] if held_out else xs[len(xs) // 5 :]
    return {"name": cut(names), "time": cut(times)}


# domain -> slot -> (kind of value, phrase)
ONTOLOGY: dict[str, dict[str, tuple[str | list[str], str]]] = {
    "hotel": {
        "area": (AREAS, "in the {}"),
        "price": (PRICES, "with a {} price"),
        "stars": (NUMBERS, "with {} stars"),
        "name": ("name", "called {}"),
        "day": (DAYS, "from {}"),
        "people": (NUMBERS, "for {} people"),
        "stay": (NUMBERS, "for {} nights"),
        "parking": (CHOICE, "with parking {}"),
        "internet": (CHOICE, "with internet {}"),
    },
    "restaurant": {
        "area": (AREAS, "in the {}"),
        "price": (PRICES, "with a {} price"),
        "food": (FOODS, "with {} food"),
        "name": ("name", "called {}"),
        "day": (DAYS, "on {}"),
        "time": ("time", "at {}"),
        "people": (NUMBERS, "for {} people"),
    },
    "train": {
        "departure": ("name", "from {}"),
        "destination": ("name", "to {}"),
        "day": (DAYS, "on {}"),
        "arrive": ("time", "arriving by {}"),
        "leave": ("time", "leaving after {}"),
        "people": (NUMBERS, "for {} people"),
    },
    "taxi": {
        "departure": ("name", "from {}"),
        "destination": ("name", "to {}"),
        "leave": ("time", "leaving after {}"),
        "arrive": ("time", "arriving by {}"),
    },
    "attraction": {
        "area": (AREAS, "in the {}"),
        "type": (TYPES, "of type {}"),
        "name": ("name", "called {}"),
        "day": (DAYS, "on {}"),
    },
}

SLOTS = [f"{domain} {slot}" for domain, slots in ONTOLOGY.items() for slot in slots]
assert len(SLOTS) == 30

OPENINGS = ["i need a {}", "please book a {}", "i am looking for a {}", "can you find a {}"]
MORE = ["the {} should be", "i want the {}", "make the {}"]
REPLIES = ["sure .", "done . anything else ?", "ok , noted .", "of course ."]


@dataclass
class Dialogue:
    """The encoder's text and the value of every slot in `SLOTS`."""

    text: str
    answers: list[str]


class Generator:
    """Draws dialogues; the same seed gives the same dialogues."""

    def __init__(self, seed: int, held_out: bool) -> None:
        self.rng = random.Random(seed)
        self.open = open_values(held_out)

    def value(self, domain: str, slot: str) -> str:
        kind = ONTOLOGY[domain][slot][0]
        return self.rng.choice(self.open[kind] if isinstance(kind, str) else kind)

    def phrase(self, domain: str, slot: str, value: str) -> str:
        return ONTOLOGY[domain][slot][1].format(value)

    def dialogue(self, simple: bool = False) -> Dialogue:
        """`simple` ones speak of one domain and a few slots and change nothing."""
        rng = self.rng
        state: dict[str, str] = {}
        turns: list[str] = []
        domains = rng.sample(list(ONTOLOGY), 1 if simple else rng.choice([2, 2, 3]))
        for domain in domains:
            slots = list(ONTOLOGY[domain])
            chosen = rng.sample(slots, rng.randint(1, 3) if simple else rng.randint(2, min(6, len(slots))))
            cut = rng.randint(1, len(chosen))
            for templates, part in ((OPENINGS, chosen[:cut]), (MORE, chosen[cut:])):
                if not part:
                    continue
                values = {slot: self.value(domain, slot) for slot in part}
                state.update({f"{domain} {slot}": v for slot, v in values.items()})
                phrases = " , ".join(self.phrase(domain, s, v) for s, v in values.items())
                turns.append(f"user : {rng.choice(templates).format(domain)} {phrases} .")
                turns.append(f"system : {rng.choice(REPLIES)}")
        for key in rng.sample(sorted(state), 0 if simple else rng.choice([0, 1, 1, 2])):
            domain, slot = key.split()
            if rng.random() < 0.6:
                state[key] = self.value(domain, slot)
                turns.append(f"user : actually change the {key} to {state[key]} .")
            else:
                del state[key]
                turns.append(f"user : please forget the {key} .")
            turns.append(f"system : {rng.choice(REPLIES)}")
        if not simple and rng.random() < 0.5:
            # A denied value fills no slot.
            domain = rng.choice(domains)
            slot = rng.choice(list(ONTOLOGY[domain]))
            key = f"{domain} {slot}"
            if key not in state:
                turns.append(f"user : but the {key} is not {self.value(domain, slot)} .")
                turns.append(f"system : {rng.choice(REPLIES)}")
        return Dialogue(" ".join(turns), [state.get(slot, NONE) for slot in SLOTS])


def assert_disjoint() -> None:
    """Held-out open-class values never occur in training."""
    train, held_out = open_values(False), open_values(True)
    for kind, values in train.items():
        assert not set(values) & set(held_out[kind]), kind
