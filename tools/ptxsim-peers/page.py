"""results/ptxsim/: what came of the rows, as JSON lines and as a page. Standard library alone."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("peers", "report")]

from results import OUTCOMES
from results_file import write_results


def totals(rows: list[dict]) -> str:
    """Counts by package, as a Markdown table. A kernel on several cards is one kernel and several rows."""
    packages: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        packages.setdefault((row["package"], row["version"]), []).append(row)
    lines = [f"| package | version | kernels | rows | {' | '.join(OUTCOMES)} |", "|" + " --- |" * 8]
    for (package, version), of_package in [*sorted(packages.items()), (("all", ""), rows)]:
        kernels = len({(row["package"], row["kernel"]) for row in of_package})
        counts = [sum(row["outcome"] == outcome for row in of_package) for outcome in OUTCOMES]
        lines.append(f"| {package} | {version} | {kernels} | {len(of_package)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"


def page(rows: list[dict], date: str) -> str:
    listed: dict[tuple, list[str]] = {}
    for row in rows:
        key = row["package"], row["kernel"], OUTCOMES.index(row["outcome"]), row["message"]
        listed.setdefault(key, []).append(row["card"])
    lines = ["| package | kernel | cards | outcome | message |", "| --- | --- | --- | --- | --- |"]
    for (package, kernel, outcome, message), cards in sorted(listed.items()):
        message = message.replace("|", "\\|")
        lines.append(f"| {package} | `{kernel}` | {', '.join(cards)} | {OUTCOMES[outcome]} | {message} |")
    return f"""# Kernels of other projects on the virtual GPU

Made by `cargo xtask peers ptxsim` ({date}): public packages, \
pinned in [tools/ptxsim-peers/](../../tools/ptxsim-peers/requirements.txt), their kernels compiled without a card, \
run on [ptxsim](../../ptxsim/README.md) and held to NumPy in float64. No card is involved: what is shown is that \
ptxsim runs them, gets the right numbers and blames nobody. Rows of cudarc are its own tests, of the driver's API \
more than of kernels.

right: as the reference. unsupported: ptxsim says that it does not run an instruction or a call. wrong: another \
result. blamed: a check of ptxsim's failed, or something that nobody expected.

{totals(rows)}
""" + "\n".join(lines) + "\n"


def faults(rows: list[dict]) -> list[str]:
    """Where ptxsim is at fault."""
    wrong = [row for row in rows if row["outcome"] in ("wrong", "blamed")]
    return [f"{row['kernel']} on {row['card']}: {row['message']}" for row in wrong]


def write(folder: Path, rows: list[dict], date: str) -> None:
    write_results(folder / "peers.jsonl", {"date": date}, rows)
    (folder / "README.md").write_text(page(rows, date))
