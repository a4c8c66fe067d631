#!/usr/bin/env bash
# A sum over a product in Triton comes out as one of two numbers, and nothing in the program says which.
#
# Versions: triton 3.9.0, 3.4.0 (wheels, x86-64 Linux), numpy 2.4.6. No GPU is needed.
# One would expect: tl.sum(x * y) leaves one sum in every lane of a warp, so that it does not matter which lane stores it.
#   A butterfly of additions does: a + b is b + a, to the bit.
# What happens: with one product for each lane the first step of the butterfly is contracted to fma(x, y, other lane's x * y).
#   Lane L holds round(x y + round(x' y')), its partner round(x' y' + round(x y)): two sums, a rounding apart. 3.4.0 lets one lane
#   store its sum to shared memory; 3.9.0 lets all 32, to the same word, by one instruction. PTX calls that a race; the CUDA
#   guide says one lane's value stays and which is undefined. Seen on 2026-11-28, compiled for sm_80 and sm_90, 128 elements by
#   128 threads: 1 fma in the butterfly in both, a guard at the store in 3.4.0 only; of 1000 sums of normal numbers 494 are two
#   numbers, by NumPy. Without fusion (3.9.0 warns that 3.10 will leave it out by default) it is an addition, and one number.
# Who is hit: race checkers (compute-sanitizer, simulators) blame kernels that are right; and who compares sums bit by bit between
#   compilers or cards. Where sums must agree between lanes: tl.sum of a value that is not a product, or enable_fp_fusion=False.
#
# PYTHON390, PYTHON340: pythons with these versions of triton, and numpy, to use instead of an installation.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export PIP_CACHE_DIR="$tmp/cache" TRITON_CACHE_DIR="$tmp/triton" PYTHONWARNINGS=ignore
unset TRITON_DEFAULT_FP_FUSION
install() {
    python3 -m venv "$tmp/$1"
    "$tmp/$1/bin/pip" install -q --disable-pip-version-check "triton==$2" numpy==2.4.6 setuptools==80.9.0
}
[[ -n ${PYTHON390:-} ]] || { install 390 3.9.0; PYTHON390=$tmp/390/bin/python; }
[[ -n ${PYTHON340:-} ]] || { install 340 3.4.0; PYTHON340=$tmp/340/bin/python; }

cat > "$tmp/sums.py" <<'PY'
import re
import sys
import numpy as np
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def dot(a, b, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out, tl.sum(tl.load(a + i) * tl.load(b + i)))


def compiled(arch, **options):
    source = ASTSource(dot, {"a": "*fp32", "b": "*fp32", "out": "*fp32", "N": "constexpr"}, {"N": 128})
    text = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4, **options}).asm["ptx"]
    warp = text[: text.index("bar.sync")]
    assert len(re.findall("shfl.sync.bfly", warp)) == 5, warp
    stores = re.findall(r"^.*st\.shared.*$", warp, re.M)
    # The address has the lane masked out: threads 0, 32, 64, 96 have four.
    return len(re.findall(r"\bfma\.rn\.f32", warp)), len(stores), any("@" in s for s in stores)


def sums(x, y, fused):
    """What the 32 lanes of a warp hold in the end."""
    product = (x * y).astype(np.float32)
    held = product
    for distance in (16, 8, 4, 2, 1):
        other = held[np.arange(32) ^ distance]
        if fused and distance == 16:
            # Exact but for the last rounding: 48 bits and 24, in 64.
            held = (x.astype(np.longdouble) * y + other).astype(np.float32)
        else:
            held = held + other
    return set(held.tolist())


failed = 0
def check(what, seen, expected):
    global failed
    print(f"triton {triton.__version__}, {what}: {seen}")
    if seen != expected:
        print(f"CHANGED: expected {expected}")
        failed = 1


guard = triton.__version__ == "3.4.0"
for arch in (80, 90):
    check(f"sm_{arch}: fma, stores, a guard", compiled(arch), (1, 1, guard))
    check(f"sm_{arch}, no fusion: fma, stores, a guard", compiled(arch, enable_fp_fusion=False), (0, 1, guard))
numbers = np.random.default_rng(0).standard_normal((1000, 2, 32), dtype=np.float32)
for fused in (True, False):
    several = sum(len(sums(x, y, fused)) > 1 for x, y in numbers)
    check(f"{'fma' if fused else 'add'}: warps of 1000 with two sums", several, 494 if fused else 0)
sys.exit(failed)
PY
failed=0
for python in "$PYTHON390" "$PYTHON340"; do "$python" "$tmp/sums.py" || failed=1; done
exit $failed
