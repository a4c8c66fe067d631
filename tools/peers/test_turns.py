"""How systems take turns, and what comes of one that fails: `python3 tools/peers/test_turns.py`.

It needs nothing but Python; `cargo test` runs it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import orders
from orders import Failed, Server
from results_file import Results, write_results
from turns import SYSTEMS, Point, Turns, lines_at, points, table, taken

PLACE = Point(None, 8, 128)


class Canned:
    """Answers in place of a server, the last again and again; whom it was asked for goes to `asked`."""

    def __init__(self, asked: list[str], **answers: list[object]) -> None:
        self.asked, self.answers = asked, answers

    def ask(self, system: str, **_: object) -> dict:
        self.asked.append(system)
        answers = self.answers[system]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return {"error": answer} if isinstance(answer, str) else {"seconds": answer}


def measure(rounds: int, **answers: list[object]) -> tuple[list[dict], str]:
    """Lines, and the turns that were taken; `a` is ours, others are a peer's."""
    asked: list[str] = []
    server = Canned(asked, **answers)
    systems = [("ours" if system == "a" else "peers", system) for system in answers]
    with contextlib.redirect_stderr(io.StringIO()):
        lines = lines_at({"ours": server, "peers": server}, systems, PLACE, rounds)
    return lines, "".join(asked)


class TurnsAreTaken(unittest.TestCase):
    def test_none_always_follows_the_same_other(self) -> None:
        _, asked = measure(3, a=[[1.0]], b=[[1.0]], c=[[1.0]])
        self.assertEqual(asked, "abccbaabc")

    def test_ratios_are_of_the_same_turn(self) -> None:
        """A machine that becomes half as fast from turn to turn leaves the ratio as it is."""
        ours = Turns([[1.0, 1.0, 9.0], [2.0], [4.0]])
        line = Turns([[3.0], [6.0, 0.5, 7.0], [14.0]]).outcome(ours)
        ratio = {"median": 3.0, "min": 3.0, "max": 3.5, "turns": 3}
        self.assertEqual(line, {"median_s": 6.0, "min_s": 0.5, "max_s": 14.0, "runs": 5, "of_ours": ratio})
        self.assertEqual(ours.outcome(ours), {"median_s": 2.0, "min_s": 1.0, "max_s": 9.0, "runs": 5})

    def test_of_an_even_number_the_upper_is_the_median(self) -> None:
        turns = Turns([[1.0, 1.0, 1.0], [4.0, 5.0]])
        self.assertEqual(turns.outcome(turns)["median_s"], 5.0)

    def test_a_slow_peer_has_no_more_turns(self) -> None:
        lines, asked = measure(4, a=[[1.0]], b=[[2.5, 2.0]], c=[[1.0]])
        self.assertEqual(asked, "abccbaacca")
        self.assertEqual([line["runs"] for line in lines], [4, 4, 4])

    def test_ours_goes_on_until_there_is_none_to_compare_with(self) -> None:
        lines, asked = measure(9, a=[[7.0]], b=[[3.5]])
        self.assertEqual(asked, "abba")
        self.assertEqual([line["median_s"] for line in lines], [7.0, 3.5])

    def test_a_peers_failure_is_its_line(self) -> None:
        lines, asked = measure(3, a=[[1.0]], b=[[1.0], "out of memory"], c=[[2.0]])
        self.assertEqual(asked, "abccbaac")
        self.assertEqual(lines[1], {"system": "b", "rows": 8, "keys": 128, "error": "out of memory"})
        self.assertEqual(lines[2]["of_ours"]["turns"], 3)

    def test_ours_must_not_fail(self) -> None:
        for answer in ("wrong", []):
            with self.assertRaisesRegex(Failed, "^a: "):
                measure(1, a=[answer], b=[[1.0]])
        with self.assertRaisesRegex(Failed, "^b: "):
            measure(1, a=[[1.0]], b=[[]])


