"""FLOP per byte of a decode step's cross-attention against the number of prompts."""

from figure import RULE, Figure, Panel, Series
from page import folded, picture, prose, short, table
from results import PREFIX

PATH = "results/intensity.svg"
ONCE = "shared, each byte once"
NAMES = {"shared": "shared", "replicated": "replicated", "pie": "PIE"}


def section(run, files):
    text = prose("intensity", run=run)
    text += "".join(f"- {backend.name}, {backend.dtype}: {backend.counted}.\n" for backend in run.backends)
    files[PATH] = figure(run)
    text += picture("FLOP per byte against the number of prompts", PATH)
    text += "\n" + by_prompts(run.backends) + folded("Every point", every_point(run.backends, NAMES))
    with_prefix = [backend for backend in run.backends if backend.has_prefix]
    return text + (behind_prefix(run.decoder_only, with_prefix) if with_prefix else "")


def prompts_of(backends):
    return sorted({prompts for backend in backends for _, prompts in backend.at})


def points_of(backend, layouts):
    return [point for (layout, _), point in backend.at.items() if layout in layouts]


def with_model(counted, of_model):
    return f"{short(counted)} ({short(of_model)})"


def by_prompts(backends):
    head, every = ["U"], prompts_of(backends)
    for backend in backends:
        head += [f"{backend.name}, {name}" for name in NAMES.values()]
        head += [f"{backend.name}, {ONCE}"] if backend.at["shared", every[0]].once else []
    rows = []
    for prompts in every:
        row = [prompts]
        for backend in backends:
            points = [backend.at[layout, prompts] for layout in NAMES]
            row += [with_model(point.intensity, point.of_model) for point in points]
            row += [short(points[0].once)] if points[0].once else []
        rows.append(row)
    return table(head, rows)


def figure(run):
    def panel(backend):
        of = {layout: points_of(backend, [layout]) for layout in NAMES}
        series = [
            Series(NAMES[layout], [(point.prompts, point.intensity) for point in points], look)
            for look, (layout, points) in enumerate(of.items())
        ]
        once = [(point.prompts, point.once) for point in of["shared"] if point.once]
        series.append(Series(ONCE, once, 3))
        for points in of.values():
            series.append(Series("cost model", [(point.prompts, point.of_model) for point in points], kind=RULE))
        return Panel(f"{backend.name}, {backend.dtype}", "prompts U", "FLOP per byte", series)

    title = "Cross-attention of a decode step: FLOP per byte, counted"
    source = f"{run.heads} heads x {run.head_dim}, n = {run.keys}, {run.date}"
    return Figure(title, source, [panel(backend) for backend in run.backends], 3)


def every_point(backends, layouts):
    def millions(count):
        return "" if count is None else short(count * 1e-6)

    head = [
        None,
        "K/V",
        "U",
        "MFLOP",
        "MB read",
        "MB written",
        "MB, each byte once",
        "instructions, millions",
        "kernels",
    ]
    rows = []
    for backend in backends:
        for point in points_of(backend, layouts):
            counts = [point.flops, point.read_bytes, point.written_bytes, point.distinct_bytes, point.instructions]
            rows.append(
                [
                    backend.name,
                    NAMES.get(point.layout, point.layout),
                    point.prompts,
                    *map(millions, counts),
                    ", ".join(point.kernels or []),
                ]
            )
    return table(head, rows)


def behind_prefix(run, backends):
    """The decoder-only case, in which each sequence has keys of its own beside those that can be shared."""
    text = prose("prefix", run=run)
    head = ["U"]
    for backend in backends:
        head += [f"{backend.name}, {layout}: MB" for layout in PREFIX] + ["copied / shared"]
        head += [f"{layout}: FLOP/byte" for layout in PREFIX]
    rows = []
    for prompts in prompts_of(backends):
        row = [prompts]
        for backend in backends:
            both = shared, copied = [backend.at[layout, prompts] for layout in PREFIX]
            row += [with_model(point.distinct_bytes * 1e-6, point.model_bytes * 1e-6) for point in both]
            row.append(f"{short(copied.distinct_bytes / shared.distinct_bytes)}x")
            row += [with_model(point.once, point.of_model) for point in both]
        rows.append(row)
    return text + table(head, rows) + folded("Every point behind a prefix", every_point(backends, PREFIX))
