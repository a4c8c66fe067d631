"""docs/reliability.md: the prose of reliability.md beside this file, with tables of what was found."""

from pathlib import Path
from string import Template

from page import table
from results import FAILING_DRIVER, FUZZED, PLANTED, TESTED, read_file

# Parts whose files have one form.
PARTS = ("soak", "cards", "miri", "address", "thread", "builds")
# Who calls the driver that fails, and its file.
CALLERS = {"the library": "failing-driver.json", "T5": "failing-driver-t5.json"}


def page(folder):
    found = {part: tested(part, folder / f"{part}.json") for part in PARTS}
    found |= dict(fuzz=fuzzed(folder / "fuzz.json"), planted=planted(read_file(PLANTED, folder / "planted.json")))
    found["driver"] = "\n".join(failing(caller, folder / name) for caller, name in CALLERS.items())
    return Template(Path(__file__).with_suffix(".md").read_text("utf-8")).substitute(found)


def tested(part, path):
    if not path.exists():
        return f"Not run yet: `cargo xtask reliability --part {part}`.\n"
    record = read_file(TESTED, path)
    rows = [(run.what, run.found, f"`{run.command}`") for run in record.runs]
    said = f"{record.date}, onekv at {record.commit}, {record.tool}.\n\n"
    return said + table(["what", "found", "by"], rows)


def fuzzed(path):
    rows = [
        (name, f.runs, f"{f.seconds} s", f.coverage, f.corpus, f"{f.peak_mb} MB", f"{f.date}, {f.commit}")
        for name, f in read_file(FUZZED, path).items()
    ]
    return table(["target", "inputs run", "time", "edges reached", "corpus", "peak memory", "when"], rows)


def failing(caller, path):
    told = read_file(FAILING_DRIVER, path)
    rows = [
        (name, call.injected, len(call.statuses), call.error, call.recovered, call.dropped)
        for name, call in told.calls.items()
    ]
    said = f"{told.date}, onekv at {told.commit}, a {told.card}: {told.injected} failures of {len(rows)} functions that {caller} calls."
    head = ["function", "failed", "of so many statuses", "an error", "done all the same", "in a drop"]
    return f"{said}\n\n{table(head, rows)}"


def planted(bugs):
    dates = sorted(caught.date for caught in bugs.values() if caught)
    which = "All" if len(dates) == len(bugs) else f"So far {len(dates)}"
    when = f", from {dates[0]} to {dates[-1]}" if dates else ""
    return (
        f"`cargo xtask planted` puts {len(bugs)} known bugs (xtask/planted.toml) into a copy of the tree, one at a time, and a test\n"
        f"must fail. {which} have a record of being caught{when}: results/reliability/planted.json names the test. Each\n"
        "fix brings its bug with it.\n"
    )
