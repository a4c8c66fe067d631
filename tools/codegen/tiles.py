"""Instructions of one warp for a tile of keys, by kernel and card: the last table of cuda/codegen.md as lines of JSON,
for tools/model. Of two compilers the larger count.
"""

import json

from page import FILE, Page

for kernel, cards in Page(FILE.read_text()).loops.items():
    for card, counts in cards.items():
        named = {kind.lower(): counts[kind] for kind in ("address", "exponentials", "FP32")}
        print(json.dumps({"kernel": kernel, "card": card, **named, "all": sum(counts.values())}))
