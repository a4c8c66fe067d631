"""Pages of results that are made here hold what was measured, and the committed ones what results/ gives."""

import statistics
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import targets
from figure import Figure
from made_up import (
    BASE, COPIES, COPY, E4M3, GEMMA, LINES, PAGE, SDPA, attention, changed, costs, crossover, decoder_only, intensity, line,
    machine, method, on_cpu, ours, quality, report, sweep, t5, t5_line, text_of, training,
)  # fmt: skip
from page import number, row, short
from report import drawn, pages
from results import ATTENTION, read_lines
from sweep import Sweep

FILE = "made-up/attention-full.jsonl"


class Texts(unittest.TestCase):
    def holds(self, text, *parts):
        for part in parts:
            self.assertIn(part, text)


class Pages(Texts):
    def test_the_committed_pages(self):
        root = Path(__file__).parents[2]
        made = pages(root / "results")
        for path, text in made.items():
            if not isinstance(text, Figure):
                self.assertTrue((root / path).read_text() == text, f"{path} is stale; run `cargo xtask report`")
        self.assertEqual(set(drawn(root)) - set(made), set(), "of results that are gone; delete them")
        self.assertEqual({path for path in made if not (root / path).exists()}, set())

    def test_check_names_what_is_stale(self):
        with tempfile.TemporaryDirectory() as folder:

            def ran(*options):
                script = [sys.executable, "-B", Path(__file__).with_name("report.py"), "--root", folder]
                ended = subprocess.run([*script, *options], capture_output=True, text=True)
                return ended.returncode, ended.stdout + ended.stderr

            results = Path(folder) / "results/cpu"
            results.mkdir(parents=True)
            self.assertEqual(ran("--check"), (1, f"{PAGE} is not what results/ gives; run `cargo xtask report`\n"))
            self.assertFalse((Path(folder) / "docs").exists())
            self.assertEqual((ran(), ran("--check")), ((0, f"wrote {PAGE}\n"), (0, "")))
            (results / "old.svg").write_text("")
            self.assertEqual(ran("--check"), (1, "results/cpu/old.svg is of results that are gone; delete it\n"))
            (results / "t5.jsonl").write_text("{}\n")
            self.assertEqual(ran("--check"), (1, f"error: {results}/t5.jsonl: line 1: machine is missing\n"))

    def test_nothing_measured(self):
        page = report({})[PAGE]
        self.holds(page, "Nothing has been measured on a card yet", "cargo xtask gpu-kit")
        self.holds(page, "Nothing has been measured on a CPU yet: `cargo xtask peers cpu`")

    def test_numbers(self):
        shown = ["12346", "100.0", "1.00", "0.0123", "0.000000", "0.00"]
        self.assertEqual([short(value) for value in (12345.6, 99.96, 1, 0.0123456, 1e-9, 0)], shown)
        self.assertEqual((number(41.0), number(41), number(1.1)), ("41", "41", "1.1"))
        self.assertEqual(row(["a", "", None, 1]), "| a |  | | 1 |\n")


