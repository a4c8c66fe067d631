"""Writes docs/performance.md, docs/method.md and docs/reliability.md, and figures and tables beside the results: all of them of
results/ alone. With --check, says which are not what the results give."""

import argparse
import sys
from pathlib import Path

import card
import cpu
import intensity
import method
import reliability
from figure import Figure, svg
from page import prose
from results import Refused, results


def pages(folder):
    """By their paths: texts, and figures that are to be drawn."""
    found, files = results(folder), {}
    method.page(found.method, files)
    text = prose("performance") + ("" if found.cards else prose("no card"))
    text += "".join(card.section(name, runs, files) for name, runs in found.cards.items())
    text += cpu.section(found.cpu, files)
    text += intensity.section(found.intensity, files) if found.intensity else ""
    if found.reliability:
        files["docs/reliability.md"] = reliability.page(found.reliability)
    return files | {"docs/performance.md": text}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--root", type=Path, required=True, help="the repository")
    arguments.add_argument("--check", action="store_true", help="write nothing, and fail where a file is stale")
    arguments.add_argument("--only", metavar="PATH", help="this file alone, by its path in the repository")
    arguments = arguments.parse_args()
    root, stale = arguments.root, []
    made = pages(root / "results")
    if arguments.only is not None:
        if arguments.only not in made:
            raise Refused(f"--only is {arguments.only}, allowed: {', '.join(made)}")
        made = {arguments.only: made[arguments.only]}
    for path, content in made.items():
        text = (svg(content) if isinstance(content, Figure) else content).encode()
        to = root / path
        if arguments.check and not (to.exists() and to.read_bytes() == text):
            stale.append(f"{path} is not what results/ gives; run `cargo xtask report`")
        elif not arguments.check:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(text)
            print(f"wrote {path}")
    for path in sorted(set(drawn(root)) - set(made)) if arguments.only is None else ():
        stale.append(f"{path} is of results that are gone; delete it")
    sys.exit("\n".join(stale) or None)


def drawn(root):
    """Figures and tables beside the results."""
    for pattern in ("results/**/*.svg", "results/*/attention-*.md"):
        yield from (path.relative_to(root).as_posix() for path in root.glob(pattern))


if __name__ == "__main__":
    try:
        main()
    except (OSError, Refused) as error:
        sys.exit(f"error: {error}")
