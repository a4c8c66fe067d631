"""Figures as SVG: panels of points on logarithmic axes. One legend above the panels, where it covers nothing; the
machine and the date below them. The same figure gives the same bytes."""

import io
import math
import re
from dataclasses import dataclass, field

# Okabe and Ito's colours, which the colour-blind tell apart; the one that is too light on white is left out.
COLORS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5A5A5A"]
MARKS = ["o", "s", "^", "X", "D", "v", "P", "<"]
GREY = "#6E6E6E"
# Marks joined by a line; marks alone; a dashed grey line to compare with.
LINE, DOTS, RULE = "line", "dots", "rule"


@dataclass
class Series:
    name: str
    points: list
    # Colour and mark.
    look: int = 0
    kind: str = LINE
    # x, least and greatest: a thin upright line.
    spread: list = field(default_factory=list)


@dataclass
class Panel:
    """One pair of axes: what they show, with the unit. Series without points are left out."""

    title: str
    x: str
    y: str
    series: list
    # Ticks where there are points; else at round numbers.
    ticks_at_points: bool = True

    def __post_init__(self):
        self.series = [series for series in self.series if series.points]
        for x, y in self.coordinates():
            # A logarithmic axis has no place for it.
            if not (0 < x < math.inf and 0 < y < math.inf):
                raise ValueError(f'"{self.title}" has a point at ({x}, {y}), allowed: more than 0')

    @property
    def measured(self):
        return [series for series in self.series if series.kind != RULE]

    def coordinates(self):
        for series in self.series:
            yield from series.points
            for x, least, most in series.spread:
                yield from ((x, least), (x, most))


@dataclass
class Figure:
    """Panels under one title. Those that show nothing but what is to be compared with are left out."""

    title: str
    source: str
    panels: list
    columns: int = 2

    def __post_init__(self):
        self.panels = [panel for panel in self.panels if panel.measured]
        self.columns = min(self.columns, max(len(self.panels), 1))


def spaced(ticks):
    """Those that leave room for their labels."""
    ticks = sorted(set(ticks))
    least = (ticks[-1] / ticks[0]) ** (1 / 14)
    kept = ticks[:1]
    for tick in ticks[1:]:
        if tick >= kept[-1] * least:
            kept.append(tick)
    return kept


def label(value, _=None):
    return f"{value:g}".replace("e+0", "e")


STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "onekv",
    "font.family": "sans-serif",
    # The one that matplotlib brings along, so that the same room is left everywhere.
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.markersize": 5,
    "lines.markeredgewidth": 0,
    "legend.frameon": False,
}
# Points of a line that have marks: more would hide it.
MARKED = 15
WIDTH, PANEL_HEIGHT, LEGEND_LINE, MARGINS = 10, 3, 0.22, 0.75


def svg(figure):
    # Here alone: texts are made, and tested, without it.
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        rows = math.ceil(len(figure.panels) / figure.columns)
        canvas = Canvas(figsize=(WIDTH, PANEL_HEIGHT * rows + MARGINS), layout="constrained")
        all_axes = list(canvas.subplots(rows, figure.columns, squeeze=False).flat)
        keys = {}
        for axes, panel in zip(all_axes, figure.panels):
            draw(axes, panel, keys)
        for axes in all_axes[len(figure.panels) :]:
            axes.set_axis_off()
        canvas.supxlabel(figure.source, x=0.01, ha="left", fontsize=8.5, color=GREY)
        lines = legend(canvas, figure.title, keys)
        canvas.set_figheight(PANEL_HEIGHT * rows + MARGINS + LEGEND_LINE * lines)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    # Hundredths of a point are enough, and what machines differ in lies far below.
    return re.sub("<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), text.getvalue())


def legend(canvas, title, keys):
    """Under the title, as many entries in a line as there is room for; how many lines there are."""
    look = {"loc": "outside upper left", "title": title, "title_fontsize": 13, "alignment": "left"}
    for columns in range(len(keys), 0, -1):
        made = canvas.legend(keys.values(), keys, ncols=columns, columnspacing=1.5, **look)
        if columns == 1 or made.get_window_extent().width < 0.9 * canvas.bbox.width:
            return math.ceil(len(keys) / columns)
        made.remove()


def draw(axes, panel, keys):
    from matplotlib import ticker

    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y, xscale="log", yscale="log")
    for order, series in enumerate(panel.series):
        # Ours, which comes first, lies on top; below all what is to be compared with.
        if series.kind == RULE:
            (key,) = axes.plot(*zip(*series.points), color=GREY, linestyle=(0, (4, 2.5)), linewidth=1.1, zorder=2)
        else:
            color, zorder = COLORS[series.look % len(COLORS)], 3 + 1 / (1 + order)
            for x, least, most in series.spread:
                axes.plot([x, x], [least, most], color=color, linewidth=0.9, zorder=zorder)
            # Where colours come again, another mark and dots.
            line = "" if series.kind == DOTS else ":" if series.look >= len(COLORS) else "-"
            look = {"color": color, "marker": MARKS[series.look % len(MARKS)], "linestyle": line, "zorder": zorder}
            look |= {"linewidth": 2.2 if series.look == 0 else 1.4, "markevery": math.ceil(len(series.points) / MARKED)}
            look |= {"markersize": 6, "alpha": 0.7, "markevery": 1} if series.kind == DOTS else {}
            (key,) = axes.plot(*zip(*series.points), **look)
        keys.setdefault(series.name, key)
    points = [x for series in panel.measured for x, _ in series.points]
    for axis, values in (
        (axes.xaxis, [x for x, _ in panel.coordinates()]),
        (axes.yaxis, [y for _, y in panel.coordinates()]),
    ):
        wide = max(values) / min(values)
        if axis is axes.xaxis and panel.ticks_at_points:
            axis.set_major_locator(ticker.FixedLocator(spaced(points)))
        elif wide > 3:
            subs = [1] if wide > 2000 else [1, 2, 5] if wide > 12 else [1, 2, 3, 5, 7]
            axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=30))
        else:
            axis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(ticker.NullLocator())
        axis.set_major_formatter(label)