class Cards(Texts):
    def test_tables(self):
        shape = (8, 30, 512)
        lines = [ours(BASE, shape, 10.0), line(COPIES, "replicated", BASE, shape, 160.0)]
        lines += [line(E4M3, "e4m3", BASE, shape, 6.0), line("SDPA", "folded", BASE, shape, 25.0)]
        made = report({FILE: attention(lines)})
        # K, V: 2 x 8 x 512 x 768 x 2 bytes, Q and O 2 x 8 x 30 x 768 x 2: 13,320,192 bytes in 10 us are 1332 GB/s,
        # 33.3 % of 4 TB/s. 4 x 8 x 30 x 768 x 512 = 377,487,360 FLOP in 10 us are 37.7 TFLOPS. K and V in e4m3 are
        # 6,291,456 bytes and 96 of scales, with Q and O 7,028,832, in 6 us 29.3 %.
        cells = "| t5-base | 8 | 512 | 30 | 10.0 |  | 1332 | 33.3 % | 37.7 | 16.00x | 0.60x, 29.3 % | 2.50x |"
        self.holds(
            made[PAGE], cells, "moved 4000 GB/s", "an empty pair of kernels took 3.00 us", "## Made-up card of a test"
        )
        self.holds(made["results/made-up/attention-full.md"], cells)
        self.assertNotIn("Nothing has been measured on a card yet", made[PAGE])

    def test_every_figure_of_a_sweep(self):
        made = report({FILE: sweep()})
        names = {name: {s.name for panel in figure(made, name).panels for s in panel.series} for name in FIGURES}
        peers = {f"{SDPA}, folded", f"{SDPA}, expanded"}
        self.assertLessEqual({"onekv", E4M3} | peers, names["time"])
        self.assertEqual(names["peers"], peers | {"as long as ours"})
        self.assertIn("n = 2048", names["pid"] & names["flat"])
        for name in FIGURES:
            self.holds(made[PAGE], f"../results/made-up/attention-full-{name}.svg")
            self.holds(figure(made, name).source, "Made-up card of a test", "1999-12-31")
        # Two numbers of keys of two models and six of rows; every shape of ours.
        points = lambda name: sum(
            len(s.points) for p in figure(made, name).panels for s in p.series if s.name == "onekv"
        )
        self.assertEqual((points("time"), points("roofline")), (2 * 2 * 6, 2 * 2 * 4 * 6))

    def test_what_figures_of_a_sweep_show(self):
        file = sweep()
        lines = [at for at in file["lines"] if at["model"] == "t5-base"]
        us = {
            (at["system"], at["layout"], at["inputs"], at["keys"], at["rows"]): at["cold_us"]["median"] for at in lines
        }
        one, copies = ("onekv", "shared", 8), (COPIES, "replicated", 8)
        made = report({FILE: file})
        panels = {name: figure(made, name).panels[0] for name in FIGURES}
        drawn = {name: {of.name: dict(of.points) for of in panel.series} for name, panel in panels.items()}
        self.assertEqual(drawn["time"]["onekv"][30], us[(*one, 512, 30)])
        self.assertEqual(drawn["flat"]["n = 128"][64], us[(*one, 128, 64)] / us[(*one, 128, 1)])
        self.assertEqual(drawn["pid"]["n = 2048"][30], us[(*copies, 2048, 30)] / us[(*one, 2048, 30)])
        at_30 = [(b, n, 30) for b in (1, 8) for n in (128, 512, 2048, 4096)]
        ratios = [us[(SDPA, "folded", *at)] / us[("onekv", "shared", *at)] for at in at_30]
        self.assertAlmostEqual(drawn["peers"][f"{SDPA}, folded"][30], statistics.geometric_mean(ratios))
        spread = next(of.spread for of in panels["peers"].series if of.name == f"{SDPA}, folded")
        self.assertIn((30, min(ratios), max(ratios)), spread)
        # Operations for each byte, and their rate.
        first = next(at for at in lines if at["system"] == "onekv")
        rate = first["flops"] / first["cold_us"]["median"] * 1e-6
        self.assertEqual(panels["roofline"].series[0].points[0], (first["flops"] / first["bytes"], rate))
        looks = [of.look for of in panels["time"].measured]
        self.assertEqual(len(looks), len(set(looks)))

    def test_lines_without_a_time(self):
        shape = (8, 30, 512)
        failed = line("FA3", "folded", BASE, shape, 1.0) | {"error": "out of memory\nat some place"}
        wrong = line("Other", "folded", BASE, shape, 1.0) | {"mean_abs": 0.26}
        e4m3 = line(E4M3, "e4m3", BASE, shape, 6.0) | {"mean_abs": 0.24}
        copies = line(COPIES, "replicated", BASE, shape, 160.0) | {"mean_abs": 0.26}
        file = attention([ours(BASE, shape, 10.0), failed, wrong, e4m3, copies])
        file |= {
            "left_out": [{}],
            "peers": {"flashinfer": {"absent": "no wheel"}, "torch": {"version": "2.9.1", "more": 1}},
        }
        page = report({FILE: file})[PAGE]
        self.holds(page, "- flashinfer was not measured: no wheel\n- torch 2.9.1\n", "left out 1 more measurements")
        self.holds(page, "- FA3, folded: no time for 1 of its shapes: out of memory\n")
        for system in ("Other, folded", E4M3):
            self.holds(page, f"- {system}: no time for 1 of its shapes: left out: its output is not ours within 1 %\n")
        # Copies hold other numbers.
        self.holds(page, "| 16.00x |", "Every shape: time of the best peer over ours | >= 0.95x | no such case")

    def test_t5(self):
        lines = [t5_line("onekv, PID", 64, 0.020), t5_line("onekv, PID", 1, 0.016)]
        lines += [t5_line("HF, PIE", 64, 0.094), t5_line("HF, PIE", 1, 0.020)]
        lines += [t5_line("HF, encoded once and expanded", 64, 0.080)]
        lines += [t5_line("HF, encoded once and expanded, compiled", 64, 0.058)]
        page = report({FILE: attention([ours(BASE, (1, 1, 128), 5.0)]), "made-up/t5.jsonl": t5(lines)})[PAGE]
        # A step of 1 ms and 64 tokens; 3 GB at 4 TB/s take 0.75 ms.
        at = "(flan-t5-xl, U = 64, n = 512, 16 new tokens)"
        self.holds(page, f"| <= 1.50x | 1.33x {at} | pass |", f"| >= 50000 tokens/s | 64000 tokens/s {at} | pass |")
        self.holds(page, "same answers as on the CPU | yes | not recorded | not measured |")
        # U = 1 is not among U >= 8. The quicker of Hugging Face's two counts.
        self.holds(page, f"| >= 4.60x | 4.70x {at} | pass |", f"| >= 3.00x | 2.90x {at} | **miss** |")
        self.holds(page, "| flan-t5-xl | bf16 | 512 | 64 | 3 | 16 | HF, PIE | 0.0940 | 10894 | 6.00 | 4.70x |")
        slow = t5([t5_line("onekv, PID", 64, 0.030)])
        page = report({FILE: attention([ours(BASE, (1, 1, 128), 5.0)]), "made-up/t5.jsonl": slow})[PAGE]
        self.holds(
            page, f"| <= 1.50x | 2.00x {at} | **miss** |", f"| >= 50000 tokens/s | 42667 tokens/s {at} | **miss** |"
        )

    def test_from_where_pid_is_quicker(self):
        lines = []
        for prompts, pid, pie, copied in [(1, 12, 10, 12), (2, 13, 12, 13), (4, 14, 20, 16), (64, 20, 300, 50)]:
            for system, ms in [("onekv, PID", pid), ("onekv, PIE", pie), ("onekv, PID-replicated", copied)]:
                lines.append(t5_line(system, prompts, ms / 1000))
        made = report({"made-up/t5.jsonl": t5(lines)})
        self.holds(made[PAGE], "| flan-t5-xl, bf16, n = 512, 16 new tokens | 4, of those measured |")
        few = report({"made-up/t5.jsonl": t5([line for line in lines if line["prompts"] <= 2])})
        self.holds(few[PAGE], "16 new tokens | none up to 2 |")
        panel = made["results/made-up/t5-pid.svg"].panels[0]
        self.assertEqual({s.name: s.points[-1] for s in panel.series}["PIE"], (64, 15.0))

    def test_answers_that_differ(self):
        for told, cells in [
            (True, "yes | yes | pass |"), (False, "yes | no | **miss** |"),
            ("no CPU time left", "yes | no CPU time left | not measured |"),
        ]:  # fmt: skip
            file = t5([t5_line("onekv, PID", 4, 0.01)]) | {"same_answers_f32": told}
            self.holds(report({"made-up/t5.jsonl": file})[PAGE], f"same answers as on the CPU | {cells}")


