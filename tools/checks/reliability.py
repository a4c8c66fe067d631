"""Looks for what tests alone do not see: more cases, Miri, sanitizers, advisories, builds that differ. Writes results/reliability/
and docs/reliability.md. All of it takes about an hour of two cores."""

from common import RESULTS, ROOT, TARGET, Command, Failed
from common import card_env, cargo, main, number, output, step, when, workspace, write_page

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
from pathlib import Path

from results_file import write_results

# What the toolchains of Linux on x86-64 are called: sanitizers want their target named, so that build scripts are left alone.
TRIPLE = "x86_64-unknown-linux-gnu"
# Too many steps for an interpreter: every code, plans by the thousand.
TOO_LONG_FOR_MIRI = (
    "plans_are_those_of_the_full_search",
    "work_covers_the_problem_once",
    "more_blocks_than_memory_should_hold",
    "halves_widen_as_half_has_it",
    "exp2_is_accurate",
)
# Tree borrows: crossbeam-epoch, rayon's, breaks the stricter rules. Its threads are never joined, which counts as a leak.
MIRI_AND_RAYON = "-Zmiri-tree-borrows -Zmiri-ignore-leaks"
MIRI_MANY_ORDERS = "-Zmiri-many-seeds=0..128 -Zmiri-preemption-rate=0.2"
# Whose calls fail, in which test, which leaves which file.
FAILING = (("the library", "failing_driver", "failing-driver"), ("T5", "t5_failing", "failing-driver-t5"))
# Writes the list of all parts in CycloneDX's format.
CYCLONEDX = ("cargo-cyclonedx", "0.5.9")


# Tests.


def tested(what, command, cases=None):
    """Runs tests, which must pass."""
    said = output(f"test {what}", command)
    count = passed(said)
    if not count:
        raise Failed(f"{what}: no test has run:\n{said}")
    found = f"{count} tests" + (f", {cases} cases of each property" if cases else "")
    return {"what": what, "command": shown(command), "found": found}


def passed(said):
    """How many tests passed, by what the harness says at the end of each program."""
    return sum(int(count) for count in re.findall(r"^test result: ok\. (\d+) passed", said, re.MULTILINE))


def shown(command):
    """A command as a shell takes it, with what it is given in the environment, paths of this machine left out."""
    given = sorted((name, str(value)) for name, value in command.env.items() if value is not None)
    given = [f"{name}={shlex.quote(value)}" for name, value in given if not value.startswith("/")]
    return " ".join([*given, Path(command.words[0]).name, *command.words[1:]])


def with_env(command, **env):
    return Command(command.words, command.env | env, command.cwd)


def soaked(what, command, cases):
    return tested(what, with_env(command, PROPTEST_CASES=str(cases)), cases)


def soak(arguments):
    """property tests with many more cases: plans and the CPU"""
    plans = cargo("test", "--package", "onekv", "--lib", "plan::tests::")
    cpu = cargo("test", "--package", "onekv", "--test", "attention")
    return "proptest", [
        soaked("plans for five cards", plans, arguments.cases or 500_000),
        soaked("the CPU backend, f32, f16 and bf16", cpu, arguments.cases or 10_000),
    ]


def cards(arguments):
    """the same for the kernels, on virtual cards"""
    tests = workspace("test", "--test", "attention", "--test", "e4m3", "--test", "cuda")
    return "proptest", [
        soaked(f"a virtual {card}, every variant", with_env(tests, **card_env(card)), arguments.cases or 1000)
        for card in ("a100", "rtx4090", "h200", "b200", "rtx5090")
    ]


def driver(arguments):
    """a driver each of whose calls fails in turn"""
    folder = TARGET / "reliability"
    for what, test, file in FAILING:
        tests = with_env(workspace("test", "--test", test), **card_env("h200"), ONEKV_RELIABILITY=folder)
        tested(what, tests)
        told = json.loads((folder / f"{file}.json").read_text("utf-8"))
        calls = [{"call": name} | told["calls"][name] for name in sorted(told["calls"])]
        write(f"{file}.jsonl", arguments.when | {name: told[name] for name in ("card", "injected")}, calls)


def nightly(*words):
    return Command(["rustup", "run", "nightly", "cargo", *words])


def version(*words):
    return output("the version", nightly(*words)).strip()


