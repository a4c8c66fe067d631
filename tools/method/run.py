"""Trains and evaluates every tiny T5 of docs/method.md, and writes what they answer to a results file.

Each run is kept in --work as it ends: what is there is not run again, so a stopped run goes on where it was. All of it takes
under two hours of two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "peers"))

from evaluate import EXAMPLES as EVALUATED
from evaluate import always_nothing, evaluate
from results_file import today, write_results
from tasks import RESIZED, TASKS
from train import EXAMPLES, PROMPTS, Run, train
from words import vocabulary

# Of a training, the same for every way.
STEPS = {"dialogue": 1500, "long dialogues": 1500, "qa": 800, "choice": 1000, "long prompts": 1000}
OTHER_STEPS = 600
PAPERS = ["dialogue", "qa", "summary"]
BOTH = ["pie", "pid"]
# How many trainings a task has in a way.
SEEDS = {(task, way): 2 for way in BOTH for task in TASKS}
SEEDS |= {(task, way): 3 for way in BOTH for task in [*PAPERS, "long prompts"]}
SEEDS |= {(task, way): 1 for way in BOTH for task in ["long dialogues", "one line of 56"]}
# Whether a training learns to count places is luck: of few seeds nothing is to be seen.
SEEDS |= {(f"order of {places}", way): 4 for places in (2, 3, 4) for way in ("pid", "marked")}
SEEDS |= {(task, "one"): 1 for task in [*PAPERS, "choice", "order"]}
SEEDS |= dict.fromkeys([("summary", "decoders"), ("qa", "unmarked"), ("counting", "marked"), ("order", "marked")], 1)
# Trained once so many times as long: slower than the other, or unable?
LONGER = {
    ("long dialogues", "pie"): 2,
    **{("counting of 20", way): 3 for way in BOTH},
    **{("order", way): 3 for way in ("pid", "marked")},
}


def runs(share: float) -> list[Run]:
    """Longest first; then all with one seed before the next."""
    steps = lambda task: int(share * STEPS.get(task, OTHER_STEPS))
    longer = [Run(task, way, 1, times * steps(task)) for (task, way), times in LONGER.items()]
    seeds = range(1, max(SEEDS.values()) + 1)
    return longer + [Run(*of, seed, steps(of[0])) for seed in seeds for of, count in SEEDS.items() if seed <= count]


def finish(run: Run, folder: Path) -> dict:
    """The figures of a run, from its file if there is one."""
    path = folder / f"{run.name}.json"
    if not path.exists():
        tokenizer = vocabulary()
        model, figures = train(run, tokenizer, lambda line: print(line, file=sys.stderr, flush=True))
        figures |= {"held_out": evaluate(run, model, tokenizer)}
        half = path.with_suffix(".half")
        half.write_text(json.dumps(figures))
        half.rename(path)
    return json.loads(path.read_text())


def lengths() -> dict:
    """Mean tokens of each task's texts, prompts and answers: what a shape is in terms of cost. An answer's end counts."""
    tokenizer = vocabulary()
    count = lambda text, end: len(tokenizer.encode(text, add_special_tokens=end).ids)
    mean = lambda numbers: round(sum(numbers) / len(numbers), 1)
    found = {}
    for name, task in TASKS.items():
        drawn = task(seed=1)
        examples = [drawn.example() for _ in range(EVALUATED)]
        found[name] = {
            "prompts": len(examples[0].prompts),
            "input_tokens": mean([count(e.text, True) for e in examples]),
            "prompt_tokens": mean([count(p, False) for e in examples for p in e.prompts]),
            "new_tokens": mean([count(a, True) for e in examples for a in e.answers]),
            "always_nothing": always_nothing(name),
            "size": {"of": RESIZED.get(name, (name,))[0], "counts": drawn.knob, "value": drawn.size} if drawn.knob else None,
            "example": {"text": examples[0].text, "prompts": examples[0].prompts, "answers": examples[0].answers},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results file to write")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the runs that have ended")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of each training: less is a quick look")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    wanted = runs(args.share)
    begin, done = time.monotonic(), []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(finish, run, args.work) for run in wanted]):
            figures = future.result()
            done.append(figures)
            minutes = (time.monotonic() - begin) / 60
            print(f"{len(done)} of {len(wanted)}, {minutes:.0f} min: {figures['task']} {figures['way']} {figures['seed']}: {figures['held_out']}", flush=True)
    done.sort(key=lambda f: (list(TASKS).index(f["task"]), f["way"], f["steps"], f["seed"]))
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers", "rouge-score")}
    setting = {"date": today(), "packages": packages, "examples_of_a_step": EXAMPLES, "prompts_of_an_example": PROMPTS}
    tasks = [{"kind": "task", "task": name, **told} for name, told in lengths().items()]
    write_results(args.out, setting | {"evaluated_examples": EVALUATED}, [*tasks, *done])
    print(args.out)


if __name__ == "__main__":
    main()
