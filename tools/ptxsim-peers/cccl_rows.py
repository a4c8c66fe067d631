"""CUB, cooperative groups and libcu++ of CCCL, under kernels of ours (cccl.cu)."""

from __future__ import annotations

import math
import os

import numpy as np
import nvidia

import rows
from rows import near, same
from toolchain import nvcc

HERE = os.path.dirname(os.path.abspath(__file__))
INCLUDE = next(os.path.join(root, "cu13/include/cccl") for root in nvidia.__path__)
BLOCKS, THREADS, TILE = 3, 128, 512


def cccl(name: str, what: str, cards=rows.ONE):
    def decorate(test):
        def run(gpu) -> None:
            with open(os.path.join(HERE, "cccl.cu")) as file:
                module = gpu.module(nvcc("cccl.cu", "-I", INCLUDE, text=file.read()))
            test(lambda *arguments, grid=BLOCKS, **named: module.launch(name, grid, THREADS, *arguments, **named), gpu)

        rows.row("nvidia-cuda-cccl", what, run, cards)
        return test

    return decorate


def tiles(gpu):
    return gpu.integers(-1000, 1000, BLOCKS, TILE)


def block(name: str, what: str, want, cards=rows.ONE) -> None:
    @cccl(name, what, cards)
    def _(launch, gpu):
        x = tiles(gpu)
        wanted = np.stack([want(row) for row in x])
        out = gpu.empty(wanted.shape, np.int32)
        launch(gpu.put(x), out)
        same("out", out, wanted)


def exclusive(x):
    return np.cumsum(x) - x


block("block_reduce_raking", "cub::BlockReduce raking", lambda x: x.sum())
block("block_reduce_warp", "cub::BlockReduce warp reductions", lambda x: x.max())
block("block_scan_raking", "cub::BlockScan raking", np.cumsum)
block("block_scan_warp", "cub::BlockScan warp scans", exclusive)
block("block_radix_sort", "cub::BlockRadixSort", np.sort)
block("block_merge_sort", "cub::BlockMergeSort", lambda x: -np.sort(-x))
block("block_exchange", "cub::BlockExchange", lambda x: x.reshape(4, 128).T.reshape(-1))
block("block_shuffle", "cub::BlockShuffle", lambda x: np.concatenate([x[:1], x[:-1]]))
block("block_adjacent_difference", "cub::BlockAdjacentDifference", lambda x: np.diff(x, prepend=0))
block("block_discontinuity", "cub::BlockDiscontinuity",
      lambda x: np.concatenate([[1], np.trunc(x[1:] / 100) != np.trunc(x[:-1] / 100)]))


@cccl("block_histogram", "cub::BlockHistogram")
def _(launch, gpu):
    x, out = gpu.integers(0, 256, BLOCKS, TILE, dtype=np.uint8), gpu.empty((BLOCKS, 256), np.int32)
    launch(gpu.put(x), out)
    same("out", out, np.stack([np.bincount(row, minlength=256) for row in x]))


@cccl("block_load_store", "cub::BlockLoad, cub::BlockStore")
def _(launch, gpu):
    x, out = gpu.integers(0, 99, 1300), gpu.empty(1300, np.int32)
    launch(gpu.put(x), out, np.int32(1300))
    same("out", out, x * 2)


@cccl("block_run_length_decode", "cub::BlockRunLengthDecode")
def _(launch, gpu):
    lengths = np.ones(THREADS, np.int32)
    lengths[:64] = 7
    values, out = gpu.integers(0, 99, THREADS), gpu.empty(TILE, np.int32)
    launch(gpu.put(values), gpu.put(lengths), out, grid=1)
    same("out", out, np.repeat(values, lengths)[:TILE])


def warps(name: str, what: str, want) -> None:
    @cccl(name, what)
    def _(launch, gpu):
        x = gpu.integers(-1000, 1000, BLOCKS * 4, 32)
        wanted = np.stack([want(row) for row in x])
        out = gpu.empty(wanted.shape, np.int32)
        launch(gpu.put(x), out)
        same("out", out, wanted)


warps("warp_reduce", "cub::WarpReduce", lambda x: x.sum())
warps("warp_scan", "cub::WarpScan", np.minimum.accumulate)
warps("warp_merge_sort", "cub::WarpMergeSort", np.sort)
warps("groups_reduce", "cooperative_groups::reduce", lambda x: np.repeat(x.reshape(2, 16).sum(1), 16))
warps("groups_scan", "cooperative_groups::inclusive_scan", np.cumsum)
warps("groups_labelled", "cooperative_groups::labeled_partition", lambda x: np.array([x[(x & 3) == (v & 3)].sum() for v in x]))


