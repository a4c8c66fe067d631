"""What cannot be is refused, with file, field, value and what is allowed."""

import json
import unittest

from made_up import (
    BASE, COPIES, E4M3, attention, changed, costs, crossover, decoder_only, formula, intensity, line, machine, on_cpu,
    ours,
    quality, report, t5, t5_line,
)  # fmt: skip
from results import Refused

FILE = "made-up/attention-full.json"


class Files(unittest.TestCase):
    def refused(self, file, content, *says):
        with self.assertRaises(Refused) as error:
            report({file: content} if isinstance(file, str) else dict(zip(file, content)))
        for words in (file if isinstance(file, str) else file[-1], *says):
            self.assertIn(words, str(error.exception))

    def each(self, file, good, cases):
        report({file: good} if isinstance(file, str) else dict(zip(file, good)))
        for path, value, says in cases:
            with self.subTest(says):
                self.refused(file, changed(good, path, value), says)

    def test_attention(self):
        good = attention([ours(BASE, (1, 1, 128), 5.0)])
        of_line = ("lines", 0)
        self.each(FILE, good, [
            ((*of_line, "cold_us", "median"), 0.0, "lines[0].cold_us.median is 0.0, allowed: more than 0"),
            ((*of_line, "cold_us", "median"), -1, "lines[0].cold_us.median is -1, allowed: more than 0"),
            ((*of_line, "cold_us", "median"), None, "lines[0].cold_us.median is null, allowed: more than 0"),
            ((*of_line, "cold_us", "median"), "5", 'lines[0].cold_us.median is "5", allowed: more than 0'),
            ((*of_line, "warm_us"), {"median": -2}, "lines[0].warm_us.median is -2"),
            ((*of_line, "keys"), -3, "lines[0].keys is -3, allowed: a whole number, 1 or more"),
            ((*of_line, "keys"), 3.5, "lines[0].keys is 3.5, allowed: a whole number"),
            ((*of_line, "keys"), True, "lines[0].keys is true, allowed: a whole number"),
            ((*of_line, "kv_heads"), 0, "lines[0].kv_heads is 0, allowed: a whole number, 1 or more"),
            ((*of_line, "layout"), "upside down", 'lines[0].layout is "upside down", allowed: shared, replicated, '),
            ((*of_line, "layout"), "folded", 'lines[0].layout is folded of "onekv", allowed: "onekv" shared, '),
            ((*of_line, "layout"), "e4m3", 'lines[0].layout is e4m3 of "onekv", allowed: '),
            ((*of_line, "system"), E4M3, f'lines[0].layout is shared of "{E4M3}", allowed: '),
            ((*of_line, "system"), "SDPA", 'lines[0].layout is shared of "SDPA", allowed: '),
            ((*of_line, "cold_us"), ..., "lines[0].cold_us is missing, and there is no error to say why"),
            ((*of_line, "rows"), ..., "lines[0].rows is missing"),
            ((*of_line, "kernel"), ..., "lines[0].kernel is missing, and the line is ours"),
            ((*of_line, "mean_abs"), "x", 'lines[0].mean_abs is "x", allowed: a number'),
            (("copy_bytes_per_s",), 0, "copy_bytes_per_s is 0, allowed: more than 0"),
            (("empty_pair_us", "median"), 0, "empty_pair_us.median is 0"),
            (("machine", "simulated"), True, "machine.simulated is true (Made-up card of a test)"),
            (("machine", "simulated"), ..., "machine.simulated is missing"),
            (("machine", "card"), 5, "machine.card is 5, allowed: a text"),
            (("sweep",), "other", "sweep is other, which belongs into attention-other.json"),
            (("lines",), ..., "lines is missing"),
            (("lines",), {}, "lines is {}, allowed: a list"),
            (("peers",), {"torch": {"version": 2}}, "peers.torch.version is 2, allowed: a text"),
        ])  # fmt: skip
        again = attention([good["lines"][0]] * 2)
        self.refused(FILE, again, "lines[1] measures onekv a second time: t5-base, b = 1, U = 1, n = 128")
        # Another plan is another measurement, and so is another system.
        other = changed(good["lines"][0], ["chosen"], False)
        report({FILE: attention([good["lines"][0], other, line(COPIES, "replicated", BASE, (1, 1, 128), 5.0)])})

    def test_what_is_no_json(self):
        good = json.dumps(attention([ours(BASE, (1, 1, 128), 5.0)]))
        self.refused(FILE, "{", "Expecting property name")
        self.refused(FILE, good + "x", "Extra data")
        self.refused(FILE, good.replace("5.0", "NaN"), "NaN is no number")
        self.refused(FILE, good.replace("5.0", "1e999"), "lines[0].cold_us.median is Infinity")
        self.refused(FILE, good.replace("5.0", "-1" + 400 * "0"), "lines[0].cold_us.median is -1000")
        self.refused(FILE, good.replace('"sweep"', '"machine"'), "an object has a field twice")
        self.refused(FILE, "[]", "the file is [], allowed: an object")
        self.refused(FILE, '{"machine": {}, "error": "no memory"}', "nothing was measured: no memory; delete the file")

    def test_t5(self):
        good = t5([t5_line("onekv, PID", 4, 0.01)])
        self.each("made-up/t5.json", good, [
            (("lines", 0, "prompts"), 0, "lines[0].prompts is 0, allowed: a whole number, 1 or more"),
            (("lines", 0, "latency_s"), None, "lines[0].latency_s is null, allowed: an object"),
            (("lines", 0, "latency_s"), ..., "lines[0].latency_s is missing, and there is no error to say why"),
            (("lines", 0, "decode_step_median_s"), -1, "lines[0].decode_step_median_s is -1, allowed: more than 0"),
            (("lines", 0, "keys"), "many", 'lines[0].keys is "many", allowed: a whole number'),
            (("same_answers_f32",), 1, "same_answers_f32 is 1, allowed: true, false or a text"),
        ])  # fmt: skip
        self.refused("made-up/t5.json", t5([good["lines"][0]] * 2), "lines[1] measures onekv, PID a second time")

    def test_crossover(self):
        self.each("cpu/crossover.json", crossover(), [
            (("lines", 1, "keys"), 0, "lines[1].keys is 0, allowed: a whole number, 1 or more"),
            (("lines", 1, "pid_s"), ..., "lines[1].pid_s is missing, and there is no error"),
            (("lines", 1, "pie_s", "min"), -1, "lines[1].pie_s.min is -1, allowed: more than 0"),
            (("lines", 1, "predicted_gain"), 0, "lines[1].predicted_gain is 0, allowed: more than 0"),
            (("lines", 1, "prompts"), 2, "lines[1] measures onekv a second time: U = 2, n = 100, 10 new tokens"),
            (("predicted", "roofline"), None, "predicted.roofline is null, allowed: an object"),
            (("machine",), {}, "machine is {}, allowed: a text"),
        ])  # fmt: skip
        simulated = crossover(by=machine() | {"simulated": True})
        self.refused("made-up/crossover.json", simulated, "machine.simulated is true")

    def test_cpu(self):
        self.each("cpu/t5.json", on_cpu([{"system": "onekv", "rows": 1, "keys": 1, "median_s": 1.0}]), [
            (("lines", 0, "median_s"), 0.0, "lines[0].median_s is 0.0, allowed: more than 0"),
            (("lines", 0, "median_s"), ..., "lines[0].median_s is missing, and there is no error"),
            (("probes", 1, "copy_bytes_per_s"), 0, "probes[1].copy_bytes_per_s is 0"),
            (("probes",), [], "probes has 0, allowed: two"),
            (("peers", "torch", "note"), ..., "peers.torch.note is missing"),
        ])  # fmt: skip

    def test_intensity(self):
        behind_prefix = ("lines", 3)
        self.each("intensity.jsonl", intensity(), [
            (("lines", 0, "read_bytes"), 0, "lines[0].read_bytes is 0"),
            (("lines", 0, "model_bytes"), ..., "lines[0].model_bytes is missing"),
            (("lines", 0, "layout"), "copied", 'layout is "copied", allowed: shared, replicated, pie, prefix shared, '),
            (("lines", 0, "backend"), "virtual y", 'lines[0].backend is "virtual y", allowed: virtual x'),
            (("lines", 0), ..., "virtual x lacks shared at 2"),
            (behind_prefix, ..., "virtual x lacks prefix shared at 2"),
            ((*behind_prefix, "read_bytes"), 0, "lines[3].read_bytes is 0"),
            ((*behind_prefix, "distinct_bytes"), ..., "lines[3].distinct_bytes is missing"),
            (("backends",), [], "backends is [], allowed: 1 or more of them"),
            (("lines",), [], "lines is [], allowed: 1 or more of them"),
        ])  # fmt: skip

    def test_method(self):
        self.each("method/cost.json", costs(), [
            (("tasks", 0, "ways", 1, "seconds"), [1.0, 0.0], "ways[1].seconds[1] is 0.0, allowed: more than 0"),
            (("tasks", 0, "ways", 1, "seconds"), [], "tasks[0].ways[1].seconds is [], allowed: 1 or more"),
            (("tasks", 0, "ways", 1), ..., "tasks[0].ways: qa lacks PIE"),
        ])  # fmt: skip
        modes = [(("modes", "copies"), [], "modes.copies is [], allowed: 1 or more of them")]
        self.each("method/decoder-only.json", decoder_only(), modes)
        self.refused("method/quality.json", changed(quality(), ["runs", 0, "held_out", "accuracy"], 90.0),
                     "runs[0].held_out.accuracy is 90.0, allowed: 0 to 1")  # fmt: skip
        self.refused("method/quality.json", changed(quality(), ["runs", 0, "task"], "other"), 'runs[0].task is "other"')
        with self.assertRaisesRegex(Refused, "method/formula.json is missing beside quality.json"):
            report({"method/quality.json": quality()})
        files, of = ["method/quality.json", "method/formula.json"], [quality(), formula(quality())]
        self.refused(files, changed(of, [1, "tasks", "qa", "pie"], ...), "tasks.qa.pie is missing")
        self.refused(files, changed(of, [1, "tasks", "qa"], ...), "tasks lacks qa")

    def test_names(self):
        for name, says in [
            ("made-up/other.json", "known names are attention-<sweep>.json, crossover.json, t5.json"),
            ("cpu/other.json", "known names are attention.json, crossover.json, t5.json"),
            ("cpu/attention-full.json", "known names are attention.json, "),
            ("method/other.json", "known names are cost.json, decoder-only.json, formula.json, quality.json"),
            ("ptxsim/other.json", "known names are peers.json"),
        ]:
            self.refused(name, {}, says)
        report({"made-up/stages.json": {}, "reliability/any.json": {}, "ptxsim/peers.json": {}})
        with self.assertRaisesRegex(
            Refused, "t5.json: machine.card is another, but other files of its folder are of Made-up"
        ):
            other = changed(t5([]), ["machine", "card"], "another")
            report({FILE: attention([]), "made-up/t5.json": other})