FIGURES = ("roofline", "time", "flat", "pid", "peers")


def figure(made, name):
    return made[f"results/made-up/attention-full-{name}.svg"]


class Targets(unittest.TestCase):
    def judged(self, what, lines, card="NVIDIA H200"):
        """Verdict on the target whose description contains `what`, and what was measured."""
        made = targets.attention(Sweep(read_lines(ATTENTION, text_of(attention(lines, card)))))
        return next((verdict, measured) for name, _, measured, verdict in made if what in name)

    def test_both_sides_of_the_limit(self):
        large, many, wide = (32, 30, 2048), (8, 2048, 2048), ("wide", 16, 16, 128)
        llama = ("llama-3-8b", 32, 8, 128)
        at_part = lambda part: ours(BASE, large, 1)["bytes"] / (COPY * part) * 1e6
        at_tflops = lambda model, tflops: ours(model, many, ours(model, many, 1)["flops"] / tflops * 1e-6)
        beside = lambda shape, us: [
            ours(BASE, shape, 100.0), line(SDPA, "folded", BASE, shape, us), line("Flex", "folded", BASE, shape, 1e6),
        ]  # fmt: skip
        pie = lambda us: [ours(BASE, (8, 30, 512), 10.0), line(COPIES, "replicated", BASE, (8, 30, 512), us)]
        cases = [
            ("part of the copy's bandwidth", lambda part: [ours(BASE, large, at_part(part))], 0.901, 0.899,
             "89.9 % (t5-base, b = 32, U = 30, n = 2048)"),
            ("above an empty pair", lambda us: [ours(BASE, (1, 30, 512), 3 + us)], 1.49, 1.51,
             "1.51 us (t5-base, b = 1, U = 30, n = 512)"),
            ("U = 64 over", lambda us: [ours(BASE, (1, u, 512), us if u > 1 else 10.0) for u in (1, 64)], 11.4, 11.6,
             "1.16x"),
            ("U = 128 over", lambda us: [ours(BASE, (1, u, 512), us if u > 1 else 10.0) for u in (1, 128)], 13.9, 14.1,
             "1.41x"),
            ("head_dim 64: throughput", lambda t: [at_tflops(BASE, t)], 501, 499, "499 TFLOPS"),
            ("head_dim 128: throughput", lambda t: [at_tflops(wide, t)], 661, 659, "659 TFLOPS"),
            ("head_dim 256: throughput", lambda t: [at_tflops(GEMMA, t)], 721, 719, "719 TFLOPS"),
            ("Every shape: time of the best peer", lambda us: beside(large, us), 96, 94, "0.94x"),
            ("fewer heads in all", lambda us: beside((8, 16, 512), us), 151, 149, "1.49x"),
            ("a K/V per prompt (PIE)", pie, 150.1, 149.0, "14.90x"),
            ("an H200, U = 1:", lambda us: [ours(llama, (1, 1, 65536), us)], 79, 81, "2.47x"),
            ("an H200, U = 64 ..", lambda us: [ours(llama, (1, 256, 65536), us)], 399, 401, "0.95x"),
        ]  # fmt: skip
        for what, lines, good, bad, shown in cases:
            with self.subTest(what):
                self.assertEqual(self.judged(what, lines(good))[0], targets.PASS)
                missed, measured = self.judged(what, lines(bad))
                self.assertEqual(missed, targets.MISS)
                self.assertIn(shown, measured)
                elsewhere = [ours(("other", 3, 3, 32), (1, 7, 100_000), 1.0)]
                self.assertEqual(self.judged(what, elsewhere)[0], targets.NOT_MEASURED)

    def test_what_is_published_of_an_h200_is_for_an_h200(self):
        lines = [ours(("llama-3-8b", 32, 8, 128), (1, 1, 65536), 50.0)]
        self.assertEqual(self.judged("an H200, U = 1:", lines)[0], targets.PASS)
        self.assertEqual(self.judged("an H200, U = 1:", lines, "NVIDIA H100 PCIe")[0], targets.NOT_MEASURED)

    def test_a_small_case_is_judged_by_what_it_takes_alone(self):
        overlapped = ours(BASE, (1, 30, 512), 4.0) | {"alone_us": {"median": 4.6}}
        missed, measured = self.judged("above an empty pair", [overlapped])
        self.assertEqual((missed, measured[:7]), (targets.MISS, "1.60 us"))

    def test_the_worst_of_many_decides(self):
        shapes = zip([(8, 30, 4096), (32, 30, 2048), (32, 1, 2048)], [0.95, 0.85, 0.92])
        lines = [ours(BASE, shape, ours(BASE, shape, 1)["bytes"] / (COPY * part) * 1e6) for shape, part in shapes]
        worst = "worst of 3: 85.0 % (t5-base, b = 32, U = 30, n = 2048); 2 meet it"
        self.assertEqual(self.judged("part of the copy's bandwidth", lines), (targets.MISS, worst))

    def test_regret_is_of_the_chosen_plan_against_the_best(self):
        def lines(us):
            # The chosen plan's second time, 9 us, is noise and not a better plan.
            plans = [(64, True, 512, us), (64, False, 512, 9.0), (128, False, 512, 10.0), (256, False, 512, 30.0)]
            plans += [(64, True, 128, 5.0), (128, False, 128, 6.0)]
            return [
                ours(BASE, (1, 30, n), us) | {"split_keys": split, "chosen": chosen} for split, chosen, n, us in plans
            ]

        self.assertEqual(self.judged("mean regret", lines(11.2)), (targets.MISS, "6.0 % (2 shapes)"))
        self.assertEqual(self.judged("mean regret", lines(10.9))[0], targets.PASS)
        self.assertEqual(self.judged("regret of each shape", lines(11.9))[0], targets.PASS)
        worst = "worst of 2: 21.0 % (t5-base, b = 1, U = 30, n = 512); 1 meet it"
        self.assertEqual(self.judged("regret of each shape", lines(12.1)), (targets.MISS, worst))


