"""What cannot be is refused, with file, line, field, value and what is allowed."""

import unittest

from made_up import (
    BASE, COPIES, COPY, E4M3, PAGE, attention, changed, costs, crossover, decoder_only, formula, intensity, line, machine,
    on_cpu, ours, quality, report, t5, t5_line, text_of,
)  # fmt: skip
from results import Refused

FILE = "made-up/attention-full.jsonl"


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
        good = attention([ours(BASE, (1, 1, 128), 5.0)]) | {"after": [{"copy_bytes_per_s": COPY}]}
        of_line = ("lines", 0)
        self.each(FILE, good, [
            ((*of_line, "cold_us", "median"), 0.0, "line 2: cold_us.median is 0.0, allowed: more than 0"),
            ((*of_line, "cold_us", "median"), -1, "line 2: cold_us.median is -1, allowed: more than 0"),
            ((*of_line, "cold_us", "median"), None, "line 2: cold_us.median is null, allowed: more than 0"),
            ((*of_line, "cold_us", "median"), "5", 'line 2: cold_us.median is "5", allowed: more than 0'),
            ((*of_line, "warm_us"), {"median": -2}, "line 2: warm_us.median is -2"),
            ((*of_line, "keys"), -3, "line 2: keys is -3, allowed: a whole number, 1 or more"),
            ((*of_line, "keys"), 3.5, "line 2: keys is 3.5, allowed: a whole number"),
            ((*of_line, "keys"), True, "line 2: keys is true, allowed: a whole number"),
            ((*of_line, "kv_heads"), 0, "line 2: kv_heads is 0, allowed: a whole number, 1 or more"),
            ((*of_line, "layout"), "upside down", 'line 2: layout is "upside down", allowed: shared, replicated, '),
            ((*of_line, "layout"), "folded", 'line 2: layout is folded of "onekv", allowed: "onekv" shared, '),
            ((*of_line, "layout"), "e4m3", 'line 2: layout is e4m3 of "onekv", allowed: '),
            ((*of_line, "system"), E4M3, f'line 2: layout is shared of "{E4M3}", allowed: '),
            ((*of_line, "system"), "SDPA", 'line 2: layout is shared of "SDPA", allowed: '),
            ((*of_line, "cold_us"), ..., "line 2: cold_us is missing, and there is no error to say why"),
            ((*of_line, "rows"), ..., "line 2: rows is missing"),
            ((*of_line, "kernel"), ..., "line 2: kernel is missing, and the line is ours"),
            ((*of_line, "mean_abs"), "x", 'line 2: mean_abs is "x", allowed: a number'),
            (("copy_bytes_per_s",), 0, "line 1: copy_bytes_per_s is 0, allowed: more than 0"),
            (("empty_pair_us", "median"), 0, "empty_pair_us.median is 0"),
            (("machine", "simulated"), True, "machine.simulated is true (Made-up card of a test)"),
            (("machine", "simulated"), ..., "machine.simulated is missing"),
            (("machine", "card"), 5, "machine.card is 5, allowed: a text"),
            (("sweep",), "other", "sweep is other, which belongs into attention-other.jsonl"),
            (("lines", 0), [], "line 2: all of it is [], allowed: an object"),
            (("lines", 0, "kind"), "other", 'line 2: kind is "other", allowed: none, left out, after, clock'),
            (("lines", 0, "kind"), [], "line 2: kind is [], allowed: a text"),
            (("after", 0, "copy_bytes_per_s"), 0, "line 3: copy_bytes_per_s is 0, allowed: more than 0"),
            (("peers",), {"torch": {"version": 2}}, "peers.torch.version is 2, allowed: a text"),
        ])  # fmt: skip
        again = attention([good["lines"][0]] * 2)
        self.refused(FILE, again, "line 3 measures onekv a second time: t5-base, b = 1, U = 1, n = 128")
        # Another plan is another measurement, and so is another system.
        other = changed(good["lines"][0], ["chosen"], False)
        report({FILE: attention([good["lines"][0], other, line(COPIES, "replicated", BASE, (1, 1, 128), 5.0)])})

    def test_what_is_no_json(self):
        good = text_of(attention([ours(BASE, (1, 1, 128), 5.0)]))
        self.refused(FILE, "{\n", "line 1: no JSON at column 2: Expecting property name")
        self.refused(FILE, good + "{}x\n", "line 3: no JSON at column 3: Extra data")
        self.refused(FILE, good + "\n", "line 3: no JSON at column 1: Expecting value")
        self.refused(FILE, good.replace("5.0", "NaN"), "NaN is no number")
        self.refused(FILE, good.replace("5.0", "1e999"), "line 2: cold_us.median is Infinity")
        self.refused(FILE, good.replace("5.0", "-1" + 400 * "0"), "line 2: cold_us.median is -1000")
        self.refused(FILE, good.replace('"sweep"', '"machine"'), "an object has a field twice")
        self.refused(FILE, "[]\n", "line 1: all of it is [], allowed: an object")
        self.refused(FILE, '{"machine": {}, "error": "no memory"}\n', "nothing was measured: no memory; delete the file")

    def test_lines_that_are_cut(self):
        """Whoever was stopped while a line was written left half of it, which may be JSON all the same."""
        good = text_of(attention([ours(BASE, (1, 1, 128), 5.0)]))
        ends = "allowed: a line feed at the end of every line"
        self.refused(FILE, good + '{"system"', r'line 3 is cut after "{\"system\"", ', ends)
        self.refused(FILE, good[:-1], "line 2 is cut after ", '\\"mean_abs\\": 0.25}", ', ends)
        self.refused(FILE, "", 'line 1 is cut after "", ', ends)
        # A line separator of Unicode parts no lines.
        failed = ours(BASE, (1, 1, 128), 5.0) | {"error": "one\u2028two"}
        self.assertIn("one\u2028two", text_of(attention([failed])))
        self.assertIn("one\u2028two", report({FILE: attention([failed])})[PAGE])

    def test_t5(self):
        good = t5([t5_line("onekv, PID", 4, 0.01)])
        self.each("made-up/t5.jsonl", good, [
            (("lines", 0, "prompts"), 0, "line 2: prompts is 0, allowed: a whole number, 1 or more"),
            (("lines", 0, "latency_s"), None, "line 2: latency_s is null, allowed: an object"),
            (("lines", 0, "latency_s"), ..., "line 2: latency_s is missing, and there is no error to say why"),
            (("lines", 0, "decode_step_median_s"), -1, "line 2: decode_step_median_s is -1, allowed: more than 0"),
            (("lines", 0, "keys"), "many", 'line 2: keys is "many", allowed: a whole number'),
            (("same_answers_f32",), 1, "same_answers_f32 is 1, allowed: true, false or a text"),
        ])  # fmt: skip
        self.refused("made-up/t5.jsonl", t5([good["lines"][0]] * 2), "line 3 measures onekv, PID a second time")

    def test_crossover(self):
        self.each("cpu/crossover.jsonl", crossover(), [
            (("lines", 1, "keys"), 0, "line 3: keys is 0, allowed: a whole number, 1 or more"),
            (("lines", 1, "pid_s"), ..., "line 3: pid_s is missing, and there is no error"),
            (("lines", 1, "pie_s", "min"), -1, "line 3: pie_s.min is -1, allowed: more than 0"),
            (("lines", 1, "predicted_gain"), 0, "line 3: predicted_gain is 0, allowed: more than 0"),
            (("lines", 1, "prompts"), 2, "line 3 measures onekv a second time: U = 2, n = 100, 10 new tokens"),
            (("predicted", "roofline"), None, "predicted.roofline is null, allowed: an object"),
            (("machine",), {}, "machine is {}, allowed: a text"),
        ])  # fmt: skip
        simulated = crossover(by=machine() | {"simulated": True})
        self.refused("made-up/crossover.jsonl", simulated, "machine.simulated is true")

    def test_cpu(self):
        self.each("cpu/t5.jsonl", on_cpu([{"system": "onekv", "rows": 1, "keys": 1, "median_s": 1.0}]), [
            (("lines", 0, "median_s"), 0.0, "line 2: median_s is 0.0, allowed: more than 0"),
            (("lines", 0, "median_s"), ..., "line 2: median_s is missing, and there is no error"),
            (("probes", 1, "copy_bytes_per_s"), 0, "line 4: copy_bytes_per_s is 0"),
            (("probes",), [], "lines of kind probe are 0, allowed: two"),
            (("peers", "torch", "note"), ..., "peers.torch.note is missing"),
        ])  # fmt: skip

    def test_intensity(self):
        behind_prefix = ("lines", 3)
        self.each("intensity.jsonl", intensity(), [
            (("lines", 0, "read_bytes"), 0, "line 2: read_bytes is 0"),
            (("lines", 0, "model_bytes"), ..., "line 2: model_bytes is missing"),
            (("lines", 0, "layout"), "copied", 'layout is "copied", allowed: shared, replicated, pie, prefix shared, '),
            (("lines", 0, "backend"), "virtual y", 'line 2: backend is "virtual y", allowed: virtual x'),
            (("lines", 0), ..., "virtual x lacks shared at 2"),
            (behind_prefix, ..., "virtual x lacks prefix shared at 2"),
            ((*behind_prefix, "read_bytes"), 0, "line 5: read_bytes is 0"),
            ((*behind_prefix, "distinct_bytes"), ..., "line 5: distinct_bytes is missing"),
            (("backends",), [], "backends is [], allowed: 1 or more of them"),
            (("lines",), [], "no line is of a point"),
        ])  # fmt: skip

    def test_method(self):
        self.each("method/cost.jsonl", costs(), [
            (("lines", 1, "seconds"), [1.0, 0.0], "line 3: seconds[1] is 0.0, allowed: more than 0"),
            (("lines", 1, "seconds"), [], "line 3: seconds is [], allowed: 1 or more"),
            (("lines", 1), ..., "qa lacks PIE"),
            (("lines", 1, "keys"), 5, "qa lacks PIE"),
            (("lines", 1, "way"), "PID", "line 3 measures PID a second time: qa"),
            (("lines",), [], "no line is of a way"),
        ])  # fmt: skip
        self.each("method/decoder-only.jsonl", decoder_only(), [
            (("lines", 1), ..., "no line is of mode copies"),
            (("lines", 1, "mode"), "other", 'line 3: mode is "other", allowed: shared, copies, recompute'),
        ])  # fmt: skip
        self.refused("method/quality.jsonl", changed(quality(), ["runs", 0, "held_out", "accuracy"], 90.0),
                     "line 4: held_out.accuracy is 90.0, allowed: 0 to 1")  # fmt: skip
        self.refused("method/quality.jsonl", changed(quality(), ["runs", 0, "task"], "other"), 'line 4: task is "other"')
        self.refused("method/quality.jsonl", changed(quality(), ["runs"], []), "no line is of a training")
        with self.assertRaisesRegex(Refused, "method/formula.jsonl is missing beside quality.jsonl"):
            report({"method/quality.jsonl": quality()})
        files, of = ["method/quality.jsonl", "method/formula.jsonl"], [quality(), formula(quality())]
        self.refused(files, changed(of, [1, "lines", 0, "pie"], ...), "pie is missing")
        self.refused(files, changed(of, [1, "lines", 0], ...), "no line is of qa")
        again = changed(of, [1, "lines", 1, "task"], "qa")
        self.refused(files, again, 'task is "qa", which further down has another line')

    def test_what_no_page_shows(self):
        row = {"package": "a", "version": "1", "kernel": "k", "card": "h200", "outcome": "right", "message": ""}
        self.each("ptxsim/peers.jsonl", {"date": "1999-12-31", "lines": [row]}, [
            (("date",), ..., "line 1: date is missing"),
            (("lines", 0, "outcome"), "none", 'line 2: outcome is "none", allowed: right, unsupported, wrong, blamed'),
        ])  # fmt: skip
        calls = {"name": "run", "old": "a", "new": "b", "events_tracked": False, "batch": 1, "ns_old": 5, "ns_new": 4}
        head = dict.fromkeys(["date", "machine", "driver", "commit_old", "commit_new", "statistic"], "made up")
        self.each("host-overhead.jsonl", head | {"lines": [calls]}, [
            (("statistic",), ..., "line 1: statistic is missing"),
            (("lines", 0, "ns_new"), 0, "line 2: ns_new is 0, allowed: more than 0"),
        ])  # fmt: skip

    def test_names(self):
        for name, says in [
            ("made-up/other.jsonl", "known names are attention-<sweep>.jsonl, crossover.jsonl, t5.jsonl"),
            ("cpu/other.jsonl", "known names are attention.jsonl, crossover.jsonl, t5.jsonl"),
            ("cpu/attention-full.jsonl", "known names are attention.jsonl, "),
            ("method/other.jsonl", "known names are cost.jsonl, decoder-only.jsonl, formula.jsonl, quality.jsonl"),
            ("ptxsim/other.jsonl", "known names are peers.jsonl"),
            ("reliability/other.jsonl", "known names are soak.jsonl, cards.jsonl, "),
            ("made-up/t5.json", "known names are attention-<sweep>.jsonl, "),
        ]:
            self.refused(name, {}, says)
        report({"made-up/stages.jsonl": {}, "reliability/onekv.cdx.json": {}})
        with self.assertRaisesRegex(
            Refused, "t5.jsonl: machine.card is another, but other files of its folder are of Made-up"
        ):
            other = changed(t5([]), ["machine", "card"], "another")
            report({FILE: attention([]), "made-up/t5.jsonl": other})
