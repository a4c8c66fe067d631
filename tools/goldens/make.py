"""Makes the goldens and the folders to convert of the T5 example's tests, and checks them.

Each case is a folder as people have them: a tiny random T5 with its settings, what is asked of it, and what
transformers answers. Greedy decoding is `generate`, one prompt at a time, without a cache, in f32. A case is made
by the version of transformers that such folders come from, with the same files for the same seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import ids
import texts
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

TESTS = Path(__file__).resolve().parents[2] / "examples" / "t5" / "tests"
CASES = {
    **{f"goldens/{name}": case for name, case in {**ids.CASES, **texts.CASES}.items()},
    **{f"convert/{name}": case for name, case in {**ids.CONVERT, **texts.CONVERT}.items()},
}


def buckets(path: Path) -> None:
    """The bucket of every relative position, key minus query."""
    positions = torch.arange(-600, 601)
    settings = [(True, 32, 128), (False, 32, 128), (True, 10, 23), (False, 10, 23), (False, 7, 20), (True, 64, 256)]
    lines = []
    for both, count, distance in settings:
        of = T5Attention._relative_position_bucket(
            positions, bidirectional=both, num_buckets=count, max_distance=distance
        )
        lines.append({"both": both, "buckets": count, "max_distance": distance, "of": of.tolist()})
    path.write_text(json.dumps({"first": -600, "settings": lines}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TESTS)
    parser.add_argument("--only", choices=CASES, help="one case instead of all", metavar="CASE")
    parser.add_argument("--check", action="store_true", help="make nothing, compare with the running version")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    wrong = []
    for name, case in CASES.items():
        if args.only not in (None, name):
            continue
        of = texts if isinstance(case, texts.Case) else ids
        if args.check:
            wrong += of.check(name, case, args.out / name)
        else:
            of.make(name, case, args.out / name)
    if args.check:
        print("\n".join(wrong) or f"as expected under transformers {transformers.__version__}")
        sys.exit(bool(wrong))
    buckets(args.out / "goldens" / "buckets.json")


if __name__ == "__main__":
    main()
