"""Plans of ours are read of results, each with its shape, and nothing else is."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from lines import plans, tasks
from made_up import BASE, COPIES, E4M3, GEMMA, SDPA, attention, line, machine, ours, quality, t5, text_of

SCRIPT = Path(__file__).with_name("lines.py")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text_of(content))
    return path


class Lines(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.file = self.folder / "a-card/attention-full.jsonl"

    def read(self, *lines):
        return [(line["model"], line["rows"], line["e4m3_kv"], line["us"]) for line in self.plans(*lines)]

    def plans(self, *lines):
        return list(plans(write(self.file, attention(lines))))

    def test_a_plan(self):
        (plan,) = self.plans(ours(GEMMA, (2, 3, 16), 5.0) | {"split_cluster": 2, "chosen": False})
        expected = {
            "file": str(self.file), "folder": "a-card", "sweep": "full", "card": "Made-up card of a test",
            "compute_capability": "9.0", "multiprocessors": 132, "date": "1999-12-31", "model": "t5gemma-2b", "heads": 8,
            "kv_heads": 4, "head_dim": 256, "inputs": 2, "rows": 3, "keys": 16, "e4m3_kv": False,
            "kernel": "onekv_bf16_64_16", "split_keys": 64, "split_cluster": 2, "tile_rows": 16, "by_cost": False,
            "us": 5.0,
        }  # fmt: skip
        self.assertEqual(plan, expected)

    def test_plans_of_a_shape_stand_together(self):
        shape, other = (1, 8, 16), (1, 4, 16)
        read = self.read(
            ours(BASE, shape, 1.0), line(E4M3, "e4m3", BASE, shape, 2.0), ours(GEMMA, shape, 3.0),
            ours(BASE, shape, 0.5) | {"chosen": False}, ours(BASE, other, 4.0),
        )  # fmt: skip
        base = [("t5-base", 4, False, 4.0), *[("t5-base", 8, False, us) for us in (1.0, 0.5)]]
        self.assertEqual(read, [*base, ("t5-base", 8, True, 2.0), ("t5gemma-2b", 8, False, 3.0)])

    def test_what_is_not_ours_or_not_right_is_left_out(self):
        of = lambda system, layout, mean=0.25: line(system, layout, BASE, (1, 8, 16), 2.0) | {"mean_abs": mean}
        failed = ours(BASE, (1, 4, 16), 1.0) | {"error": "out of memory"}
        mine = ("t5-base", 8, False, 2.0)
        for e4m3, read in ((0.2524, [mine, ("t5-base", 8, True, 2.0)]), (0.2526, [mine])):
            others = of(COPIES, "replicated"), of(SDPA, "folded"), of(SDPA, "expanded"), failed
            self.assertEqual(self.read(of("onekv", "shared"), *others, of(E4M3, "e4m3", e4m3)), read)

    def test_of_a_folder_the_sweeps_of_cards(self):
        for card in ("b-card", "a-card"):
            write(self.folder / card / "attention-full.jsonl", attention([ours(BASE, (1, 8, 16), 1.0)]))
        write(self.folder / "a-card/t5.jsonl", t5([]))
        self.assertEqual([plan["folder"] for plan in plans(self.folder)], ["a-card", "b-card"])

    def test_tasks(self):
        lengths = {"prompts": 3, "input_tokens": 40.5, "prompt_tokens": 2.0, "new_tokens": 1.5}
        read = list(tasks(write(self.folder / "quality.jsonl", quality())))
        self.assertEqual(read, [{"task": task} | lengths for task in ("order", "qa")])

    def test_what_is_refused_is_said(self):
        simulated = attention([]) | {"machine": machine() | {"simulated": True}}
        run = subprocess.run([sys.executable, "-B", SCRIPT, "plans", write(self.file, simulated)], capture_output=True)
        self.assertTrue(run.stderr.decode().startswith(f"{self.file}: "))
        self.assertIn("machine.simulated is true", run.stderr.decode())
        self.assertEqual(run.returncode, 1)


if __name__ == "__main__":
    unittest.main()
