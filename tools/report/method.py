"""docs/method.md: where prompt-in-decoder holds and where it breaks, of results/method."""

from math import fsum
from statistics import median_high

from figure import DOTS, Figure, Panel, Series
from page import number, picture, prose, short, source, table

PAGE = "docs/method.md"
CURVES = "results/method/learning.svg"
SIZES = "results/method/sizes.svg"
COSTS = "results/method/cost.svg"

# The paper's tasks, by their names in the files, and the first of them again, but for a bound of the texts' length.
PAPERS = ["dialogue", "summary", "qa"]
LONG = "long dialogues"
# Tasks that break an assumption.
BROKEN = ["counting", "one line", "negation", "choice", "order", "long prompts"]
METRICS = {
    "accuracy": "answers right",
    "answered": "of those with an answer in the input",
    "joint": "all of an input right",
    "rouge_l": "ROUGE-L",
    "joint_sampled": "all right, sampled",
    "in_order": "all right, in order",
    "in_order_sampled": "all right, in order, sampled",
}
# The two that every task has, one more that is asked at several sizes, and the others.
WAYS = {
    "pid": "PID",
    "pie": "PIE",
    "marked": "PID, a mark before the input",
    "unmarked": "PIE, prompts without a mark at their end",
    "one": "one sequence",
    "decoders": "separate decoders",
}
BOTH, SIZED = ["pid", "pie"], ["pid", "pie", "marked"]


def page(found, files):
    quality, costs, decoder_only = (found.get(f"{name}.jsonl") for name in ("quality", "cost", "decoder-only"))
    if not quality:
        return
    formula = found["formula.jsonl"]
    files[CURVES] = curves(quality)
    sizes = sizes_figure(quality)
    if sizes.panels:
        files[SIZES] = sizes
    text = prose("method") + papers(quality, costs, formula) + broken(quality, formula, sizes)
    if costs:
        files[COSTS] = cost_figure(costs)
        text += ways(costs)
    files[PAGE] = text + (behind_a_document(decoder_only) if decoder_only else "") + prose("explain")


# Trainings.


def runs(quality, task, way, longer=False):
    """Of the fewest steps that a task was trained for: what can be compared. Or those that were trained longer."""
    of_task = [run for run in quality.runs if run.task == task]
    least = min((run.steps for run in of_task), default=0)
    return [run for run in of_task if run.way == way and (run.steps > least) == longer]


def values(runs, metric):
    """A metric of each seed, in percent."""
    return [100 * run.held_out[metric] for run in runs if metric in run.held_out]


def mean_of(values):
    return fsum(values) / len(values)


def share(runs, metric):
    """Mean over seeds, and the least and the most where they differ."""
    of = values(runs, metric)
    if not of:
        return ""
    return f"{mean_of(of):.1f} %" + ("" if min(of) == max(of) else f" ({min(of):.1f} to {max(of):.1f})")


def against(own, other):
    """By how many points of a percentage it is better or worse than another, if every seed is so, of two at least."""
    if min(len(own), len(other)) > 1:
        points = f"by {abs(mean_of(own) - mean_of(other)):.1f} points"
        if max(own) < min(other):
            return f"loses {points}"
        if min(own) > max(other):
            return f"wins {points}"
    return ""


def flops(formula, task, way):
    """Of a text's answers on T5-base, by formula, with the task's lengths."""
    return getattr(formula.tasks[task], {"unmarked": "pie", "marked": "pid"}.get(way, way))


def quality_table(quality, formula, tasks):
    """A line for each way that the tasks were learned, with the metrics that any of them has."""
    metrics = [name for name in METRICS if any(name in run.held_out for run in quality.runs if run.task in tasks)]
    rows = []
    for task in tasks:
        for way, name in WAYS.items():
            for longer in (False, True):
                if found := runs(quality, task, way, longer):
                    steps = f", {found[0].steps} steps" if longer else ""
                    cost = short(flops(formula, task, way) / flops(formula, task, "pid"))
                    rows.append([task, name + steps, len(found), *(share(found, metric) for metric in metrics), cost])
        nothing = quality.tasks[task].always_nothing if task in quality.tasks else None
        if nothing:
            right = f"{100 * nothing.accuracy:.1f} %"
            rows.append([task, 'always "nothing"', None, right] + [None] * len(metrics))
    return "\n" + table(["task", "way", "seeds", *map(METRICS.get, metrics), "FLOPs, PID = 1"], rows)


