// Hopper's kernels of one 16-bit element type. Names: onekv_sm90_<type>_<head_dim>_<rows of a tile>, with x2 for
// clusters of two.
#pragma once
#include "stream.cuh"
#include "warpgroups.cuh"

// src/plan/variants.rs has the same table.
#define ONEKV_STREAM(T, TYPE, DIM, ROW_WARPS, ROW_TILES, KEYS, RING, BLOCKS, ROWS)                                                  \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS) onekv_sm90_##TYPE##_##DIM##_##ROWS(                                    \
        const __grid_constant__ OnekvAttention p, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v) {        \
        extern __shared__ __align__(1024) char shared[];                                                                             \
        attend_stream<StreamProducts<StreamShape<T, DIM, ROW_WARPS, ROW_TILES, KEYS, RING>>>(p, k, v, p.work[blockIdx.x], shared);                   \
    }
#define ONEKV_WARPGROUPS(T, TYPE, DIM, GROUPS, KEYS, STAGES, ROWS)                                                                  \
    extern "C" __global__ void __launch_bounds__(128 + 128 * GROUPS, WarpgroupShape<T, DIM, GROUPS, KEYS, STAGES>::BLOCKS)           \
        onekv_sm90_##TYPE##_##DIM##_##ROWS(                                                                                          \
            const __grid_constant__ OnekvAttention p, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v) {    \
        extern __shared__ __align__(1024) char shared[];                                                                             \
        attend_warpgroups<WarpgroupShape<T, DIM, GROUPS, KEYS, STAGES>>(p, k, v, p.work[blockIdx.x], shared);                        \
    }
#define ONEKV_PAIRS(T, TYPE, DIM, GROUPS, KEYS, STAGES, ROWS)                                                                       \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(128 + 128 * GROUPS, 1) onekv_sm90_##TYPE##_##DIM##_##ROWS##x2( \
        const __grid_constant__ OnekvAttention p, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v) {        \
        extern __shared__ __align__(1024) char shared[];                                                                             \
        attend_warpgroups<WarpgroupShape<T, DIM, GROUPS, KEYS, STAGES, 2>>(p, k, v, p.work[blockIdx.x], shared);                     \
    }

#define ONEKV_KERNELS(T, TYPE)                       \
    ONEKV_STREAM(T, TYPE, 64, 1, 1, 32, 2, 3, 16)    \
    ONEKV_STREAM(T, TYPE, 64, 1, 2, 32, 3, 2, 32)    \
    ONEKV_WARPGROUPS(T, TYPE, 64, 1, 128, 3, 64)     \
    ONEKV_WARPGROUPS(T, TYPE, 64, 2, 128, 4, 128)    \
    ONEKV_PAIRS(T, TYPE, 64, 2, 128, 4, 128)         \
    ONEKV_WARPGROUPS(T, TYPE, 64, 3, 128, 4, 192)    \
    ONEKV_STREAM(T, TYPE, 128, 1, 1, 16, 3, 2, 16)   \
    ONEKV_STREAM(T, TYPE, 128, 1, 2, 16, 3, 2, 32)   \
    ONEKV_WARPGROUPS(T, TYPE, 128, 1, 64, 3, 64)     \
    ONEKV_WARPGROUPS(T, TYPE, 128, 2, 128, 2, 128)   \
    ONEKV_PAIRS(T, TYPE, 128, 2, 128, 2, 128)        \
    ONEKV_STREAM(T, TYPE, 256, 1, 1, 16, 3, 1, 16)   \
    ONEKV_STREAM(T, TYPE, 256, 2, 1, 16, 6, 1, 32)   \
    ONEKV_WARPGROUPS(T, TYPE, 256, 1, 64, 2, 64)     \
    ONEKV_WARPGROUPS(T, TYPE, 256, 2, 64, 2, 128)    \
    ONEKV_PAIRS(T, TYPE, 256, 2, 64, 2, 128)
