"""Times on a card as benches/card takes them: graph replays queued back to back, medians of many."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

# One figure takes no longer than this, but for the least number of runs. As benches/card/timing.rs.
LONGEST_MS = 400.0
LEAST_RUNS = 5
# Least length of a graph replay, and what no launch undercuts. As benches/card/card.rs.
REPLAY_US = 1500.0


def micros(times: list[float]) -> dict:
    times = sorted(times)
    at = lambda part: times[round((len(times) - 1) * part)]
    return {"median": statistics.median(times), "p10": at(0.1), "p90": at(0.9), "runs": len(times)}


def floor_us(moved: int, flops: float) -> float:
    return 2.0 + max(moved / 8e6, flops / 1e9)


class Card:
    """Measures on the card."""

    simulated = False
    dtype = torch.bfloat16

    def __init__(self, runs: int) -> None:
        properties = torch.cuda.get_device_properties(0)
        self.device = torch.device("cuda")
        self.runs = runs
        self.name = properties.name
        self.multiprocessors = properties.multi_processor_count
        self.l2_bytes = getattr(properties, "L2_cache_size", 64 << 20)
        self.rotated_bytes = max(256 << 20, 4 * self.l2_bytes)
        self.most_bytes = min(16 << 30, torch.cuda.mem_get_info()[0] // 4)

    def graph(self, work: Callable[[int], object], sets: int, launches: int) -> tuple:
        """A graph of `work(set)` over the sets in turn. What the launches return stays in memory of its own as
        long as the graph: outputs rotate like the operands."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                work(0)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        outputs: list = [None] * sets
        with torch.cuda.graph(graph):
            for i in range(launches):
                outputs[i % sets] = work(i % sets)
        return graph, outputs

    def replay(self, graph: torch.cuda.CUDAGraph, launches: int) -> dict:
        event = lambda: torch.cuda.Event(enable_timing=True)
        start, end = event(), event()
        graph.replay()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        one_ms = max(start.elapsed_time(end), 1e-3)
        runs = min(max(int(LONGEST_MS / one_ms), min(LEAST_RUNS, self.runs)), self.runs)
        graph.replay()
        events = [event() for _ in range(runs + 1)]
        events[0].record()
        for after in events[1:]:
            graph.replay()
            after.record()
        events[-1].synchronize()
        return micros([a.elapsed_time(b) * 1e3 / launches for a, b in zip(events, events[1:])])

    def time(self, work: Callable[[int], object], sets: int, floor: float) -> tuple[dict, int]:
        """Times of one `work`, and how many a replay holds."""
        launches = sets * max(1, -int(-REPLAY_US // (floor * sets)))
        graph, outputs = self.graph(work, sets, launches)
        try:
            return self.replay(graph, launches), launches
        finally:
            graph.reset()
            del outputs

    def copy_bytes_per_s(self) -> float:
        size = 1 << 30
        a = torch.randint(0, 255, (size,), dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        for _ in range(400):
            b.copy_(a)
        times, _ = self.time(lambda _: b.copy_(a), 1, 500.0)
        return 2 * size / (times["median"] * 1e-6)

    def settle(self) -> None:
        """Raises what a launch did wrong; gives freed memory back."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


class Dry:
    """Runs everything once on the CPU, in place of a card. Its times are no times."""

    simulated = True
    # Triton's interpreter multiplies no bf16.
    dtype = torch.float16
    name = "dry run"
    multiprocessors = 4
    l2_bytes = 0
    rotated_bytes = 1 << 20
    most_bytes = 1 << 28
    device = torch.device("cpu")

    def time(self, work: Callable[[int], object], sets: int, floor: float) -> tuple[dict, int]:
        for i in range(sets):
            work(i)
        return micros([1.0]), sets

    def copy_bytes_per_s(self) -> float:
        return 1e12

    def settle(self) -> None:
        pass
