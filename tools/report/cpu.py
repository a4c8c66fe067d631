"""The CPU's part of the page."""

from collections import namedtuple

import crossover
from figure import Figure, Panel, Series
from page import distinct, folded, picture, prose, short, source, table, times, without_time


def section(runs, files):
    text = "\n## CPU\n"
    if not runs:
        text += "\nNothing has been measured on a CPU yet: `cargo xtask peers cpu`.\n"
    if "attention.jsonl" in runs or "t5.jsonl" in runs:
        text += prose("cpu")
    for name, part in PARTS.items():
        if run := runs.get(f"{name}.jsonl"):
            path = f"results/cpu/{name}.svg"
            files[path] = figure(run, part.figure, part.unit, part.scale)
            text += f"\n### {part.heading}\n\n{source(run)}.{part.note}\n" + rates(run)
            text += picture(part.picture, path) + part.first(run) + about(run)
            summary = f"Every point: {part.unit}, times as long as onekv, least and most of a turn"
            text += folded(summary, every_point(run, part.scale))
    if run := runs.get("crossover.jsonl"):
        text += crossover.section("results/cpu/crossover", run, files)
    return text


def rates(run):
    """What the machine did at best, before the lines and after them."""
    fma = [short(probe.fma_flops_per_s * 1e-9) for probe in run.probes]
    copy = [short(probe.copy_bytes_per_s * 1e-9) for probe in run.probes]
    return prose("rates", fma=fma, copy=copy)


def about(run):
    """The libraries, and what has no time."""
    libraries = "".join(f"- {name} {library.version}: {library.note}\n" for name, library in run.peers.items())
    return f"\n{libraries}{without_time(None, run).lstrip()}"


def systems(lines):
    return distinct(line.system for line in lines)


def figure(run, title, unit, scale):
    def panel(shape, keys):
        lines = [line for line in run.lines if (line.shape, line.keys) == (shape, keys)]
        series = [
            Series(system, [(line.rows, line.median_s * scale) for line in lines if line.system == system], look)
            for look, system in enumerate(systems(run.lines))
        ]
        of = f"{shape}, " if shape else ""
        return Panel(f"{of}n = {keys}", "prompts U (query rows)", unit, series)

    panels = [panel(*of) for of in distinct((line.shape, line.keys) for line in run.lines)]
    return Figure(title, source(run), panels)


def of_points(lines, head, cell):
    """A table of a row per point and a column per system; `cell` of those that have a time."""
    points = {}
    for line in lines:
        points.setdefault((line.shape, line.keys, line.rows), {})[line.system] = line
    t5 = any(line.shape for line in lines)
    rows = [
        [*point[0 if t5 else 1 :], *(cell(at[system]) if system in at else "" for system in head)]
        for point, at in points.items()
    ]
    return table([*(["shape"] if t5 else []), "n", "U", *head], rows)


def every_point(run, scale):
    def cell(line):
        of = line.of_ours
        return short(line.median_s * scale) + (f", {times(of.median)}, {of.min:.2f} to {of.max:.2f}" if of else "")

    return of_points(run.lines, systems(run.lines), cell)


def ratios(run):
    """Ours in seconds, the others as times as long."""
    names = systems(run.lines)
    made = of_points(
        run.lines, names, lambda line: times(line.of_ours.median) if line.of_ours else short(line.median_s)
    )
    ours = f"{names[0]}: its seconds; of the others, times as long." if names else ""
    return f"\n{ours}\n\n{made}"


# Prompts from which on attention is bound by arithmetic.
MANY_ROWS = 64
# Heads times head_dim of what is measured.
WIDTH = 12 * 64


def in_short(run):
    return over_lengths(run) + of_fma(run)


def over_lengths(run):
    """Times as long as ours, the least and the most over all input lengths."""
    lines = [line for line in run.lines if line.of_ours]
    of = {}
    for line in lines:
        of.setdefault((line.rows, line.system), []).append(line.of_ours.median)
    names = systems(lines)
    cell = lambda found: f"{min(found):.2f} to {max(found):.2f}x" if found else ""
    rows = [[rows, *(cell(of.get((rows, name))) for name in names)] for rows in distinct(line.rows for line in lines)]
    return prose("over lengths") + table(["U", *names], rows) if lines else ""


def of_fma(run):
    """How much of the machine's multiply-adds ours does, softmax not counted."""
    lines = [line for line in run.lines if line.rows >= MANY_ROWS and line.system.startswith("onekv")]
    if not lines:
        return ""
    rate = sum(probe.fma_flops_per_s for probe in run.probes) / len(run.probes)
    share = lambda line: 100 * (4 * line.rows * line.keys * WIDTH) / line.median_s / rate
    made = of_points(
        lines, [name for name in systems(run.lines) if name.startswith("onekv")], lambda line: f"{share(line):.0f} %"
    )
    return prose("multiply-adds", many_rows=MANY_ROWS) + made


HEADING = "T5 end to end, prompts of 3 tokens, 10 new tokens, f32"
# `first`: what stands before the libraries.
Part = namedtuple("Part", "heading figure picture note first unit scale")
PARTS = {
    "attention": Part(
        "Attention, 12 heads x 64, f32",
        "Shared cross-attention, 12 heads x 64, f32",
        "Attention on the CPU",
        "",
        in_short,
        "ms",
        1e3,
    ),
    "t5": Part(HEADING, HEADING, "T5 on the CPU", " Random weights, one input.", ratios, "s", 1),
}
