"""One sweep of attention, joined by shape, and what is computed from it."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

from page import distinct


@dataclass
class Row:
    """What was measured on one shape; `ours`: the plan of the cost model, `others`: plans that were asked for."""

    ours: SimpleNamespace | None = None
    others: list = field(default_factory=list)
    replicated: SimpleNamespace | None = None
    e4m3: SimpleNamespace | None = None
    peers: dict = field(default_factory=dict)

    @property
    def best_peer(self):
        return min(self.peers.values(), key=lambda line: line.us, default=None)


class Sweep:
    def __init__(self, run):
        self.run = run
        # In the order of the file.
        self.models = distinct(line.model for line in run.lines)
        self.peers = distinct(line.name for line in run.lines if line.is_peer)
        rows = {}
        for line in run.lines:
            row = rows.setdefault(line.shape, Row())
            if line.is_peer:
                row.peers[line.name] = line
            elif line.layout == "replicated":
                row.replicated = line
            elif line.layout == "shared" and line.by_cost:
                row.ours = line
            elif line.layout == "shared":
                row.others.append(line)
            elif line.by_cost:
                # Other plans in e4m3 are for `cargo xtask fit` alone.
                row.e4m3 = line
        self.rows = dict(sorted(rows.items()))

    @property
    def ours(self):
        """Shapes that ours has a time for."""
        return [(shape, row, row.ours) for shape, row in self.rows.items() if row.ours]

    def of_copy(self, line):
        """Part of the copy's bandwidth at which the bytes that must move did."""
        return line.bytes / (line.us * 1e-6) / self.run.copy_bytes_per_s

    @property
    def by_rows(self):
        """The same shapes but for the number of rows, with times of ours: lists of shape and line."""
        groups = {}
        for shape, _, line in self.ours:
            groups.setdefault(shape._replace(rows=0), []).append((shape, line))
        return [groups[shape] for shape in sorted(groups)]

    @property
    def shown_inputs(self):
        """The number of inputs that figures show: 8, or else the most there are."""
        inputs = {shape.inputs for shape in self.rows}
        return 8 if 8 in inputs else max(inputs, default=1)

    @property
    def shown_keys(self):
        """The numbers of keys that figures show: those nearest to 512 and to 4096."""
        keys = [shape.keys for shape in self.rows if shape.inputs == self.shown_inputs]
        near = [min(keys, key=lambda n: abs(math.log(n / want))) for want in (512, 4096) if keys]
        return distinct(near)

    @property
    def regrets(self):
        """How much longer than the best plan measured each shape's chosen plan takes: 0 is the best. Shapes with one
        plan are left out."""
        regrets = []
        for shape, row, ours in self.ours:
            # The chosen plan is among the others too; the two differ by noise alone.
            others = [line.us for line in row.others if line.launch != ours.launch]
            if others:
                regrets.append((ours.us / min(*others, ours.us) - 1, shape))
        return regrets