class PointsAreChosen(unittest.TestCase):
    def test_points_are_those_that_were_asked_for(self) -> None:
        self.assertEqual(len(points("attention", [], [])), 9 * 4)
        self.assertEqual(points("attention", [8, 1, 3], [128]), [Point(None, 1, 128), Point(None, 8, 128)])
        shapes = [Point(shape, 30, 512) for shape in ("t5-small", "t5-base")]
        self.assertEqual(points("t5", [30], [512]), shapes)

    def test_candles_t5_is_measured_at_two_points(self) -> None:
        self.assertEqual([point[1:] for point in points("t5", [], []) if taken("candle", point)], [(8, 512), (30, 512)])
        self.assertTrue(all(taken("ours", point) for point in points("t5", [], [])))
        self.assertTrue(all(taken("candle", point) for point in points("attention", [], [])))

    def test_the_first_system_is_ours(self) -> None:
        self.assertEqual({systems[0][0] for systems in SYSTEMS.values()}, {"ours"})


class ServersAnswer(unittest.TestCase):
    def serve(self, answer: str) -> Server:
        server = Server("one", [sys.executable, "-c", f"import json, os, sys, time\nfor line in sys.stdin:\n {answer}"])
        self.addCleanup(server.__exit__)
        return server

    def test_an_order_has_an_answer(self) -> None:
        server = self.serve("print(json.dumps({'seconds': json.loads(line)}), flush=True)")
        self.assertEqual(server.ask("t5", rows=8), {"seconds": {"what": "t5", "rows": 8}})
        with self.assertRaisesRegex(Failed, "^one, asked for probe: {'seconds'"):
            server.told("probe")

    def test_one_that_ends_is_an_error(self) -> None:
        with self.assertRaisesRegex(Failed, "^one ended at {'what': 'probe'}$"):
            self.serve("sys.exit(3)").ask("probe")
        server = self.serve("pass")
        server.process.kill()
        server.process.wait()
        with self.assertRaisesRegex(Failed, "^one has ended"):
            server.ask("probe")

    def test_an_answer_is_an_object(self) -> None:
        for text in ("no", "3"):
            with self.assertRaisesRegex(Failed, f"^one answered {text}"):
                self.serve(f"print('{text}', flush=True)").ask("probe")

    def test_one_that_computes_on_is_an_error(self) -> None:
        server = self.serve("print('{}', flush=True)")
        server.ticks = itertools.count().__next__
        with mock.patch.object(orders, "LONGEST_SPIN_S", 0.1), self.assertRaisesRegex(Failed, "^one keeps computing"):
            server.ask("probe")

    def test_ticks_are_a_process_time(self) -> None:
        # The first is the program's own, the second mostly the kernel's.
        work = "while time.process_time() < 0.3: sum(range(100_000))\n while time.process_time() < 0.5: os.getppid()"
        server = self.serve(f"{work}\n print(json.dumps({{'seconds': sum(os.times()[:2])}}), flush=True)")
        seconds = server.ask("probe")["seconds"]
        self.assertAlmostEqual(server.ticks() / os.sysconf("SC_CLK_TCK"), seconds, delta=0.05)

    def test_a_program_that_is_not_there_is_an_error(self) -> None:
        with self.assertRaisesRegex(Failed, "^one: cannot run /no/such"):
            Server("one", ["/no/such"])


class TablesAreRead(unittest.TestCase):
    def test_a_line_says_how_many_times_as_long_as_ours(self) -> None:
        lines, _ = measure(1, a=[[0.002]], b=[[0.005, 0.005]], c=["out of memory"])
        self.assertEqual(
            table(lines).splitlines(),
            [
                "shape  keys  rows  system  median    runs  of ours  spread",
                "─" * 58,
                "       128   8     a       2.000 ms  1",
                "       128   8     b       5.000 ms  2     2.50x    2.50 to 2.50",
                "       128   8     c                                out of memory",
            ],
        )


