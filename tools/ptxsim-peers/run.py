"""Runs the rows, each in a process of its own, and writes results/ptxsim/."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import selectors
import signal
import sys
import time
import traceback

import page
import rows
from results_file import today  # After page, which has Python find it.
from sources import ROOT

SOURCES = ["cutlass_rows", "attention_rows", "numba_rows", "cccl_rows", "fla_rows", "flag_gems_rows", "liger_rows", "candle_rows",
           "cudarc_rows"]
# What ptxsim says of what it does not run.
UNSUPPORTED = re.compile(r"not supported|unsupported", re.IGNORECASE)


def classify(error: BaseException, stderr: str) -> tuple[str, str]:
    said = [line for line in stderr.splitlines() if line.startswith("ptxsim:")]
    message = said[0].removeprefix("ptxsim: ") if said else f"{type(error).__name__}: {error}"
    if isinstance(error, rows.Wrong):
        return "wrong", str(error)
    return ("unsupported" if said and UNSUPPORTED.search(message.replace("_", " ")) else "blamed"), message


def child(row: rows.Row, stderr, answer: int) -> None:
    """In the new process: runs the row and writes [outcome, message]."""
    os.dup2(stderr.fileno(), 2)
    os.dup2(stderr.fileno(), 1)
    os.environ["PTXSIM_DEVICE"] = row.card
    try:
        import device

        row.run(device.Gpu())
        result = ("right", "")
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        with open(stderr.name) as text:
            result = classify(error, text.read())
    os.write(answer, json.dumps(result).encode())


def start(row: rows.Row, logs: str):
    name = re.sub(r"[^\w.-]+", "_", f"{row.package}-{row.kernel}-{row.card}")
    stderr = open(os.path.join(logs, name + ".log"), "w+")
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        child(row, stderr, writer)
        os._exit(0)
    os.close(writer)
    return {"row": row, "process": process, "reader": reader, "stderr": stderr, "began": time.monotonic()}


def finish(job: dict, late: bool) -> dict:
    """What results/ptxsim/peers.jsonl says of the row."""
    if late:
        os.kill(job["process"], signal.SIGKILL)
    text = b"" if late else os.read(job["reader"], 1 << 16)
    _, status = os.waitpid(job["process"], 0)
    os.close(job["reader"])
    if text:
        outcome, message = json.loads(text)
    else:
        job["stderr"].seek(0)
        why = "out of time" if late else f"the process ended with status {status}"
        outcome, message = "blamed", f"{why}: {job['stderr'].read()[-300:].strip()}"
    job["stderr"].close()
    row = job["row"]
    message = re.sub(r"\s+", " ", message)
    # Of a kernel with many, each instruction once.
    missing = dict.fromkeys(re.findall(r"(?:unsupported instruction: )(`[^`]*`)", message))
    message = f"unsupported: {', '.join(missing)}"[:400] if missing else message[:400]
    return {"package": row.package, "version": row.version, "kernel": row.kernel, "card": row.card,
            "outcome": outcome, "message": message}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", default="", help="run rows whose package, kernel or card contains this, and write no results")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments.add_argument("--limit", type=float, default=300, help="seconds of a row")
    options = arguments.parse_args()

    for source in SOURCES:
        importlib.import_module(source)
    wanted = [row for row in rows.ROWS if options.only in f"{row.package} {row.kernel} {row.card}"]
    if not wanted:
        sys.exit(f"error: --only is {options.only}, allowed: a part of a row's package, kernel or card")
    logs = os.path.join(os.environ["PEERS_WORK"], "logs")
    os.makedirs(logs, exist_ok=True)
    waiting, running, done = list(wanted), [], {}
    ready = selectors.DefaultSelector()
    while waiting or running:
        while waiting and len(running) < options.jobs:
            job = start(waiting.pop(0), logs)
            running.append(job)
            ready.register(job["reader"], selectors.EVENT_READ, job)
        events = {id(key.data) for key, _ in ready.select(timeout=1)}
        for job in list(running):
            late = time.monotonic() - job["began"] > options.limit
            if id(job) in events or late:
                ready.unregister(job["reader"])
                running.remove(job)
                result = done[id(job["row"])] = finish(job, late and id(job) not in events)
                seconds = time.monotonic() - job["began"]
                print(f"[{len(done)}/{len(wanted)}] {result['outcome']:11} {seconds:6.1f} s  {result['package']} "
                      f"{result['kernel']} {result['card']}  {result['message']}", file=sys.stderr, flush=True)
    results = [done[id(row)] for row in wanted]
    print(page.totals(results))
    if not options.only:
        folder = ROOT / "results" / "ptxsim"
        page.write(folder, results, today())
        print(folder / "README.md")
    if faults := page.faults(results):
        sys.exit("\n".join([f"error: {len(faults)} of {len(results)} rows are wrong or blamed:", *faults]))


if __name__ == "__main__":
    main()
