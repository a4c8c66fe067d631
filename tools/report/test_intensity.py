"""The committed counts are what the paper says: more FLOP per byte where prompts share, and not where they do not."""

import unittest
from itertools import pairwise
from pathlib import Path

from results import INTENSITY, PREFIX, STEP, read_file

PROMPTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Committed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.counts = read_file(INTENSITY, Path(__file__).parents[2] / "results/intensity.jsonl")
        cls.cards = cls.counts.backends[1:]

    def test_every_backend_has_every_point(self):
        """The reader wants all prompts that any has."""
        of = [(backend.name, backend.dtype, backend.has_prefix) for backend in self.counts.backends]
        self.assertEqual(of, [("CPU", "f32", False), ("virtual h200", "bf16", True), ("virtual a100", "bf16", True)])
        self.assertEqual({line.prompts for line in self.counts.lines}, set(PROMPTS))

    def test_intensity_rises_with_prompts_that_share_and_with_no_others(self):
        """Bytes of memory: 0.7 to 1.02 times as many FLOP for each as in the model, which has no partial results; and
        without sharing, where they are few, 0.9 to 1.02."""
        for backend in self.counts.backends:

            def counted(layout, prompts, backend=backend):
                point = backend.at[layout, prompts]
                return point.once or point.intensity

            for layout, prompts in backend.at:
                if layout in STEP:
                    of_model = counted(layout, prompts) / backend.at[layout, prompts].of_model
                    least = 0.7 if layout == "shared" else 0.9
                    self.assertTrue(least <= of_model < 1.02, (backend.name, layout, prompts, of_model))
            self.assertGreater(counted("shared", 64) / counted("replicated", 64), 20, backend.name)

    def test_cards_are_asked_for_k_and_v_once_per_tile(self):
        """What multiprocessors ask for is no less than what there is, and at most K and V for each 16 rows."""
        for line in (line for card in self.cards for (layout, _), line in card.at.items() if layout in STEP):
            once, asked = line.distinct_bytes, line.read_bytes + line.written_bytes
            # Every block that shares out a head's keys asks for Q, and for the lists.
            most = 1.15 * once * -(-line.prompts // 16)
            self.assertTrue(0.99 * once <= asked < most, line)
            self.assertGreaterEqual(line.tensor_flops, line.flops, line)

    def test_behind_a_prefix_what_is_shared_is_merged(self):
        decoder = self.counts.decoder_only
        shape = (decoder.heads, decoder.kv_heads, decoder.head_dim, decoder.prefix_keys, decoder.suffix_keys)
        self.assertEqual(shape, (32, 8, 64, 512, 32))
        for line in (line for card in self.cards for (layout, _), line in card.at.items() if layout in PREFIX):
            rows = line.prompts
            documents = 1 if line.layout == "prefix shared" else rows
            self.assertEqual(line.flops, 4 * rows * (512 + 32) * 32 * 64, line)
            kv = 2 * (documents * 512 + rows * 32) * 8 * 64
            self.assertEqual(line.model_bytes, 2 * (kv + 2 * rows * 32 * 64), line)
            # Splits of a launch are joined by a kernel of its own.
            merges, joins = (sum(what in kernel for kernel in line.kernels) for what in ("merge", "combine"))
            launches = (len(line.kernels) - merges - joins, merges)
            self.assertEqual(launches, (2, 1) if line.layout == "prefix shared" else (1, 0), line)

    def test_a_shared_prefix_is_read_once(self):
        """What is touched is no less than K, V, Q and the output, by what there is of partial results more."""
        for card in self.cards:
            for (layout, prompts), line in card.at.items():
                if layout in PREFIX:
                    most = 1.8 if layout == "prefix shared" else 1.15
                    of_model = line.distinct_bytes / line.model_bytes
                    self.assertTrue(0.99 <= of_model < most, (card.name, layout, prompts, of_model))
            once = {layout: [card.at[layout, u].distinct_bytes for u in PROMPTS] for layout in PREFIX}
            gains = [copied / shared for shared, copied in zip(once["prefix shared"], once["prefix copied"])]
            # One has nothing to share; with many, the suffixes are what is left, and the gain is at most 544 / 32.
            self.assertTrue(0.9 <= gains[0] < 1.2 and 8 <= gains[-1] < 17, (card.name, gains))
            self.assertTrue(all(few < more for few, more in pairwise(gains)), (card.name, gains))


if __name__ == "__main__":
    unittest.main()
