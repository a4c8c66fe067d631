"""numba-cuda: the kernels of its own tests, compiled to PTX by its compiler."""

from __future__ import annotations

import importlib
import math

import numpy as np

# Long to import: once, before the rows start; it finds the card when a row asks.
import numba.cuda

import torch_stub
from rows import near, row, same

torch_stub.install("pytest", "filecheck")
TESTS = "numba.cuda.tests.cudapy"


def parameters(array) -> list:
    """An array as numba's kernels take it: two owners, sizes, the address, the shape and the strides in bytes."""
    item = array.dtype.itemsize
    strides = [s * item for s in array.stride()]
    return [np.uint64(0), np.uint64(0), np.int64(array.size), np.int64(item), array, *map(np.int64, array.shape), *map(np.int64, strides)]


def numba_row(place: str, grid, block, make, check) -> None:
    """`make` gives the arguments from the card; `check` gets them, arrays as they are after the launch, and as they were."""
    file, _, name = place.partition(":")

    def run(gpu) -> None:
        function = getattr(importlib.import_module(f"{TESTS}.{file}"), name)
        before = [np.copy(a) for a in make(gpu)]
        types = [numba.typeof(a) if a.ndim else numba.from_dtype(a.dtype) for a in before]
        ptx, _ = numba.cuda.compile_ptx(getattr(function, "py_func", function), tuple(types), cc=gpu.capability())
        entry = next(line.split("(")[0].split()[-1] for line in ptx.splitlines() if ".visible .entry" in line)
        placed = [gpu.put(a) if a.ndim else a[()] for a in before]
        flat = [p for a in placed for p in (parameters(a) if hasattr(a, "address") else [a])]
        gpu.module(ptx).launch(entry, grid, block, *flat)
        after = [a.get() if hasattr(a, "address") else a for a in placed]
        with np.errstate(all="ignore"):
            check(after, before)

    row("numba-cuda", f"{TESTS}.{place}", run)


# Its kernels have no bounds check: as many threads as elements.
def every(name: str, want, low: float = -2, high: float = 2, operands: int = 1) -> None:
    def make(gpu):
        return [*(gpu.random.uniform(low, high, (operands, 256)).astype(np.float32)), np.zeros(256, np.float32)]

    def check(after, before):
        near("B", after[-1], want(*[b.astype(np.float64) for b in before[:-1]]), 1e-5, 1e-5)

    numba_row(f"test_math:math_{name}", 4, 64, make, check)


for name, want in (("acos", np.arccos), ("asin", np.arcsin), ("atanh", np.arctanh)):
    every(name, want, -0.95, 0.95)
for name, want in (("atan", np.arctan), ("asinh", np.arcsinh), ("cos", np.cos), ("sin", np.sin), ("cosh", np.cosh), ("sinh", np.sinh),
                   ("tanh", np.tanh), ("exp", np.exp), ("exp2", np.exp2), ("erf", np.vectorize(math.erf)), ("erfc", np.vectorize(math.erfc)),
                   ("expm1", np.expm1), ("fabs", np.abs), ("ceil", np.ceil), ("floor", np.floor), ("degrees", np.degrees),
                   ("trunc", np.trunc)):
    every(name, want)
for name, want in (("acosh", np.arccosh), ("gamma", np.vectorize(math.gamma)), ("lgamma", np.vectorize(math.lgamma)), ("log", np.log),
                   ("log2", np.log2), ("log10", np.log10), ("log1p", np.log1p), ("sqrt", np.sqrt)):
    every(name, want, 1.05, 4)
for name, want in (("atan2", np.arctan2), ("hypot", np.hypot), ("copysign", np.copysign), ("fmod", np.fmod),
                   ("remainder", np.vectorize(math.remainder))):
    every(name, want, operands=2)
every("pow", np.power, 0.5, 3, operands=2)


def atomic(name: str, check, dtype, *more, shape=(32,)) -> None:
    """Kernels of one block of 32 threads; `check` gets the array after and before, then what was given besides."""

    def make(gpu):
        return [gpu.random.integers(0, 32, shape).astype(dtype), *more]

    numba_row(f"test_atomics:atomic_{name}", 1, shape, make, lambda after, before: same("ary", after[0], check(before[0], *before[1:])))


def counted(step):
    return lambda ary: np.bincount((ary % 32).astype(int), minlength=32) * step


