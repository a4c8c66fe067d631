"""Runs the fuzz targets of fuzz/: inputs that nobody thought of, by libFuzzer. Builds them into target/fuzz, with the stable
compiler, and runs every target, two at a time where there are two cores. Prints runs, coverage and corpus, which also go to
results/reliability/fuzz.jsonl. What is found goes to target/fuzz/corpus, and inputs that crash, take too long or too much memory
to target/fuzz/artifacts; with one of these it fails."""

from common import RESULTS, ROOT, TARGET, Command, Failed, cargo, main, number, output, step, when, write_page

import argparse
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

from results import FUZZED, FUZZED_FIELDS, read_file
from results_file import write_results

# What `cargo fuzz` passes with `--sanitizer none`, but for the depth of stacks and what keeps branches apart: coverage and
# comparisons for libFuzzer, which mutates towards both; and checks that a release leaves out.
FLAGS = (
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "-Ccodegen-units=1",
)
# Seconds that one input may take, and memory besides each target's own bound, which is on what Rust allocates.
BOUNDS = {"timeout": 10, "rss_limit_mb": 2048}
FOLDER = TARGET / "fuzz"
RECORDS = RESULTS / "fuzz.jsonl"
# Lines that say what went wrong.
TELLING = re.compile("panicked at|allowed: |ERROR: libFuzzer|Base64: ")


def targets(only):
    """Those whose names contain `only`: one for each file in fuzz/fuzz_targets."""
    names = sorted(path.stem for path in (ROOT / "fuzz/fuzz_targets").iterdir())
    chosen = [name for name in names if only in name]
    if not chosen:
        raise Failed(f"--only is {only}, allowed: a part of {', '.join(names)}")
    return chosen


def triple():
    """What this machine's Rust compiles for."""
    said = output("ask rustc for this machine's target", Command(["rustc", "-vV"]))
    host = re.search(r"^host: (.+)$", said, re.MULTILINE)
    if not host:
        raise Failed("rustc -vV names no host")
    return host[1]


def build(names):
    """The folder of the programs."""
    # With its target named, cargo leaves build scripts and macros without the flags.
    made_for = triple()
    words = cargo("build", "--release", "--package", "onekv-fuzz", "--target", made_for).words
    words += [word for name in names for word in ("--bin", name)]
    env = {"CARGO_TARGET_DIR": FOLDER, "RUSTFLAGS": " ".join(FLAGS), "CARGO_ENCODED_RUSTFLAGS": None}
    step("build the fuzz targets, with what libFuzzer looks at", Command(words, env))
    return FOLDER / made_for / "release"


class Target:
    def __init__(self, name, programs):
        self.name, self.programs = name, programs
        self.corpus, self.artifacts = (FOLDER / place / name for place in ("corpus", "artifacts"))
        for folder in (self.corpus, self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        self.kept = ROOT / "fuzz/corpus" / name

    def program(self, *words):
        # Of threads none disturbs another's coverage.
        env = {"RAYON_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
        bounds = [f"-{name}={value}" for name, value in BOUNDS.items()]
        return Command([self.programs / self.name, *bounds, *words], env, self.programs)

    def run(self, seconds, seed):
        """How it did."""
        before = set(self.artifacts.iterdir())
        log = FOLDER / f"{self.name}.log"
        words = [self.corpus, self.kept, f"-max_total_time={seconds}", f"-seed={seed}", f"-artifact_prefix={self.artifacts}/"]
        command = self.program(*words, "-print_final_stats=1", "-close_fd_mask=3")
        with log.open("w") as file:
            status = command.start(stdout=subprocess.DEVNULL, stderr=file).wait()
        text = log.read_text("utf-8", errors="replace")
        if status:
            found = sorted(set(self.artifacts.iterdir()) - before)
            inputs = ", ".join(map(str, found)) or "none"
            raise Failed(f"{command.ended(self.name, status)}, input {inputs}, log {log}\n{self.why(found, text)}")
        figures = figures_of(text)
        if figures is None:
            raise Failed(f"{self.name}: no figures in {log}")
        print(f"{self.name}: {shown(figures)}", flush=True)
        return figures

    def why(self, found, text):
        # What it said is lost in what targets say of all inputs: once more, with that alone.
        again = []
        if found:
            alone = self.program(found[0]).start(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            again = alone.communicate()[1].splitlines()
        # The last is the input itself, where it is short: of a machine that is gone, its log is left.
        input_itself = [line for line in text.splitlines() if line.startswith("Base64: ")]
        return "\n".join(filter(TELLING.search, again + input_itself))

    def keep(self):
        """Adds to the target's corpus the fewest inputs that reach what those that were found do, by edges of the program: how
        often each is taken would be ten times as many inputs."""
        merge = self.program("-set_cover_merge=1", "-use_counters=0", "-close_fd_mask=3", self.kept, self.corpus)
        step(f"keep what was found of {self.name}", merge, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def figures_of(log):
    """Those of libFuzzer's last lines; None where there are none."""
    cov = r"^.*DONE +cov: (?P<coverage>\d+) ft: (?P<features>\d+) corp: (?P<corpus>\d+)/(?P<corpus_bytes>\S+) "
    done = r"^Done \d+ runs in (?P<seconds>\d+) second"
    runs = r"^stat::number_of_executed_units: +(?P<runs>\d+)$"
    peak = r"^stat::peak_rss_mb: +(?P<peak_mb>\d+)$"
    figures = {}
    for last in ([*re.finditer(pattern, log, re.MULTILINE)][-1:] for pattern in (cov, done, runs, peak)):
        if not last:
            return None
        figures |= last[0].groupdict()
    return {name: value if name == "corpus_bytes" else int(value) for name, value in figures.items()}


def shown(figures):
    text = "{runs} runs in {seconds} s, cov {coverage}, ft {features}, corpus {corpus} inputs of {corpus_bytes}, peak {peak_mb} MB"
    return text.format(**figures)


def record(figures):
    """Beside those that were not run now."""
    lines = {line.target: vars(line) for line in read_file(FUZZED, RECORDS).targets} if RECORDS.exists() else {}
    lines |= figures
    write_results(RECORDS, BOUNDS, ({name: lines[target][name] for name in FUZZED_FIELDS} for target in sorted(lines)))


def fuzz():
    parser = argparse.ArgumentParser(prog="cargo xtask fuzz", description=__doc__)
    parser.add_argument("--seconds", metavar="N", type=number(1), default=600, help="how long each target runs [default: 600]")
    parser.add_argument("--only", metavar="PART", default="", help="only those whose name contains this")
    seed = "where libFuzzer's choices begin; 0 takes another one in every run [default: 0]"
    parser.add_argument("--seed", metavar="N", type=number(0), default=0, help=seed)
    keep = "bring what was found into fuzz/corpus: the fewest inputs that reach as much of the program"
    parser.add_argument("--keep", action="store_true", help=keep)
    arguments = parser.parse_args()
    names = targets(arguments.only)
    programs = build(names)
    all_targets = [Target(name, programs) for name in names]
    begun = when()
    figures, failures = {}, []
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for target, run in [(target, pool.submit(target.run, arguments.seconds, arguments.seed)) for target in all_targets]:
            try:
                figures[target.name] = {"target": target.name} | run.result() | begun
            except Failed as error:
                failures.append(str(error))
    record(figures)
    write_page()
    if arguments.keep:
        for target in all_targets:
            target.keep()
    if failures:
        raise Failed("\n".join([f"{len(failures)} of {len(names)} targets failed", *failures]))


if __name__ == "__main__":
    main(fuzz)