class Crossovers(Texts):
    def page(self, file):
        return report({"cpu/crossover.jsonl": file})[PAGE]

    def test_they_lie_between_the_points_around_them(self):
        page = self.page(crossover())
        self.holds(page, "CPU of a test, 3 threads, 1999-12-31. t5-small, f32, ", "0.123 TFLOP/s and 45.6 GB/s")
        # By hand, on a straight line over the logarithm: 1 * 2^((1.1 - 0.9) / 0.5) = 1.3; 5 * 5^(0.1 / 0.2) = 11.2;
        # 40 * 4^(0.1 / 0.2).
        self.holds(page, "| from how many prompts U (n = 100, 10 new tokens) | 2 | 2 |")
        self.holds(page, "| from how many input tokens n (U = 2, 10 new tokens) | 12 | 9 |")
        self.holds(page, "| up to how many new tokens (U = 2, n = 100) | 80 | 77 |")
        self.holds(page, "| 1 | 100 | 10 | 0.500 | 0.450 | 0.90x | 1.00x |")

    def test_only_what_pays_from_there_on_counts(self):
        page = self.page(crossover(LINES + [(2, 50, 10, 1.0, 1.3), (2, 100, 20, 1.0, 1.25)]))
        # 50 * 2^(0.1 / 0.4), not 12; 10 * 2^(0.3 / 0.4), not 80.
        self.holds(page, "| from how many input tokens n (U = 2, 10 new tokens) | 60 |")
        self.holds(page, "| up to how many new tokens (U = 2, n = 100) | 16 |")

    def test_lines_without_one(self):
        scaled = lambda factor: self.page(crossover([(*at, gain * factor, model) for *at, gain, model in LINES]))
        self.holds(
            scaled(0.3), "U (n = 100, 10 new tokens) | none up to 4 |", "| none up to 400 |", "| not from 1 on |"
        )
        self.holds(scaled(3), "| at all from 1 on |", "| at all from 5 on |", "| at all up to 160 |")
        none = crossover() | {"predicted": crossover()["predicted"] | {"crossover": {}}}
        self.holds(self.page(none), "| 2 | at no number |", "| 80 | at every number |")
        self.holds(self.page(changed(none, ["predicted", "gain"], 1.05)), "| 80 | at no number |")

    def test_points_that_failed(self):
        failed = {"keys": 100, "prompts": 2, "new_tokens": 160, "error": "took too long"}
        page = self.page(changed(crossover(), ["lines", 8], failed) | {"left_out": [{}, {}]})
        self.holds(page, "onekv: no time for 1 of its shapes: took too long", "left out 2 more", "| at all up to 40 |")

    def test_the_figure_has_a_panel_per_line(self):
        made = report({"made-up/crossover.jsonl": crossover(by=machine("Card of a test"))})
        self.holds(made[PAGE], "## Card of a test", "../results/made-up/crossover.svg")
        panels = made["results/made-up/crossover.svg"].panels
        self.assertEqual([panel.x for panel in panels], ["prompts U", "input tokens n", "new tokens"])
        points = {series.name: series.points for series in panels[0].series}
        self.assertEqual(points["measured"], [(1, 0.9), (2, 1.4), (4, 2.4)])
        self.assertEqual(points["predicted"], [(1, 1.0), (2, 1.5), (4, 2.5)])


