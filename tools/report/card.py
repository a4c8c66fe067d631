"""A card's part of the page: its sweeps of attention, T5, and where sharing pays."""

import math

import crossover
import t5
import targets
from figure import DOTS, RULE, Figure, Panel, Series
from page import folded, number, picture, prose, short, source, table, times, without_time
from sweep import Sweep


def section(folder, runs, files):
    attention = [run for name, run in runs.items() if name.startswith("attention-")]
    text = f"\n## {next(iter(runs.values())).machine.card}\n"
    text += "".join(of_sweep(folder, Sweep(run), files) for run in attention)
    if run := runs.get("t5.jsonl"):
        text += t5.section(folder, run, attention[0].copy_bytes_per_s if attention else None, files)
    if run := runs.get("crossover.jsonl"):
        text += crossover.section(f"results/{folder}/crossover", run, files)
    return text


def of_sweep(folder, sweep, files):
    run = sweep.run
    stem = f"results/{folder}/attention-{run.sweep}"
    rates = (run.copy_bytes_per_s, run.copy_bytes_per_s_after)
    copy, after = (rate and short(rate * 1e-9) for rate in rates)
    after = f", {after} GB/s after the sweep" if after else ""
    text = prose("sweep", run=run, source=source(run), copy=copy, after=after, empty=short(run.empty_pair_us.median))
    text += targets.as_table(targets.attention(sweep)) + without_time(run.peers, run)
    for name, figure in figures(sweep).items():
        if figure.panels:
            files[f"{stem}-{name}.svg"] = figure
            text += picture(figure.title, f"{stem}-{name}.svg") + prose(name)
    inputs, keys = sweep.shown_inputs, sweep.shown_keys
    some = measured(sweep, lambda shape: shape.inputs == inputs and shape.keys in keys)
    text += folded(f"Times at b = {inputs}, n = {' and '.join(map(str, keys))}", some)
    files[f"{stem}.md"] = prose("every shape", run=run, source=source(run)) + measured(sweep, lambda shape: True)
    return text + f"\n[Every shape](../{stem}.md)\n"


def measured(sweep, shown):
    replicated = any(row.replicated for row in sweep.rows.values())
    e4m3 = any(row.e4m3 for row in sweep.rows.values())
    head = ["model", "b", "n", "U", "us, cold", "us, warm", "GB/s", "of copy", "TFLOPS"]
    head += ["K/V per prompt"] * replicated + ["K/V in e4m3, of copy"] * e4m3 + sweep.peers
    part = lambda line: f"{100 * sweep.of_copy(line):.1f} %"
    rows = []
    for shape, row in sorted(
        (of for of in sweep.rows.items() if shown(of[0])),
        key=lambda of: (sweep.models.index(of[0].model), of[0].inputs, of[0].keys, of[0].rows),
    ):
        cells = [shape.model, shape.inputs, shape.keys, shape.rows]
        if ours := row.ours:
            ratio = lambda line: times(line.us / ours.us) if line else None
            cells += [short(ours.us), short(ours.warm_us.median) if ours.warm_us else ""]
            cells += [short(ours.bytes / ours.us * 1e-3), part(ours), short(ours.flops / ours.us * 1e-6)]
            cells += [ratio(row.replicated)] * replicated
            cells += [f"{ratio(row.e4m3)}, {part(row.e4m3)}" if row.e4m3 else None] * e4m3
            cells += [ratio(row.peers.get(peer)) for peer in sweep.peers]
        rows.append(cells + [None] * (len(head) - len(cells)))
    return table(head, rows)


# Figures. Looks: ours, with K and V in e4m3, and PIE's copies, then the peers.
OURS, E4M3, REPLICATED, FIRST_PEER = 0, 7, 6, 1
ROWS = "prompts U (query rows of an input)"
PIE = "onekv, K/V per prompt (PIE)"


def figures(sweep):
    """By their names in the files."""
    made = {}
    for name, (title, of) in FIGURES.items():
        panels = [panel for model in sweep.models for panel in of(sweep, model)]
        made[name] = Figure(title, source(sweep.run), panels)
    return made


def data_sheet_tflops(card):
    """Dense bf16 with f32 sums, of cards that are known."""
    known = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312}
    return next((tflops for name, tflops in known.items() if name in card), None)


