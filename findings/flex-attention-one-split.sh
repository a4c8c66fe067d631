#!/usr/bin/env bash
# FlexAttention without a mask gives all keys to one of the blocks of threads that should share them.
#
# Version: torch 2.15.0 (2.11.0 alike), flex_attention compiled for a CUDA card, fewer than 128 query rows. No GPU is needed here.
# One would expect: fewer query rows than 128 take a kernel of their own, flex_decode, that splits the keys of a head among
#   SPLIT_KV blocks, two for each multiprocessor: 22 for 12 heads on an H200. Without a mask, each gets a part of the keys.
# What happens: where no block_mask is given, PyTorch makes one of a single block of 2^30 keys that is seen in part. For such
#   blocks the kernel divides what the mask holds, 2^30 keys, and not the keys that there are: the first split's part has them
#   all, the others find none. With a mask of one block that is seen in full it divides the number of keys. The result is right
#   in both.
#   Seen on 2026-12-01, with the package's own template and mask, in Triton's interpreter, on 12 heads of 64 and 16 rows:
#     no mask, 4096 keys: 1 of 22 splits have keys; a mask of one full block: 22 of 22
#   What that costs on a card was not measured: 12 of 132 multiprocessors would read all K and V.
# Who is hit: who attends with few rows over long keys, or measures FlexAttention there. block_mask=BlockMask.from_kv_blocks(...)
#   with full_kv_num_blocks of 1 and BLOCK_SIZE=1 << 30, as below, is seen in full and means the same.
#
# PYTHON215: a python with torch 2.15.0 and numpy, to use instead of an installation.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
if [[ -z ${PYTHON215:-} ]]; then
    python3 -m venv "$tmp/venv"
    PIP_CACHE_DIR="$tmp/cache" "$tmp/venv/bin/pip" install -q --disable-pip-version-check torch==2.15.0 numpy==2.4.6
    PYTHON215=$tmp/venv/bin/python
fi
cat > "$tmp/split.py" <<'PY'
import importlib.util
import math
import os
import sys
import types

os.environ["TRITON_INTERPRET"] = "1"
import jinja2
import torch
from torch._inductor.kernel.flex.common import load_flex_template
from torch._inductor.kernel.flex.flex_decoding import get_split_k
from torch.nn.attention.flex_attention import BlockMask, _create_empty_block_mask

# What the template takes from the card: the multiprocessors of an H200.
torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=132)
HEADS, ROWS, DIM = 12, 16, 64
SPLITS = get_split_k(1, HEADS, 0)
NAMES = ("Q", "K", "V", "M", "L", "KV_NUM_BLKS", "KV_IDX", "FULL_KV_NUM_BLKS", "FULL_KV_IDX")


