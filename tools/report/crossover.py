"""Where prompt-in-decoder pays and where it does not: T5 along three lines through a point, measured and predicted."""

import math

from figure import RULE, Figure, Panel, Series
from page import folded, number, picture, prose, short, source, table, times, without_time

# The lines, by what changes along them.
AXES = {"prompts": "prompts U", "keys": "input tokens n", "new_tokens": "new tokens"}


def kept(axis, base):
    """What a line keeps."""
    parts = {
        "prompts": f"U = {base.prompts}",
        "keys": f"n = {base.keys}",
        "new_tokens": f"{base.new_tokens} new tokens",
    }
    return ", ".join(part for name, part in parts.items() if name != axis)


def line(axis, run):
    """The points of a line, in order."""
    others = [name for name in AXES if name != axis]
    points = [at for at in run.lines if all(getattr(at, name) == getattr(run.base, name) for name in others)]
    return sorted(points, key=lambda at: getattr(at, axis))


def section(stem, run, files):
    """`stem` is the path of the figure without its ending."""
    base, predicted = run.base, run.predicted
    tflops, gb = short(predicted.roofline.flops_per_s * 1e-12), short(predicted.roofline.bytes_per_s * 1e-9)
    text = prose("crossover", source=source(run), run=run, tflops=tflops, gb=gb)
    text += without_time(None, run)
    made = figure(run)
    if made.panels:
        files[f"{stem}.svg"] = made
        text += picture(made.title, f"{stem}.svg")
    rows = []
    for axis, name in AXES.items():
        direction = "up to how many" if axis == "new_tokens" else "from how many"
        rows.append([f"{direction} {name} ({kept(axis, base)})", measured(axis, run), as_predicted(axis, predicted)])
    head = [f"PID at least {number(predicted.pays_from)}x as fast as PIE", "measured", "predicted"]
    text += "\n" + table(head, rows)
    return text + folded("Every point", every_point(run))


def figure(run):
    def panel(axis):
        lines = [(getattr(at, axis), at) for at in line(axis, run)]
        series = [
            Series("measured", [(x, at.gain) for x, at in lines]),
            Series("predicted", [(x, at.predicted_gain) for x, at in lines], 6),
            Series("PID as fast as PIE", [(x, 1) for x, _ in lines], kind=RULE),
        ]
        return Panel(kept(axis, run.base), AXES[axis], "PIE's time over PID's", series)

    # A line needs two ends.
    panels = [panel(axis) for axis in AXES if len(line(axis, run)) > 1]
    return Figure(f"Where sharing pays: {run.shape}, {run.dtype}", source(run), panels, 3)


def measured(axis, run):
    """Where the measured gain crosses: between two points, on a straight line over the logarithm of the count."""
    points = [(getattr(at, axis), at.gain) for at in line(axis, run)]
    if not points:
        return "not measured"
    pays_from = run.predicted.pays_from
    below = [i for i, (_, gain) in enumerate(points) if gain < pays_from]
    first, last = points[0][0], points[-1][0]
    # From the point after the last that does not pay on, or up to the one before the first.
    up_to = axis == "new_tokens"
    if not below:
        return f"at all up to {last}" if up_to else f"at all from {first} on"
    at = below[0] - 1 if up_to else below[-1]
    if at < 0:
        return f"not from {first} on"
    if at + 1 == len(points):
        return f"none up to {last}"
    (x0, y0), (x1, y1) = points[at : at + 2]
    x = x0 * (x1 / x0) ** ((pays_from - y0) / (y1 - y0))
    # Whole counts, on the side that pays.
    return str(math.floor(x + 1e-9) if up_to else math.ceil(x - 1e-9))


def as_predicted(axis, predicted):
    limits = predicted.crossover
    found = {"prompts": limits.least_prompts, "keys": limits.least_keys, "new_tokens": limits.most_new_tokens}[axis]
    everywhere = axis == "new_tokens" and predicted.gain >= predicted.pays_from
    return ("at every number" if everywhere else "at no number") if found is None else str(found)


def every_point(run):
    lines = sorted(run.lines, key=lambda at: (at.prompts, at.keys, at.new_tokens))
    rows = [
        [
            at.prompts,
            at.keys,
            at.new_tokens,
            short(at.pid_s.min),
            short(at.pie_s.min),
            times(at.gain),
            times(at.predicted_gain),
        ]
        for at in lines
    ]
    return table(["U", "n", "new tokens", "PID, s", "PIE, s", "PIE over PID", "predicted"], rows)
