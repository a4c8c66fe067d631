"""docs/performance.md, docs/method.md, docs/reliability.md, and figures and tables beside the results: all of them from results/ alone."""

import card
import cpu
import intensity
import method
import reliability
from page import prose
from results import results


def pages(folder):
    """By their paths: texts, and figures that are to be drawn."""
    found, files = results(folder), {}
    method.page(found.method, files)
    text = prose("performance") + ("" if found.cards else prose("no card"))
    text += "".join(card.section(name, runs, files) for name, runs in found.cards.items())
    text += cpu.section(found.cpu, files)
    text += intensity.section(found.intensity, files) if found.intensity else ""
    if (folder / "reliability").exists():
        files["docs/reliability.md"] = reliability.page(folder / "reliability")
    return files | {"docs/performance.md": text}