class Cpu(Texts):
    def test_every_system_is_shown(self):
        """Each has its column and curve, with its ratio of the same turns; without a time a gap and the reason."""

        def file(systems, shapes):
            lines = []
            for shape, rows, system in [(s, u, name) for s in shapes for u in (1, 256) for name in systems]:
                one = {"system": system, "rows": rows, "keys": 4096} | ({"shape": shape} if shape else {})
                failed = system.startswith("candle") and rows == 256
                one |= {"error": "too large"} if failed else {"median_s": 0.001 * rows}
                lines.append(
                    one | ({} if system == systems[0] else {"of_ours": {"median": 2.5, "min": 2.25, "max": 4.0}})
                )
            return on_cpu(lines)

        shorter = {"system": "onekv, bf16", "rows": 1, "keys": 128, "median_s": 0.001}
        shorter |= {"of_ours": {"median": 1.5, "min": 1.0, "max": 2.0}}
        of_attention = ["onekv", "onekv, bf16", "PyTorch SDPA, K/V expanded", "candle flash, K/V expanded"]
        of_t5 = ["onekv, PID", "candle, encodes once", "HF, PIE"]
        files = {"cpu/attention.jsonl": file(of_attention, [None]), "cpu/t5.jsonl": file(of_t5, ["t5-small", "t5-base"])}
        files["cpu/attention.jsonl"]["lines"].append(shorter)
        made = report(files)
        ratio = "2.50x, 2.25 to 4.00"
        self.holds(
            made[PAGE],
            f"| n | U | {' | '.join(of_attention)} |",
            "| 4096 | 1 | 1.00 |" + f" 1.00, {ratio} |" * 3,
            f"| 4096 | 256 | 256 | 256, {ratio} | 256, {ratio} |  |",
            # 4 x 256 x 4096 x 768 operations in 0.256 s, of 200 GFLOP/s: the mean of before and after.
            "| 4096 | 256 | 6 % | 6 % |",
            # At 4096 keys, and at 128, where bf16 takes half as long again.
            f"| U | {' | '.join(of_attention[1:])} |",
            "| 1 | 1.50 to 2.50x | 2.50 to 2.50x | 2.50 to 2.50x |",
            "| 256 | 2.50 to 2.50x | 2.50 to 2.50x |  |",
            f"| shape | n | U | {' | '.join(of_t5)} |",
            "| t5-small | 4096 | 1 | 0.00100 | 2.50x | 2.50x |",
            "| t5-base | 4096 | 256 | 0.256 |  | 2.50x |",
            "- torch 9.9: of no use",
            "- candle, encodes once: no time for 2 of its shapes: too large",
            "300 GFLOP/s before the measurement, 100 after it; a copy, read plus written: 40.0 and 40.0 GB/s.",
        )
        for name, systems, titles in [
            ("attention", of_attention, ["n = 4096", "n = 128"]), ("t5", of_t5, ["t5-small, n = 4096", "t5-base, n = 4096"]),
        ]:  # fmt: skip
            panels = made[f"results/cpu/{name}.svg"].panels
            self.assertEqual([panel.title for panel in panels], titles)
            self.assertEqual([series.name for series in panels[0].series], systems)