def papers(quality, costs, formula):
    packages = ", ".join(f"{name} {version}" for name, version in quality.packages.items())
    text = prose("papers", quality=quality, millions=quality.runs[0].parameters / 1e6, packages=packages)
    text += quality_table(quality, formula, PAPERS)
    text += picture("Loss of the answers against steps", CURVES)
    text += prose("rival")
    if runs(quality, LONG, "pie"):
        text += prose(LONG) + quality_table(quality, formula, [LONG])
    rows = []
    for name, task in quality.tasks.items():
        steps = [run.steps for run in runs(quality, name, "pid")] or [0]
        lengths = map(number, (task.input_tokens, task.prompt_tokens, task.new_tokens))
        rows.append([name, task.prompts, *lengths, steps[0]])
    text += "\n" + table(["task", "U", "input tokens", "prompt tokens", "new tokens", "steps"], rows)
    return text + (in_the_papers_form(quality, costs) if costs else "")


def in_the_papers_form(quality, costs):
    text = prose("the paper's form", costs=costs)
    rows = []
    for task in (task for task in costs.tasks if task.task in PAPERS):
        pid = task.by_way["PID"]
        for key in BOTH:
            way = task.by_way[WAYS[key]]
            over = lambda ratio: "" if key == "pid" else f" ({short(ratio)}x)"
            of = lambda name: (
                short((getattr(way, name) or 0) * 1e-9) + over((getattr(way, name) or 0) / (getattr(pid, name) or 1))
            )
            seconds = short(way.median) + over(turn_by_turn(way, pid))
            right = share(runs(quality, task.task, key), "accuracy")
            name = f"{task.task}, U = {task.prompts}, n = {task.keys}"
            rows.append([name, WAYS[key], right, of("flops"), of("bytes"), seconds, of("peak_bytes")])
    return text + table(["task", "way", "answers right", "GFLOP", "GB", "seconds", "memory, GB"], rows)


def broken(quality, formula, sizes):
    text = prose("broken")
    if sizes.panels:
        text += picture(sizes.title, SIZES)
    for task in BROKEN:
        if any(run.task == task for run in quality.runs):
            text += f"\n### {task.capitalize()}\n\n" + prose(task)
            text += verdict(quality, task) + quality_table(quality, formula, [task]) + sizes_table(quality, task)
            example = quality.tasks[task].example
            text += f'\nFor instance: "{example.text}" -- "{example.prompts[0]}" -- "{example.answers[0]}"\n'
            text += long_prompts(formula) if task == "long prompts" else ""
    return text


def verdict(quality, task):
    """Where PID stands against PIE, if their seeds can be told apart; and what the other ways get."""
    of = lambda way, metric: values(runs(quality, task, way), metric)
    metric = "accuracy" if of("pid", "accuracy") else "joint"
    pid, pie = of("pid", metric), of("pie", metric)
    if not (pid and pie):
        return ""
    outcome = against(pid, pie) or "and PIE cannot be told apart"
    text = f"\n**PID {outcome}: {mean_of(pid):.1f} % against {mean_of(pie):.1f} %.**"
    others = {"in one sequence": of("one", metric), "PID asked in order": of("pid", "in_order")}
    others = [f"{name} {mean_of(right):.1f} %" for name, right in others.items() if right]
    return text + (f" Otherwise: {', '.join(others)}." if others else "") + "\n"


def sizes_of(quality, task):
    """Of a task that was trained at several: what is counted, how much of it by the names of the runs."""
    sizes = [(of.size.value, name) for name, of in quality.tasks.items() if of.size and of.size.of == task]
    sizes = {name: value for value, name in sorted(sizes)} if len(sizes) > 1 else {}
    return next((quality.tasks[name].size.counts for name in sizes), None), sizes


def sizes_table(quality, task):
    """Answers right by each seed, at each size and after as many steps."""
    counts, sizes = sizes_of(quality, task)
    if not sizes:
        return ""
    trained = [way for way in SIZED if any(runs(quality, name, way) for name in sizes)]
    rows = []
    for name, size in sizes.items():
        for longer in (False, True):
            of = {way: runs(quality, name, way, longer) for way in SIZED}
            right = {way: values(found, "accuracy") for way, found in of.items()}
            if steps := [found[0].steps for way, found in of.items() if found]:
                cells = [", ".join(f"{value:.1f}" for value in right[way]) for way in trained]
                rows.append([size, steps[0], *cells, against(right["pid"], right["pie"])])
    head = [counts, "steps", *map(WAYS.get, trained), "PID"]
    return f"\nBy the number of {counts}, answers right of each seed, %:\n\n" + table(head, rows)


def long_prompts(formula):
    """What PID takes of PIE's work as the prompts grow."""
    cells = {}
    for at in formula.long_prompts:
        cell = f"{short(at.pid_flops / at.pie_flops)}, {short(at.pid_bytes / at.pie_bytes)}"
        cells.setdefault(at.prompt_tokens, {})[at.prompts] = cell
    counts = list(next(iter(cells.values()), {}))
    head = ["prompt tokens", *(f"U = {prompts}: FLOPs, bytes" for prompts in counts)]
    return prose("what is left") + table(head, [[tokens, *map(of.get, counts)] for tokens, of in cells.items()])


