"""What pages are put together from."""

import math
from collections import Counter
from pathlib import Path


# Each ends with a line's end.
PARTS = Path(__file__).with_name("prose.md").read_text("utf-8").removesuffix("\n").split("\n=== ")[1:]
PROSE = {name: text + "\n" for name, text in (part.split("\n", 1) for part in PARTS)}


def prose(name, **values):
    return PROSE[name].format(**values)


def short(value):
    """Three significant digits."""
    digits = math.floor(math.log10(value)) + 1 if value > 0 else 1
    return f"{value:.{min(max(3 - digits, 0), 6)}f}"


def number(value):
    """All digits that there are, and no more."""
    return str(value).removesuffix(".0")


def times(value):
    return f"{value:.2f}x"


def source(run):
    """The machine in one line: what stands under a figure."""
    machine = run.machine
    if isinstance(machine, str):
        return f"{machine}, {run.threads} threads, {run.date}"
    parts = [
        machine.card,
        f"compute capability {machine.compute_capability}",
        f"{machine.multiprocessors} multiprocessors",
    ]
    named = {"driver": machine.driver, "PyTorch": machine.torch, "onekv at": machine.commit}
    parts += [f"{name} {value}" for name, value in named.items() if value is not None]
    return ", ".join([*parts, machine.date or "date not recorded"])


def row(cells):
    """A line of a table. None leaves out what does not apply, "" what was not measured."""
    return "|" + "".join(" |" if cell is None else f" {cell} |" for cell in cells) + "\n"


def table(head, rows):
    return row(head) + row(["---"] * len(head)) + "".join(map(row, rows))


def picture(title, path):
    return f"\n![{title}](../{path})\n"


def folded(summary, text):
    """What a reader need not see at first."""
    return f"\n<details><summary>{summary}</summary>\n\n{text}\n</details>\n"


def without_time(peers, run):
    """Which libraries were there, and what was not measured and why, each reason once."""
    text = ""
    for name, peer in sorted((peers or {}).items()):
        was = peer.version or "of unknown version"
        text += f"- {name} {was}\n" if peer.absent is None else f"- {name} was not measured: {peer.absent}\n"
    for (system, error), shapes in sorted(Counter(run.failed).items()):
        text += f"- {system}: no time for {shapes} of its shapes: {error.split(chr(10))[0]}\n"
    if run.left_out:
        text += f"- The time budget left out {run.left_out} more measurements.\n"
    return text and f"\n{text}"


def distinct(values):
    return list(dict.fromkeys(values))
