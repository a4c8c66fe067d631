"""What becomes of the files that a stage leaves: `python3 tools/kit/test_collect.py`.

It needs nothing but Python; `cargo test` runs it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

# In a kit results_file.py is beside collect.py.
sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("peers", "report")]

import collect
from results import ATTENTION, Refused, read_file

MACHINE = {"card": "Card of a test", "compute_capability": "9.0", "multiprocessors": 1, "simulated": False}
SHAPE = {"model": "m", "heads": 1, "kv_heads": 1, "head_dim": 64, "inputs": 1, "rows": 2, "keys": 3}
TIMED = {**SHAPE, "bytes": 4, "flops": 5.0, "cold_us": {"median": 6.0}, "chosen": True}
OURS = {"system": "onekv", "layout": "shared", **TIMED, "mean_abs": 0.25} | {
    "kernel": "k", "split_keys": 1, "split_cluster": 1, "tile_rows": 16,
}  # fmt: skip
PEER = {"system": "SDPA", "layout": "folded", **TIMED, "mean_abs": 0.2501}
HEAD = {"machine": MACHINE, "sweep": "smoke", "copy_bytes_per_s": 1e12, "empty_pair_us": {"median": 3.0}}
PEERS_HEAD = {"peer_machine": {"torch": "9.9", "python": "3.0"}, "peers": {"PyTorch": {"version": "9.9"}}}
CLOCKS = """2026/01/02 03:04:05.000, 1980, 2619, 300.5, 40
nonsense
2026/01/02 03:04:07.100, 1410, 2619, [N/A], 41
"""


def lines(*objects: dict) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


class Files(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def collect(self, command: str, files: dict[str, str], *more: str) -> Path:
        """Runs it with files named like its options."""
        options = [command, *more]
        for name, text in files.items():
            (self.folder / name).write_text(text)
            options += [f"--{name}", str(self.folder / name)]
        out = self.folder / "out.jsonl"
        with mock.patch.object(sys, "argv", ["collect.py", *options, "--out", str(out)]):
            with contextlib.redirect_stdout(io.StringIO()) as said:
                collect.main()
        self.said = said.getvalue()
        return out

    def merged(self, **files: str) -> Path:
        machine = {"machine": json.dumps({"commit": "abc", "card": "what the kit says"})}
        return self.collect("merge", machine | files)

    def test_a_file_of_ours_and_the_peers(self) -> None:
        left_out = [{"kind": "left out", "system": system, **SHAPE} for system in ("onekv", "peers")]
        wrong = PEER | {"system": "Other", "mean_abs": 0.26}
        after = {"kind": "after", "copy_bytes_per_s": 9e11}
        out = self.merged(
            ours=lines(HEAD, OURS, left_out[0], after),
            peers=lines(PEERS_HEAD, PEER, wrong, PEER | {"keys": 4}, left_out[1]),
            clocks=CLOCKS,
        )
        run = read_file(ATTENTION, out)
        self.assertEqual((run.machine.card, run.machine.commit, run.machine.torch), ("Card of a test", "abc", "9.9"))
        self.assertEqual([line.system for line in run.lines], ["onekv", "SDPA", "SDPA"])
        self.assertEqual((run.left_out, run.copy_bytes_per_s_after, run.peers["PyTorch"].version), (2, 9e11, "9.9"))
        head, *told = map(json.loads, out.read_text().splitlines())
        self.assertNotIn("python", head["machine"])
        self.assertEqual([line["system"] for line in told if "suspect" in line], ["Other"])
        clock = {"kind": "clock", "seconds": 2.1, "sm_mhz": 1410.0, "memory_mhz": 2619.0, "watts": None, "celsius": 41.0}
        self.assertEqual(told[-1], clock)
        self.assertEqual(self.said, "out.jsonl: 4 lines, 0 of them errors, 1 suspect, 2 shapes left out\n")

    def test_what_was_stopped_keeps_its_whole_lines(self) -> None:
        cut = lines(HEAD, OURS, OURS | {"keys": 4})[:-20]
        run = read_file(ATTENTION, self.merged(ours=cut, peers=lines(PEERS_HEAD, PEER) + '{"system'))
        self.assertEqual([(line.system, line.keys) for line in run.lines], [("onekv", 3), ("SDPA", 3)])

    def test_without_ours_the_file_says_so(self) -> None:
        for ours in ("", json.dumps(HEAD)):
            with self.assertRaisesRegex(Refused, "line 1: nothing was measured: our benchmark left no results"):
                read_file(ATTENTION, self.merged(ours=ours, peers=lines(PEERS_HEAD, PEER)))

    def test_stages_tell_how_each_step_ended(self) -> None:
        logs = self.folder / "logs"
        logs.mkdir()
        (logs / "start.log").write_text("loading\nOwn: 8 rounds with equal bits\ntest result: ok. 3 passed\n")
        (logs / "ours.log").write_text("one\ntwo\nthree\nfour\n")
        steps = "start\tpassed\t0\t5\nours\tfailed\t1\t6\n"
        out = self.collect("stages", {"machine": json.dumps(MACHINE), "steps": steps}, "--logs", str(logs))
        head, *told = map(json.loads, out.read_text().splitlines())
        self.assertEqual(head, {"machine": MACHINE})
        self.assertEqual(told, [
            {"name": "start", "outcome": "passed", "status": 0, "seconds": 5, "detail": ["Own: 8 rounds with equal bits", "test result: ok. 3 passed"]},
            {"name": "ours", "outcome": "failed", "status": 1, "seconds": 6, "detail": ["two", "three", "four"]},
        ])  # fmt: skip


if __name__ == "__main__":
    unittest.main()
