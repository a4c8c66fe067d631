"""docs/reliability.md: what was looked for beyond the tests, and what was found."""

from page import prose, table
from results import PARTS

# Who calls the driver that fails, and its file.
CALLERS = {"the library": "failing-driver.jsonl", "T5": "failing-driver-t5.jsonl"}


def page(found):
    def of(file, text, command):
        return text(found[file]) if file in found else f"Not run yet: `cargo xtask {command}`.\n"

    texts = {part: of(f"{part}.jsonl", tested, f"reliability --part {part}") for part in PARTS}
    texts["fuzz"] = of("fuzz.jsonl", fuzzed, "fuzz")
    texts["planted"] = of("planted.jsonl", planted, "planted")
    driver = [of(file, failing(caller), "reliability --part driver") for caller, file in CALLERS.items()]
    return prose("reliability", driver="\n".join(driver), **texts)


def tested(record):
    rows = [(run.what, run.found, f"`{run.command}`") for run in record.runs]
    said = f"{record.date}, onekv at {record.commit}, {record.tool}.\n\n"
    return said + table(["what", "found", "by"], rows)


def fuzzed(run):
    rows = [
        (f.target, f.runs, f"{f.seconds} s", f.coverage, f.corpus, f"{f.peak_mb} MB", f"{f.date}, {f.commit}")
        for f in run.targets
    ]
    return table(["target", "inputs run", "time", "edges reached", "corpus", "peak memory", "when"], rows)


def failing(caller):
    def text(told):
        rows = [
            (call.call, call.injected, len(call.statuses), call.error, call.recovered, call.dropped)
            for call in told.calls
        ]
        calls = f"{told.injected} failures of {len(rows)} functions that {caller} calls"
        head = ["function", "failed", "of so many statuses", "an error", "done all the same", "in a drop"]
        return f"{told.date}, onekv at {told.commit}, a {told.card}: {calls}.\n\n{table(head, rows)}"

    return text


def planted(run):
    dates = sorted(bug.date for bug in run.bugs if bug.test)
    which = "All" if len(dates) == len(run.bugs) else f"So far {len(dates)}"
    when = f", from {dates[0]} to {dates[-1]}" if dates else ""
    return (
        f"`cargo xtask planted` puts {len(run.bugs)} known bugs (tools/checks/planted.toml) into a copy of the tree, one at a time, and a test\n"
        f"must fail. {which} have a record of being caught{when}: results/reliability/planted.jsonl names the test. Each\n"
        "fix brings its bug with it.\n"
    )