class FilesAreWritten(unittest.TestCase):
    def test_lines_are_there_as_they_are_measured(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "some.jsonl"
            path.write_text("what an earlier run left\n")
            told = lambda: [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
            results = Results(path, {"machine": "a CPU"})
            self.assertEqual(told(), [{"machine": "a CPU"}])
            results.add({"seconds": 1.0}, {"error": "no\nroom: µ"})
            self.assertEqual(told()[1:], [{"seconds": 1.0}, {"error": "no\nroom: µ"}])
            self.assertIn("µ", path.read_text("utf-8"))
            results.leave_out({"keys": 8})
            self.assertEqual(told()[3:], [{"kind": "left out", "keys": 8}])
            with contextlib.redirect_stdout(io.StringIO()) as said:
                self.assertEqual(results.end(), 0)
                self.assertEqual(Results(path, {}).end(), 1)
            self.assertEqual(said.getvalue().splitlines()[0], "2 lines, 1 of them errors; 1 left out")

    def test_a_file_that_is_not_written_whole_is_the_one_of_before(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "some.jsonl"
            write_results(path, {"date": "µ"}, [{"seconds": 1.0}])
            self.assertEqual(path.read_text("utf-8"), '{"date": "µ"}\n{"seconds": 1.0}\n')

            def stopped():
                yield {"seconds": 2.0}
                raise KeyboardInterrupt

            with self.assertRaises(KeyboardInterrupt):
                write_results(path, {}, stopped())
            self.assertEqual(path.read_text("utf-8"), '{"date": "µ"}\n{"seconds": 1.0}\n')
            self.assertEqual(list(Path(folder).iterdir()), [path])

    def run_script(self, answers: dict) -> tuple[subprocess.CompletedProcess, Path]:
        """Of programs that answer the same to every order of a kind."""
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        folder = Path(temporary.name)
        for name in ("ours", "candle-t5"):
            program = folder / name
            program.write_text(
                f"#!{sys.executable}\nimport json, sys\nfor line in sys.stdin:\n"
                f" print(json.dumps({answers}[json.loads(line)['what']]), flush=True)\n"
            )
            program.chmod(0o755)
        out = folder / "attention.jsonl"
        options = ["--programs", folder, "--out", out, "--rounds", "1"]
        options += ["--rows", "8", "1", "--keys", "128"]
        script = [sys.executable, Path(__file__).with_name("turns.py"), "attention", *options]
        return subprocess.run(script, capture_output=True, text=True), out

    def test_a_file_has_ours_and_candles_lines(self) -> None:
        rates = {"fma_flops_per_s": 1e11, "copy_bytes_per_s": 1e10}
        ended, out = self.run_script({"probe": {"probe": rates}, "attention": {"seconds": [0.5]}})
        self.assertEqual(ended.returncode, 0, ended.stderr)
        head, before, *lines, after = map(json.loads, out.read_text().splitlines())
        self.assertEqual(list(head), ["machine", "threads", "date", "peers"])
        self.assertRegex(f"{head['machine']}; {head['threads']}; {head['date']}", r"^.+, \d+ cores; 2; \d{4}-\d\d-\d\d$")
        self.assertEqual(list(head["peers"]), ["candle"])
        self.assertEqual([before, after], [{"kind": "probe", **rates}] * 2)
        systems = [system for by, system in SYSTEMS["attention"] if by != "cpu.py"]
        told = [(line["rows"], line["keys"], line["system"], line["runs"]) for line in lines]
        self.assertEqual(told, [(rows, 128, system, 1) for rows in (1, 8) for system in systems])

    def test_what_fails_leaves_no_file(self) -> None:
        ended, out = self.run_script({"probe": {"error": "no clock"}})
        self.assertEqual((ended.returncode, out.exists()), (1, False))
        self.assertIn("error: ours, asked for probe: {'error': 'no clock'}", ended.stderr)


if __name__ == "__main__":
    unittest.main()