atomic("add", counted(1), np.uint32)
atomic("add_float", counted(1), np.float32)
atomic("sub", counted(-1), np.int32)
for name, dtype in (("add2", np.uint32), ("add3", np.uint32), ("add_float_2", np.float32), ("add_double_2", np.float64)):
    atomic(name, lambda ary: ary + 1, dtype, shape=(4, 8))
for name, dtype in (("sub2", np.int32), ("sub_float_2", np.float32), ("sub_double_3", np.float64)):
    atomic(name, lambda ary: ary - 1, dtype, shape=(4, 8))
for name, want in (("and2", np.bitwise_and), ("or2", np.bitwise_or), ("xor2", np.bitwise_xor)):
    atomic(name, want, np.uint32, np.uint32(21), shape=(4, 8))
atomic("inc2_32", lambda ary, top: np.where(ary >= top, 0, ary + 1), np.uint32, np.uint32(20), shape=(4, 8))
atomic("dec2_32", lambda ary, top: np.where((ary == 0) | (ary > top), top, ary - 1), np.uint32, np.uint32(20), shape=(4, 8))
atomic("exch2", lambda ary, new: np.full_like(ary, new), np.uint32, np.uint32(20), shape=(4, 8))


def swapped(after, before):
    res, _, ary, fill = before
    same("old", after[1], res)
    same("res", after[0], np.where(res == fill, ary, res))


numba_row("test_atomics:atomic_cas_1dim", 3, 64,
          lambda gpu: [gpu.integers(0, 2, 150) * 7, np.zeros(150, np.int32), gpu.integers(0, 99, 150), np.int32(7)], swapped)


def shuffled(name: str, argument: int, want) -> None:
    numba_row(f"test_warp_ops:use_shfl_sync_{name}", 1, 32, lambda gpu: [np.zeros(32, np.int32), np.int32(argument)],
              lambda after, _: same("ary", after[0], want(np.arange(32))))


shuffled("idx", 5, lambda i: np.full(32, 5))
shuffled("up", 4, lambda i: np.where(i < 4, i, i - 4))
shuffled("down", 4, lambda i: np.where(i > 27, i, i + 4))
shuffled("xor", 16, lambda i: i ^ 16)

for name, want in (("all", np.all), ("any", np.any), ("eq", lambda x: np.all(x) or not np.any(x))):
    numba_row(f"test_warp_ops:use_vote_sync_{name}", 1, 32, lambda gpu: [gpu.integers(0, 2, 32), np.zeros(32, np.int32)],
              lambda after, before, want=want: same("ary", after[1], np.full(32, want(before[0]))))
numba_row("test_warp_ops:use_vote_sync_ballot", 1, 32, lambda gpu: [np.zeros(32, np.uint32)],
          lambda after, _: same("ary", after[0], np.full(32, 0xFFFFFFFF)))
numba_row("test_warp_ops:use_match_any_sync", 1, 32, lambda gpu: [gpu.integers(0, 3, 32), np.zeros(32, np.int32)],
          lambda after, before: same("ary", after[1].view(np.uint32), [sum(1 << int(j) for j in np.flatnonzero(before[0] == v)) for v in before[0]]))
numba_row("test_warp_ops:use_independent_scheduling", 1, 32, lambda gpu: [np.zeros(32, np.uint32)],
          lambda after, _: same("arr", after[0], np.full(32, 0x11111111) << (np.arange(32) % 4)))
for name, want in (("count", np.count_nonzero), ("and", np.all), ("or", np.any)):
    numba_row(f"test_sync:use_syncthreads_{name}", 1, 72, lambda gpu: [gpu.integers(0, 2, 72), np.zeros(72, np.int32)],
              lambda after, before, want=want: same("ary", after[1], np.full(72, want(before[0]))))
numba_row("test_sync:simple_smem", 1, 100, lambda gpu: [np.zeros(100, np.int32)], lambda after, _: same("ary", after[0], np.arange(100)))
numba_row("test_sync:coop_smem2d", 1, (10, 20), lambda gpu: [np.zeros((10, 20), np.float32)],
          lambda after, _: near("ary", after[0], (np.arange(10)[:, None] + 1.0) / (np.arange(20)[None] + 1)))
numba_row("test_localmem:culocal", 1, 1, lambda gpu: [np.arange(1000, dtype=np.int32), np.zeros(1000, np.int32)],
          lambda after, before: same("B", after[1], before[0]))