# What each way costs.


def turn_by_turn(own, other):
    """How many times as long as another."""
    return median_high(mine / theirs for mine, theirs in zip(own.seconds, other.seconds))


def ways(costs):
    text = prose("ways", costs=costs, source=source(costs), runs=len(costs.tasks[0].ways[0].seconds))
    text += picture("Seconds against FLOPs", COSTS)
    rows = []
    for name in costs.tasks[0].by_way:
        of = [(task.by_way[name], task.by_way["PID"]) for task in costs.tasks]
        memory = ", ".join(short(way.peak_bytes * 1e-9) for way, _ in of if way.peak_bytes is not None)
        rows.append([name, *(f"{short(way.median)} s ({short(turn_by_turn(way, pid))}x)" for way, pid in of), memory])
    tasks = [
        f"{of.task}: U = {of.prompts}, n = {of.keys}, {of.prompt_tokens} + {of.new_tokens} tokens" for of in costs.tasks
    ]
    text += "\n" + table(["way", *tasks, "memory, GB"], rows)
    for task in costs.tasks:
        pid, pie = task.by_way["PID"], task.by_way["PIE"]
        if (pie.flops or 0) > (pid.flops or 0) and turn_by_turn(pie, pid) < 1:
            text += prose("less time", task=task.task, ratio=short(turn_by_turn(pie, pid)))
    return text + prose("trained")


def behind_a_document(run):
    columns = {
        "K/V, MB": lambda mode: mode.kv_bytes * 1e-6,
        "K/V read in a step, MB": lambda mode: mode.decode_step_kv_bytes * 1e-6,
        "prefill and copies, s": lambda mode: mode.prefill_s + mode.copy_kv_s,
        "decode, s": lambda mode: mode.decode_s,
        "tokens/s": lambda mode: mode.tokens_per_s,
        "memory, GB": lambda mode: mode.peak_bytes * 1e-9,
    }
    rows = []
    for name in ("shared", "copies", "recompute"):

        def cell(of, shown=short):
            own, shared = (median_high(map(of, run.modes[mode])) for mode in (name, "shared"))
            return shown(own) + ("" if name == "shared" else f" ({short(own / shared)}x)")

        rows.append([name, cell(lambda mode: mode.prefilled_tokens, number), *map(cell, columns.values())])
    return prose("document", run=run, runs=len(run.modes["shared"])) + table([None, "prefilled tokens", *columns], rows)


# Figures.


def curves(quality):
    """Loss against steps, a panel for each task."""

    def panel(task):
        series = []
        for look, way in enumerate(BOTH):
            losses = zip(*(run.loss_every_50_steps for run in runs(quality, task, way)))
            # It is kept to four digits behind the point, and a logarithm has no place for 0.
            points = [(50 * (i + 1), max(mean_of(of), 1e-4)) for i, of in enumerate(losses)]
            series.append(Series(WAYS[way], points, look))
        return Panel(task, "steps", "loss per token of the answers", series, ticks_at_points=False)

    title, below = "Tiny T5s, PID and PIE: the same start, texts and steps", f"mean over seeds, {quality.date}"
    return Figure(title, below, [panel(task) for task in [*PAPERS, *BROKEN]], 3)


def sizes_figure(quality):
    """Wrong answers against size, a panel for each task that has several sizes."""

    def panel(task):
        # A logarithm has no place for 0: of 200 answers and more, less than one wrong one.
        wrong = lambda right: max(100 - right, 0.1)
        counts, sizes = sizes_of(quality, task)
        series = []
        for look, way in enumerate(SIZED):
            found = [(size, values(runs(quality, name, way), "accuracy")) for name, size in sizes.items()]
            points = [(size, wrong(mean_of(right))) for size, right in found if right]
            spread = [(size, wrong(max(right)), wrong(min(right))) for size, right in found if right]
            series.append(Series(WAYS[way], points, look, spread=spread))
        return Panel(task, counts, "answers wrong, %", series)

    title = "Wrong answers against the size of what a text holds"
    below = f"mean over seeds, the line their range; none wrong stands at 0.1; {quality.date}"
    return Figure(title, below, [panel(task) for task in BROKEN], 3)


def cost_figure(costs):
    """Seconds against FLOPs, a panel for each task."""

    def panel(task):
        series = []
        for look, way in enumerate(task.ways):
            if way.flops:
                x = way.flops * 1e-9
                spread = [(x, min(way.seconds), max(way.seconds))]
                series.append(Series(way.way, [(x, way.median)], look, DOTS, spread))
        title = f"{task.task}: U = {task.prompts}, n = {task.keys}"
        return Panel(title, "GFLOP, by formula", "seconds", series, ticks_at_points=False)

    title = f"Ways to have many outputs, {costs.shape}'s shape on the CPU"
    return Figure(title, source(costs), [panel(task) for task in costs.tasks])