class Intensities(Texts):
    def test_counts_beside_the_model(self):
        made = report({"intensity.jsonl": intensity()})
        # 8000 FLOP over 16,000 bytes, over the model's 1900, and over 2000 where each counts once.
        self.holds(made[PAGE], "| 2 | 0.500 (4.21) | 0.500 (4.21) | 0.500 (4.21) | 4.00 |")
        self.holds(made[PAGE], "| virtual x | PIE | 2 | 0.00800 | 0.0150 | 0.00100 | 0.00200 |  | a, b |")
        # Behind a prefix: 2000 and 5000 bytes.
        self.holds(made[PAGE], "| 2 | 0.00200 (0.00190) | 0.00500 (0.00490) | 2.50x | 4.00 (4.21) | 1.60 (1.63) |")
        names = [series.name for series in made["results/intensity.svg"].panels[0].series]
        self.assertEqual(names, ["shared", "replicated", "PIE", "shared, each byte once"] + ["cost model"] * 3)


class Method(Texts):
    PAGE = "docs/method.md"

    def test_every_way_has_its_line(self):
        made = method(quality(), cost=costs(), decoder_only=decoder_only())
        text = made[self.PAGE]
        # Mean, least and most of the seeds; one value where they agree.
        self.holds(text, "| qa | PID | 2 | 85.0 % (80.0 to 90.0) | 50.0 % | 1.00 |\n")
        self.holds(text, "| qa | PIE | 1 | 100.0 % | 100.0 % | 3.50 |\n", '| qa | always "nothing" | | 25.0 % | | |\n')
        self.holds(
            text,
            "| order | one sequence | 1 | 75.0 % | 50.0 % | 0.900 |\n",
            "| order | one sequence, 300 steps | 1 | 100.0 % ",
        )
        self.holds(text, "### Order\n\nBroken: The task falls apart", '"place 1 ?" -- "here"')
        self.assertNotIn("### Counting", text)
        # Times of a turn go together.
        self.holds(
            text, "| qa, U = 8, n = 768 | PIE | 100.0 % | 20.0 (5.00x) | 2.00 (1.00x) | 6.00 (2.00x) | 3.00 (1.00x) |\n"
        )
        self.holds(text, "| HF, PIE | 5.00 s (2.50x) |  |\n")
        copies = "768 (1.00x) | 300 (15.0x) | 300 (15.0x) | 1.50 (1.00x) | 4.00 (4.00x) | 10.0 (1.00x) | 5.00 (1.00x)"
        self.holds(text, f"| copies | {copies} |\n")
        self.assertNotIn("and yet less time", text)
        slow = method(quality(), cost=changed(costs(), ["lines", 0, "seconds"], [4.0, 12.0, 18.0]))[
            self.PAGE
        ]
        self.holds(slow, "qa: by formula PIE takes more FLOPs than PID, and yet less time: 0.500x")
        # A loss that is 0 to four digits has a place in the figure.
        losses = made["results/method/learning.svg"].panels[0].series[0].points
        self.assertEqual(losses, [(50, 1.0), (100, 1e-4)])

    def test_what_was_not_measured(self):
        self.assertNotIn(self.PAGE, report({}))
        self.assertEqual(set(method(quality())), {PAGE, self.PAGE, "results/method/learning.svg"})

    def test_long_prompts(self):
        made = quality()
        made["tasks"]["long prompts"] = made["tasks"].pop("order")
        made["runs"] = [training("long prompts", "pid", accuracy=1.0)]
        self.holds(
            method(made)[self.PAGE], "| prompt tokens | U = 8: FLOPs, bytes |\n| --- | --- |\n| 4 | 0.250, 0.750 |\n"
        )

    def test_a_verdict_is_in_points_and_names_who_wins(self):
        def of(pid, pie, **more):
            made = quality()
            made["tasks"]["choice"] = made["tasks"]["order"]
            made["runs"] = [training("choice", "pid", joint=joint, in_order=0.5) for joint in pid]
            made["runs"] += [training("choice", "pie", joint=pie, in_order=0.5)] * 2
            made["runs"] += [training("choice", "one", **more)] if more else []
            return method(made)[self.PAGE]

        self.holds(of([0.1, 0.2], 0.9, joint=1.0), (
            "\n**PID loses by 75.0 points: 15.0 % against 90.0 %.** Otherwise: in one sequence 100.0 %, "
            "PID asked in order 50.0 %.\n"
        ))  # fmt: skip
        self.holds(of([0.95, 0.95], 0.9), "PID wins by 5.0 points: 95.0 % against 90.0 %")
        # A seed of one is as good as the other's; a seed alone says nothing.
        for pid, mean in [([0.5, 0.9], "70.0"), ([0.5], "50.0")]:
            self.holds(of(pid, 0.9), f"PID and PIE cannot be told apart: {mean} % against 90.0 %")

    def test_sizes_show_where_pid_loses(self):
        made = quality()
        order = made["tasks"]["order"]
        # By size, not by name.
        for name, value in [("order", 6), ("order of 2", 2), ("order of 12", 12)]:
            made["tasks"][name] = order | {"size": {"of": "order", "counts": "places", "value": value}}
        right = {
            "order of 12": ([0.25, 0.5], [0.75, 1.0]), "order": ([0.5, 0.5], [1.0, 1.0]),
            "order of 2": ([0.75, 1.0], [0.75, 1.0]),
        }  # fmt: skip
        made["runs"] = [
            training(task, way, accuracy=share)
            for task, both in right.items() for way, of in zip(("pid", "pie"), both) for share in of
        ]  # fmt: skip
        made["runs"] += [training("order", "marked", accuracy=0.5), training("order", "marked", 300, accuracy=1.0)]
        pages = method(made)
        self.holds(pages[self.PAGE], (
            "\n| places | steps | PID | PIE | PID, a mark before the input | PID |\n"
            "| --- | --- | --- | --- | --- | --- |\n"
            "| 2 | 100 | 75.0, 100.0 | 75.0, 100.0 |  |  |\n"
            "| 6 | 100 | 50.0, 50.0 | 100.0, 100.0 | 50.0 | loses by 50.0 points |\n"
            "| 6 | 300 |  |  | 100.0 |  |\n"
            "| 12 | 100 | 25.0, 50.0 | 75.0, 100.0 |  | loses by 50.0 points |\n"
        ))  # fmt: skip
        # None wrong has a place in the figure too.
        pid = pages["results/method/sizes.svg"].panels[0].series[0]
        self.assertEqual((pid.points[0], pid.spread[0]), ((2, 12.5), (2, 0.1, 25.0)))
        # One size is no sweep.
        made["tasks"].pop("order of 2"), made["tasks"].pop("order of 12")
        made["runs"] = [run for run in made["runs"] if run["task"] == "order"]
        pages = method(made)
        self.assertNotIn("By the number of", pages[self.PAGE])
        self.assertNotIn("results/method/sizes.svg", pages)
