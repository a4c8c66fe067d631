"""T5 end to end on a card."""

import targets
from figure import RULE, Figure, Panel, Series
from page import distinct, folded, picture, prose, short, source, table, times, without_time

PID, PIE, REPLICATED = "onekv, PID", "onekv, PIE", "onekv, PID-replicated"


def section(folder, run, copy_bytes_per_s, files):
    text = prose("t5", source=source(run))
    text += targets.as_table(targets.t5(run, copy_bytes_per_s)) + without_time(run.peers, run)
    figures = {
        "tokens": figure(run, "Tokens per second", "tokens per second", tokens_per_s),
        "memory": figure(run, "Largest memory in use", "GB", lambda line: line.peak_bytes and line.peak_bytes * 1e-9),
        "pid": saving(run),
    }
    for name, made in figures.items():
        if made.panels:
            files[f"results/{folder}/t5-{name}.svg"] = made
            text += picture(made.title, f"results/{folder}/t5-{name}.svg")
    if figures["pid"].panels:
        text += "\nAll by onekv. PID-replicated encodes once and copies K/V per prompt.\n" + crossovers(run)
    return text + folded("Every point", every_point(run))


def tokens_per_s(line):
    return line.prompts * line.new_tokens / line.fastest_s


def groups(run):
    """Lines that differ in the number of prompts and the system alone, by prompts."""
    groups = {}
    for line in run.lines:
        groups.setdefault(line.work._replace(prompts=0), []).append(line)
    return {work: sorted(groups[work], key=lambda line: line.prompts) for work in sorted(groups)}


def over_pid(lines, system):
    """A system's time over PID's, by prompts."""
    pid = {line.work: line.fastest_s for line in lines if line.system == PID}
    return [
        (line.prompts, line.fastest_s / pid[line.work]) for line in lines if line.system == system and line.work in pid
    ]


def figure(run, title, y, value):
    # Ours first.
    systems = sorted(distinct(line.system for line in run.lines), key=lambda name: not name.startswith("onekv"))

    def panel(work, lines):
        points = lambda system: [(line.prompts, value(line)) for line in lines if line.system == system and value(line)]
        return Panel(
            work.title, "prompts U", y, [Series(system, points(system), i) for i, system in enumerate(systems)]
        )

    return Figure(title, source(run), [panel(*group) for group in groups(run).items()])


def saving(run):
    def panel(work, lines):
        series = [
            Series("PIE", over_pid(lines, PIE)),
            Series("PID-replicated", over_pid(lines, REPLICATED), 1),
            Series("as long as PID", [(lines[0].prompts, 1), (lines[-1].prompts, 1)], kind=RULE),
        ]
        return Panel(work.title, "prompts U", "time over that of PID", series)

    return Figure("Where sharing pays", source(run), [panel(*group) for group in groups(run).items()])


# PIE takes that much longer where PID counts as the quicker: less is within noise.
QUICKER = 1.01


def crossovers(run):
    """From how many prompts on PID is the quicker."""
    rows = []
    for work, lines in groups(run).items():
        if points := over_pid(lines, PIE):
            slower = [prompts for prompts, ratio in points if ratio < QUICKER]
            beyond = [prompts for prompts, _ in points if prompts > max(slower, default=0)]
            rows.append([work.title, f"{beyond[0]}, of those measured" if beyond else f"none up to {points[-1][0]}"])
    return "\n" + table(["work", "PID quicker than PIE by 1 % from U"], rows)


def every_point(run):
    pid = {line.work: line.fastest_s for line in run.lines if line.system == PID}
    rows = []
    for line in sorted(run.lines, key=lambda line: line.work):
        memory = short(line.peak_bytes * 1e-9) if line.peak_bytes else ""
        ratio = times(line.fastest_s / pid[line.work]) if line.work in pid else ""
        rows.append([
            line.shape, line.dtype, line.keys, line.prompts, line.prompt_tokens, line.new_tokens, line.system,
            short(line.fastest_s), short(tokens_per_s(line)), memory, ratio,
        ])  # fmt: skip
    head = ["shape", "dtype", "n", "U", "prompt tokens", "new tokens", "system", "s", "tokens/s", "GB", "of PID"]
    return table(head, rows)