def kernel(tensors, mask):
    """The package's template with what Inductor puts into it: sizes, strides, constants; no score_mod, no mask_mod."""
    constants = {
        "SPLIT_KV": SPLITS, "BLOCK_M": ROWS, "BLOCK_N": 64, "GQA_SHARED_HEADS": 1, "SPARSE_Q_BLOCK_SIZE": mask.BLOCK_SIZE[0],
        "SPARSE_KV_BLOCK_SIZE": mask.BLOCK_SIZE[1], "HAS_FULL_BLOCKS": mask.full_kv_num_blocks is not None, "QK_HEAD_DIM": DIM,
        "QK_HEAD_DIM_ROUNDED": DIM, "V_HEAD_DIM": DIM, "V_HEAD_DIM_ROUNDED": DIM, "SAFE_HEAD_DIM": True, "IS_DIVISIBLE": True,
        "SAFE_M_BOUNDARY": True, "SAFE_N_BOUNDARY": True, "PRESCALE_QK": False, "ROWS_GUARANTEED_SAFE": False,
        "BLOCKS_ARE_CONTIGUOUS": False, "SM_SCALE": DIM**-0.5, "FLOAT32_PRECISION": "'ieee'", "INDEX_DTYPE": "tl.int32",
    }  # fmt: skip
    defines = "\n".join(f"{name}: tl.constexpr = {value}" for name, value in constants.items())
    head = f"@triton.jit\ndef decode({', '.join(NAMES)}, ACC):\n    " + defines.replace("\n", "\n    ") + "\n    arg = 0"
    changes = {0: "post_mod_scores = qk", 1: "mask_mod_output = tl.full([1], True, tl.int1)"}
    environment = jinja2.Environment()
    environment.filters["indent_except_first"] = lambda text, n: text.replace("\n", "\n" + 4 * n * " ")
    text = load_flex_template("flex_decode") + load_flex_template("utilities") + load_flex_template("common")
    text = "import triton\nimport triton.language as tl\n" + text.replace("    {{def_kernel", "{{def_kernel", 1)
    text = environment.from_string(text).render(
        USE_TMA=False,
        def_kernel=lambda *names: head,
        gen_argdefs=lambda: "arg",
        gen_defines=lambda: defines,
        size=lambda name, axis: tensors[name].shape[axis],
        stride=lambda name: f"({', '.join(map(str, tensors[name].stride()))},)",
        modification=lambda subgraph_number, **_: changes[subgraph_number],
        store_output=lambda at, value, mask, **_: "tl.store(ACC + "
        + " + ".join(f"{i} * {s}" for i, s in zip(at, tensors["ACC"].stride())) + f", {value}, {mask})",
    )  # fmt: skip
    path = os.path.join(os.path.dirname(__file__), "decode.py")
    with open(path, "w") as file:
        file.write(text)
    spec = importlib.util.spec_from_file_location("decode", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.decode


def splits_with_keys(keys, mask):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, n, DIM, dtype=torch.float16) for n in (ROWS, keys, keys))
    top, total = (torch.full((1, SPLITS, HEADS, ROWS), math.nan) for _ in range(2))
    acc = torch.full((1, SPLITS, HEADS, ROWS, DIM), math.nan)
    none = torch.zeros(0, dtype=torch.int32)
    full = (none, none) if mask.full_kv_num_blocks is None else (mask.full_kv_num_blocks, mask.full_kv_indices)
    by_group = q.view(1, HEADS, 1, ROWS, DIM)
    tensors = dict(zip(NAMES, (by_group, k, v, top, total, mask.kv_num_blocks, mask.kv_indices, *full)))
    kernel(tensors | {"ACC": acc}, mask)[(1, HEADS, SPLITS)](*tensors.values(), acc)
    weight = torch.exp2(top - top.amax(1, keepdim=True))
    out = (acc * weight[..., None]).sum(1) / (total * weight).sum(1)[..., None]
    want = torch.softmax(q.float() @ k.float().transpose(-1, -2) * DIM**-0.5, -1) @ v.float()
    assert (out - want).norm() < 2e-3 * want.norm(), "the result is wrong"
    return int((top > -math.inf).flatten(2).any(-1).sum())


one_full_block = BlockMask.from_kv_blocks(
    torch.zeros(1, 1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, 1, dtype=torch.int32),
    torch.ones(1, 1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, 1, dtype=torch.int32), BLOCK_SIZE=1 << 30, seq_lengths=(1, 1),
)  # fmt: skip
failed = 0
for what, mask, expected in [
    ("no mask", _create_empty_block_mask(torch.empty(1), torch.empty(1)), {512: 1, 4096: 1}),
    ("a mask of one full block", one_full_block, {512: 8, 4096: 22}),
]:
    for keys, want in expected.items():
        seen = splits_with_keys(keys, mask)
        print(f"torch {torch.__version__}, {what}, {keys} keys: {seen} of {SPLITS} splits have keys")
        if seen != want:
            print(f"CHANGED: expected {want}")
            failed = 1
sys.exit(failed)
PY
"$PYTHON215" "$tmp/split.py"
