"""What is read of libFuzzer, and where corpora are."""

import unittest

import fuzz
from common import ROOT, Failed
from results import FUZZED_FIELDS

LOG = """#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb
#500\tDONE   cov: 601 ft: 769 corp: 9/1198b lim: 151 exec/s: 250 rss: 29Mb
Done 500 runs in 2 second(s)
stat::number_of_executed_units: 500
stat::average_exec_per_sec:     250
stat::peak_rss_mb:              31
"""
FIGURES = dict(runs=500, seconds=2, coverage=601, features=769, corpus=9, corpus_bytes="1198b", peak_mb=31)


class Fuzz(unittest.TestCase):
    def test_figures_are_those_of_the_last_line(self):
        self.assertEqual(fuzz.figures_of(LOG), FIGURES)
        self.assertEqual(fuzz.figures_of(LOG.replace("INITED", "DONE  ")), FIGURES)
        self.assertIsNone(fuzz.figures_of("==1== ERROR: libFuzzer: deadly signal\n"))
        self.assertIsNone(fuzz.figures_of(LOG.replace("stat::peak_rss_mb", "stat::peak")))

    def test_a_record_has_the_figures_and_when(self):
        self.assertEqual({"target", *FIGURES, "date", "commit"}, set(FUZZED_FIELDS))
        said = "500 runs in 2 s, cov 601, ft 769, corpus 9 inputs of 1198b, peak 31 MB"
        self.assertEqual(fuzz.shown(FIGURES), said)

    def test_targets_have_a_corpus_each(self):
        for name in fuzz.targets(""):
            self.assertTrue((ROOT / "fuzz/corpus" / name).is_dir(), name)
        self.assertEqual(fuzz.targets("t5_"), ["t5_files", "t5_requests"])
        with self.assertRaisesRegex(Failed, "^--only is nothing, allowed: a part of c_api, "):
            fuzz.targets("nothing")


if __name__ == "__main__":
    unittest.main()