def miri(arguments):
    """undefined behaviour, by Miri (nightly Rust with `miri` and `rust-src`)"""
    skipped = [word for name in TOO_LONG_FOR_MIRI for word in ("--skip", name)]
    orders = "threads that mark a virtual card's memory while a launch begins, in 128 orders"
    runs = []
    for what, package, target, filters, flags in (
        ("plans, e4m3, the CPU backend's and merges' small cases", "onekv", "--lib", skipped, MIRI_AND_RAYON),
        ("problems and operands", "onekv", "--test=problem", [], MIRI_AND_RAYON),
        (orders, "ptxsim", "--lib", ["marks_of_several_threads"], MIRI_MANY_ORDERS),
    ):
        tests = with_env(
            nightly("miri", "test", "--package", package, target, "--", *filters),
            MIRIFLAGS=f"-Zmiri-disable-isolation -Zmiri-deterministic-floats {flags}",
            PROPTEST_CASES="4",
            RAYON_NUM_THREADS="2",
            CARGO_TARGET_DIR=ROOT / "target/miri",
        )
        runs.append(tested(what, tests))
    # What many orders say at once cannot be counted.
    runs[-1]["found"] = "1 test, in every order"
    return version("miri", "--version"), runs


def sanitized(sanitizer, words, flags=(), **env):
    """Tests that are compiled with a sanitizer."""
    env |= {"RUSTFLAGS": f"-Zsanitizer={sanitizer}", "CARGO_TARGET_DIR": ROOT / "target" / sanitizer}
    return with_env(nightly("test", "--target", TRIPLE, *flags, *words.split()), **env)


def address(arguments):
    """reads and writes outside of memory, by AddressSanitizer (nightly)"""
    # Programs in C are linked with the sanitizer too; what links Rust's is not.
    folder = ROOT / "target/address/cc"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cc", "c++"):
        real = shutil.which(name)
        if real is None:
            raise Failed(f"{name} was not found; install one, e.g. `apt-get install g++`")
        (folder / name).write_text(f'#!/bin/sh\nexec {real} -fsanitize=address "$@"\n')
        (folder / name).chmod(0o755)
    env = {"CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER": shutil.which("cc"), "PATH": f"{folder}:{os.environ['PATH']}"}
    # Its tests leak names of their own.
    leaks = {"ASAN_OPTIONS": "detect_leaks=0"}
    runs = [
        tested(what, sanitized("address", words, **env, **more))
        for what, words, more in (
            ("the CPU backend, plans, problems", "--package onekv --lib --tests", {}),
            ("the C API, called from Rust, C and C++", "--package onekv-c --package onekv-c-api", {}),
            ("the virtual GPU", "--package ptxsim --lib --tests", leaks),
            # Its other tests load it as a library, which does not start under ThreadSanitizer and was not tried here.
            ("the virtual GPU's driver", "--package ptxsim-driver --lib", {}),
            ("T5's readers, backend and command line", "--package t5 --lib --tests", {}),
        )
    ]
    return version("--version"), runs


def thread(arguments):
    """data races, by ThreadSanitizer (nightly with `rust-src`)"""
    # The standard library too: its locks are what orders threads.
    runs = [
        tested(what, sanitized("thread", words, ["-Zbuild-std"], PROPTEST_CASES="32"))
        for what, words in (
            ("the CPU backend", "--package onekv --lib --tests"),
            ("the virtual GPU", "--package ptxsim --lib --tests"),
            ("the virtual GPU's driver", "--package ptxsim-driver --lib"),
        )
    ]
    return version("--version"), runs


# What others wrote and what is built of it: advisories, the list of all parts, the same kernels from the same sources.


def builds(arguments):
    """advisories, the list of all parts, and whether kernels compile to the same bytes, without a network"""
    tool, found = advisories(arguments.offline)
    other = ROOT / "target/reproducible/another/checkout"
    if other.exists():
        shutil.rmtree(other)
    step("clone the repository", Command(["git", "clone", "--quiet", ".", other]))
    return tool, [found, all_parts(other), kernels(other)]


def advisories(offline):
    step("look for advisories", Command([os.environ["XTASK"], "package", "--advisories", *(["--offline"] if offline else [])]))
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    database = next((path for path in (home / "advisory-dbs").iterdir() if path.is_dir()), None)
    if database is None:
        raise Failed(f"cargo-deny left no database in {home / 'advisory-dbs'}")
    dated = output("the database's date", Command(["git", "-C", database, "log", "-1", "--format=%cs"])).strip()
    tool = output("cargo-deny", Command([ROOT / "target/cargo-deny/bin/cargo-deny", "--version"])).strip()
    return tool, {
        "what": "advisories on any dependency, with all features",
        "command": "cargo deny --workspace check advisories",
        "found": f"none but those that deny.toml lists; RustSec's database of {dated}",
    }