@cccl("warp_reduce_head_segmented", "cub::WarpReduce head-segmented")
def _(launch, gpu):
    x, out = gpu.integers(-99, 99, BLOCKS * 4, 4, 8), gpu.empty((BLOCKS * 4, 4, 8), np.int32)
    launch(gpu.put(x), out)
    # Defined for the first thread of each segment.
    same("out", out.get()[..., 0], x.sum(2))


@cccl("groups_coalesced", "cooperative_groups::coalesced_threads")
def _(launch, gpu):
    x, out = gpu.integers(0, 99, BLOCKS * 4, 32), gpu.empty((BLOCKS * 4, 32), np.int32)
    launch(gpu.put(x), out)
    third = x % 3 == 0
    # The compiler may split the active threads; together they are those of the branch on a card, too.
    same("out", out, np.where(third, np.cumsum(third, 1) - 1 + 100 * third.sum(1, keepdims=True), -1))


@cccl("groups_memcpy_async", "cooperative_groups::memcpy_async", rows.TENSOR)
def _(launch, gpu):
    x, out = tiles(gpu), gpu.empty((BLOCKS, TILE), np.int32)
    launch(gpu.put(x), out)
    same("out", out, x[:, ::-1])


@cccl("groups_grid_sync", "cooperative_groups::grid_group::sync")
def _(launch, gpu):
    x, sums, out = gpu.integers(0, 99, BLOCKS, THREADS), gpu.zeros(BLOCKS, np.int32), gpu.empty((BLOCKS, THREADS), np.int32)
    launch(gpu.put(x), sums, out, cooperative=True)
    same("out", out, np.broadcast_to(np.roll(x.sum(1), -1)[:, None], x.shape))


@cccl("pipeline_stages", "cuda::pipeline", rows.TENSOR)
def _(launch, gpu):
    x, out = gpu.integers(0, 99, BLOCKS, 6, THREADS, 4), gpu.empty((BLOCKS, THREADS), np.int32)
    launch(gpu.put(x), out)
    same("out", out, x[..., 0].sum(1)[:, ::-1])


@cccl("barrier_split", "cuda::barrier", rows.TENSOR)
def _(launch, gpu):
    x, out = gpu.integers(0, 99, BLOCKS, THREADS), gpu.empty((BLOCKS, THREADS), np.int32)
    launch(gpu.put(x), out)
    same("out", out, 2 * x + np.roll(x, -37, 1))


@cccl("atomic_ref_max", "cuda::atomic_ref fetch_max")
def _(launch, gpu):
    x, out = gpu.integers(0, 10000, BLOCKS, THREADS // 4, 4), gpu.zeros(4, np.int32)
    launch(gpu.put(x), out)
    same("out", out, x.max((0, 1)))


@cccl("atomic_compare_exchange", "cuda::atomic_ref compare_exchange")
def _(launch, gpu):
    x, out = gpu.integers(0, 99, BLOCKS, THREADS), gpu.zeros(1, np.int32)
    launch(gpu.put(x), out)
    same("out", out, [x.sum()])


@cccl("complex_exp", "cuda::std::complex exp")
def _(launch, gpu):
    x, out = gpu.normal(BLOCKS * THREADS, 2), gpu.empty((BLOCKS * THREADS, 2))
    launch(gpu.put(x), out)
    z = np.exp(x[:, 0].astype(float) + 1j * x[:, 1])
    near("out", out, np.stack([z.real, z.imag], 1))


@cccl("special_functions", "tgamma, lgamma, cbrt, j0, erfcinv, i0")
def _(launch, gpu):
    from statistics import NormalDist

    x = gpu.random.uniform(1, 4, BLOCKS * THREADS).astype(np.float32)
    out = gpu.empty(BLOCKS * THREADS)
    launch(gpu.put(x), out)

    def bessel(v, sign):
        return sum((sign * v * v / 4) ** k / math.factorial(k) ** 2 for k in range(40))

    # erfcinv(p) is the quantile of 1 - p / 2 of the normal distribution over the root of 2.
    want = [math.gamma(v) + math.lgamma(v) + v ** (1 / 3) + bessel(v, -1) + NormalDist().inv_cdf(1 - 0.25 / v) / math.sqrt(2)
            + bessel(v, 1) for v in x.astype(float)]
    near("out", out, want)