def look(sweep, peer):
    index = sweep.peers.index(peer)
    # The last colour is PIE's.
    return FIRST_PEER + index % 5 + 7 * (index // 5)


def title(sweep, model):
    shape = next(shape for shape in sweep.rows if shape.model == model)
    of = f"{shape.heads} heads" + ("" if shape.heads == shape.kv_heads else f" on {shape.kv_heads} K/V heads")
    return f"{model}, {of} x {shape.head_dim}"


def roofline(sweep, model):
    bandwidth, peak = sweep.run.copy_bytes_per_s, data_sheet_tflops(sweep.run.machine.card)
    # All stand at what must be done and moved, not at what they do and move.
    rows = [
        (row.ours.flops / row.ours.bytes, row) for shape, row in sweep.rows.items() if shape.model == model and row.ours
    ]
    speed = lambda line: line.flops / line.us * 1e-6
    dots = lambda name, look, of: Series(name, [(x, speed(of(row))) for x, row in rows if of(row)], look, DOTS)
    series = [
        dots("onekv", OURS, lambda row: row.ours),
        dots("best peer of each shape", FIRST_PEER, lambda row: row.best_peer),
        dots(PIE, REPLICATED, lambda row: row.replicated),
    ]
    low, high = min((x for x, _ in rows), default=1), max((x for x, _ in rows), default=1)
    if low < high:
        slope = lambda x: x * bandwidth * 1e-12
        ridge = min(max(peak * 1e12 / bandwidth if peak else high, low), high)
        roof = [(low, slope(low)), (ridge, slope(ridge))] + ([(high, min(peak, slope(high)))] if peak else [])
        data_sheet = f", the data sheet's {number(peak)} TFLOPS" if peak else ""
        series.append(Series(f"roof: this run's copy{data_sheet}", roof, kind=RULE))
    x = "FLOP that must be done per byte that must move"
    return [Panel(title(sweep, model), x, "TFLOPS, cold L2", series, ticks_at_points=False)]


def time(sweep, model):
    return [time_at(sweep, model, keys) for keys in sweep.shown_keys]


def time_at(sweep, model, keys):
    inputs = sweep.shown_inputs
    rows = [(s.rows, row) for s, row in sweep.rows.items() if (s.model, s.inputs, s.keys) == (model, inputs, keys)]
    line = lambda name, look, of: Series(name, [(u, of(row).us) for u, row in rows if of(row)], look)
    series = [line("onekv", OURS, lambda row: row.ours), line("onekv, K/V in e4m3", E4M3, lambda row: row.e4m3)]
    series += [line(peer, look(sweep, peer), lambda row: row.peers.get(peer)) for peer in sweep.peers]
    series.append(line(PIE, REPLICATED, lambda row: row.replicated))
    floor = [(u, row.ours.bytes / sweep.run.copy_bytes_per_s * 1e6) for u, row in rows if row.ours]
    series.append(Series("bytes that must move, K/V in 16 bits, at the copy's bandwidth", floor, kind=RULE))
    return Panel(f"{title(sweep, model)}, n = {keys}", ROWS, f"us, cold L2, b = {inputs}", series)


def by_keys(sweep, model, y, value, rules):
    """A series per number of keys; `value` of a shape and ours on it; `rules` of the numbers of rows that are drawn."""
    inputs = sweep.shown_inputs
    groups = [group for group in sweep.by_rows if (group[0][0].model, group[0][0].inputs) == (model, inputs)]
    series = []
    for look, group in enumerate(groups):
        points = [(shape.rows, value(shape, line)) for shape, line in group]
        series.append(Series(f"n = {group[0][0].keys}", [point for point in points if point[1] is not None], look))
    drawn = sorted({rows for one in series for rows, _ in one.points})
    return [Panel(f"{title(sweep, model)}, b = {inputs}", ROWS, y, series + (rules(drawn) if drawn else []))]


def flat(sweep, model):
    def growth(shape, line):
        one = sweep.rows.get(shape._replace(rows=1))
        return line.us / one.ours.us if one and one.ours and shape.rows <= 256 else None

    def targets(rows):
        one = [Series("target: at most 1.15", [(1, 1.15), (min(rows[-1], 64), 1.15)], kind=RULE)]
        two = [Series("target: at most 1.4", [(64, 1.4), (128, 1.4)], kind=RULE)]
        return one * (rows[-1] > 1) + two * (rows[-1] >= 128)

    return by_keys(sweep, model, "time over that at U = 1", growth, targets)


def pid(sweep, model):
    def saved(shape, line):
        replicated = sweep.rows[shape].replicated
        return replicated and replicated.us / line.us

    def copies(rows):
        return [Series("U: as many times as there are copies", [(u, u) for u in (rows[0], rows[-1])], kind=RULE)]

    return by_keys(sweep, model, "time over that with one K/V", saved, copies)


def peers(sweep, model):
    series = []
    for peer in sweep.peers:
        ratios = {}
        for shape, row, ours in sweep.ours:
            if shape.model == model and peer in row.peers:
                ratios.setdefault(shape.rows, []).append(row.peers[peer].us / ours.us)
        points, spread = [], []
        for rows, of in sorted(ratios.items()):
            points.append((rows, math.exp(math.fsum(map(math.log, of)) / len(of))))
            spread.append((rows, min(of), max(of)))
        series.append(Series(peer, points, look(sweep, peer), spread=spread))
    drawn = sorted({rows for one in series for rows, _ in one.points})
    if drawn:
        series.append(Series("as long as ours", [(drawn[0], 1), (drawn[-1], 1)], kind=RULE))
    return [Panel(title(sweep, model), ROWS, "time over ours", series)]


FIGURES = {
    "roofline": ("Roofline", roofline),
    "time": ("Time against the number of prompts", time),
    "flat": ("How flat time is in the number of prompts", flat),
    "pid": ("One K/V for all prompts (PID) against one per prompt (PIE)", pid),
    "peers": ("Each peer's time over ours", peers),
}