def all_parts(checkout):
    """The library's, with the features that it has of its own, into a file."""
    name, wanted = CYCLONEDX
    tools = ROOT / "target/cyclonedx"
    step(f"install {name} {wanted}", cargo("install", "--locked", name, "--version", wanted, "--root", tools))
    shared = ["cyclonedx", "--format", "json", "--spec-version", "1.5", "--features", "cuda,tracing"]
    words = [tools / "bin" / name, *shared, "--override-filename", "parts"]
    # The same at any time, and wherever the checkout is.
    step("list the library's parts", Command(words, {"SOURCE_DATE_EPOCH": "0"}, checkout))
    text = (checkout / "parts.json").read_text("utf-8").replace(f"file://{checkout}", "file://.")
    # Who wrote a part, with their addresses, its own package says.
    text = "".join(f"{line}\n" for line in text.splitlines() if not line.lstrip().startswith('"author": '))
    (RESULTS / "onekv.cdx.json").write_text(text, "utf-8")
    purls = text.count('"purl"')
    return {
        "what": "all parts, with features `cuda` and `tracing`, as CycloneDX: results/reliability/onekv.cdx.json",
        "command": " ".join(["cargo", *shared]),
        "found": f"{purls} parts, onekv and its targets among them",
    }


def kernels(other):
    """Two builds, in folders of different names, both without a network, and with all in memory at the same addresses: by these
    nvcc 13.0.88 numbers some registers of PTX."""
    step("fetch the dependencies", cargo("fetch", "--locked"))
    # In a namespace of the kernel's that has no network.
    alone = ["setarch", "--addr-no-randomize", "unshare", "--map-root-user", "--net"]
    build = ["cargo", "build", "--offline", "--locked"]
    made = []
    for place, name in ((ROOT, "a"), (other, "b")):
        target = ROOT / "target/reproducible" / name
        words = [*alone, *build, "--package", "onekv", "--lib", "--features", "cuda", "--target-dir", target]
        step("compile the kernels for all cards, without a network", Command(words, {"ONEKV_CUDA_ARCHS": None}, place))
        made.append(fatbins(target))
    differ = sorted(name for name in made[0].keys() | made[1].keys() if made[0].get(name) != made[1].get(name))
    if differ:
        raise Failed(f"built twice, the kernels differ: {', '.join(differ)}")
    return {
        "what": "the kernels for all cards, compiled twice in folders of different names, without a network; by random addresses "
        "nvcc 13.0.88 makes one of two PTX texts of cuda/attention_f32.cu",
        "command": " ".join([*alone, *build, "--features cuda"]),
        "found": f"{len(made[0])} files, the same bytes",
    }


def fatbins(target):
    """Hashes of what the build script made, by name."""
    found = {}
    for file in target.glob("debug/build/*/out/*.fatbin"):
        if file.name in found:
            raise Failed(f"{file.name} was made twice in {target}: remove it")
        found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    if not found:
        raise Failed(f"no kernels in {target}")
    return found


def write(file, head, lines):
    path = RESULTS / file
    print(f"==> write {path}", file=sys.stderr)
    write_results(path, head, lines)


# What leaves files of its own returns none; the others the tool that looked, and each of its runs.
PARTS = {part.__name__: part for part in (soak, cards, driver, miri, address, thread, builds)}


def reliability():
    parts = "\n".join(f"  {name:8} {part.__doc__}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="cargo xtask reliability",
        description=f"{__doc__}\n\nparts:\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only these; can be given several times [default: all]")
    cases = "cases of each property in `soak` and `cards` [default: 500000 of plans, 10000 on the CPU, 1000 on each card, which takes hours]"
    parser.add_argument("--cases", metavar="N", type=number(1), help=cases)
    parser.add_argument("--offline", action="store_true", help="take the advisories that cargo-deny fetched before")
    arguments = parser.parse_args()
    asked = arguments.part or list(PARTS)
    if arguments.cases and not {"soak", "cards"} & set(asked):
        raise Failed(f"--cases is {arguments.cases}, allowed: with --part soak or --part cards")
    if arguments.offline and "builds" not in asked:
        raise Failed("--offline is given, allowed: with --part builds")
    here = f"{platform.system()} {platform.machine()}"
    for part in asked:
        if part not in ("driver", "builds") and here != "Linux x86_64":
            raise Failed(f"--part {part} runs on Linux on x86-64, this is {here}")
    arguments.when = when()
    for part in asked:
        if found := PARTS[part](arguments):
            tool, runs = found
            write(f"{part}.jsonl", arguments.when | {"tool": tool}, runs)
    write_page()


if __name__ == "__main__":
    main(reliability)
