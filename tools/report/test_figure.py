"""What a figure holds and refuses, without drawing it."""

import math
import unittest

from figure import RULE, Figure, Panel, Series, label, spaced


class Figures(unittest.TestCase):
    def test_what_a_logarithm_has_no_place_for_is_refused(self):
        for bad in (0, -1.0, math.nan, math.inf):
            for series in (
                Series("s", [(1, bad)]),
                Series("s", [(bad, 1)]),
                Series("s", [(1, 1)], spread=[(1, bad, 2)]),
                Series("s", [(1, 1)], spread=[(1, 2, bad)]),
            ):
                with self.assertRaisesRegex(ValueError, '"panel" has a point at .*, allowed: more than 0'):
                    Panel("panel", "x", "y", [series])

    def test_what_shows_nothing_is_left_out(self):
        rule = Series("rule", [(1, 1)], kind=RULE)
        panels = [Panel("a", "x", "y", [Series("s", [(1, 2)]), Series("none", []), rule]), Panel("b", "x", "y", [rule])]
        made = Figure("f", "no machine", panels, 3)
        self.assertEqual(([panel.title for panel in made.panels], made.columns), (["a"], 1))
        self.assertEqual([series.name for series in made.panels[0].series], ["s", "rule"])
        self.assertEqual(Figure("f", "no machine", panels[1:]).panels, [])

    def test_ticks(self):
        ticks = [1, 4, 8, 16, 30, 64, 128, 2048]
        self.assertEqual(spaced(ticks + ticks[::-1]), ticks)
        self.assertEqual(spaced([1, 1.1, 1000]), [1, 1000])
        self.assertEqual([label(value) for value in (0.05, 1500.0, 2e6)], ["0.05", "1500", "2e6"])
