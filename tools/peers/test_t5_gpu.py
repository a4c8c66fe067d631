"""Which lines our T5 example gives on a card: `python3 tools/peers/test_t5_gpu.py`.

It needs nothing but Python; `cargo test` runs it.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

import t5_gpu

POINT = t5_gpu.Point("t5-base", keys=8, prompts=2, prompt_tokens=3, new_tokens=4)
# In the place of the example: tells its products; PIE and copies fit a large card alone.
PROGRAM = """#!/usr/bin/env python3
import json, sys
value = lambda name, default: sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default
if value("--mode", "") == "all" and {small}:
    sys.exit("error: out of memory")
gemm = {{"own": "own gemm", "cublaslt": "cublasLt"}}[value("--gemm", "{default}")]
figure = {{"device": "cuda: a card, bf16, " + gemm, "total_s": 1.5}}
methods = ["PID", "PID-replicated", "PIE"] if value("--mode", "") == "all" else ["PID"]
print(json.dumps({{name: figure for name in methods}}))
"""


class Ours(unittest.TestCase):
    def systems(self, default: str, small: bool = False) -> list[tuple[str, bool]]:
        """Names of lines and whether each has a time, on a card that takes `default` by itself."""
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            program = Path(folder) / "t5"
            program.write_text(PROGRAM.format(default=default, small=small))
            program.chmod(0o755)
            lines = t5_gpu.ours(str(program), POINT, runs=1, dry=False)
        return [(line["system"], "latency_s" in line) for line in lines]

    def test_what_a_card_takes_by_itself_is_called_onekv(self) -> None:
        methods = [("onekv, PID", True), ("onekv, PID-replicated", True), ("onekv, PIE", True)]
        self.assertEqual(self.systems("cublaslt"), methods)
        self.assertEqual(self.systems("own"), [*methods, ("onekv, PID, cublasLt", True)])

    def test_what_does_not_fit_takes_nothing_with_it(self) -> None:
        alone = [("onekv, all", False), ("onekv, PID", True)]
        self.assertEqual(self.systems("cublaslt", small=True), alone)
        self.assertEqual(self.systems("own", small=True), [*alone, ("onekv, PID, cublasLt", True)])


if __name__ == "__main__":
    unittest.main()
