"""What two versions of ptxas make of every kernel on every card, into cuda/codegen.md, and whether it is as meant.

`cargo xtask codegen` runs it, with what it must know of cards and of the plan's kernels on standard input. Without
compilers it checks the file that is there.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from types import SimpleNamespace

import build
import page
from check import check, check_bounds


def version(nvcc: str, wanted: str) -> str:
    found = re.search(r"release .*\b(V\S+)", build.run(nvcc, "--version").stdout)
    if not found or not found[1].startswith(f"V{wanted}."):
        raise ValueError(f"{nvcc} is {found and found[1]}, wanted: {wanted}; `cargo xtask setup` fetches that")
    return found[1]


def make(facts: SimpleNamespace, compilers: list[str], nvdisasm: str) -> None:
    versions = [version(nvcc, wanted) for nvcc, wanted in zip(compilers, facts.compilers)]
    tables = [{} for _ in compilers]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        compile = lambda by, *job: pool.submit(build.compiled, facts, compilers[by], nvdisasm, *job)
        work = {compile(*job): job for job in build.jobs(facts)}
        try:
            for done, future in enumerate(as_completed(work), 1):
                compiler, source, capability = work[future]
                tables[compiler] |= {(name, capability): made for name, made in future.result().items()}
                print(f"{done} of {len(work)}: {source.relative_to(build.ROOT)} for {capability}", file=sys.stderr)
        finally:
            # After one that fails, none begins.
            pool.shutdown(cancel_futures=True)
    page.FILE.write_text(page.text(facts, build.digest(), versions, tables))
    print("wrote cuda/codegen.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", nargs="*", default=[], help="one of each version that is wanted")
    parser.add_argument("--nvdisasm")
    arguments = parser.parse_args()
    facts = build.read_facts(sys.stdin)
    try:
        if arguments.nvcc:
            make(facts, arguments.nvcc, arguments.nvdisasm)
        check(page.Page(page.FILE.read_text()), build.digest(), facts)
        for source in build.sources():
            check_bounds(str(source.relative_to(build.ROOT)), source.read_text())
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
