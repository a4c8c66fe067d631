// The kernels of one 16-bit element type. Names: onekv_<type>_<head_dim>_<rows of a tile>.
#pragma once
#include "tile.cuh"

// Rows of a tile against keys of a tile, stages in flight and blocks of a multiprocessor; src/plan/variants.rs has the
// same table.
#define ONEKV_KERNEL(T, TYPE, DIM, ROW_WARPS, KEY_WARPS, KEYS, STAGES, BLOCKS, ROWS)                                 \
    extern "C" __global__ void __launch_bounds__(32 * ROW_WARPS * KEY_WARPS, BLOCKS)                                  \
        onekv_##TYPE##_##DIM##_##ROWS(const __grid_constant__ OnekvAttention p) {                                    \
        extern __shared__ __align__(128) char shared[];                                                              \
        attend_tile<TileShape<T, DIM, ROW_WARPS, KEY_WARPS, KEYS, STAGES>>(p, p.work[blockIdx.x], shared);           \
    }

#define ONEKV_KERNELS(T, TYPE)                         \
    ONEKV_KERNEL(T, TYPE, 64, 1, 4, 64, 3, 4, 16)      \
    ONEKV_KERNEL(T, TYPE, 64, 2, 2, 64, 3, 3, 32)      \
    ONEKV_KERNEL(T, TYPE, 64, 4, 1, 64, 3, 3, 64)      \
    ONEKV_KERNEL(T, TYPE, 64, 8, 1, 32, 4, 2, 128)     \
    ONEKV_KERNEL(T, TYPE, 128, 1, 4, 64, 2, 3, 16)     \
    ONEKV_KERNEL(T, TYPE, 128, 2, 2, 64, 2, 2, 32)     \
    ONEKV_KERNEL(T, TYPE, 128, 4, 1, 64, 2, 2, 64)     \
    ONEKV_KERNEL(T, TYPE, 128, 8, 1, 32, 2, 1, 128)    \
    ONEKV_KERNEL(T, TYPE, 256, 1, 2, 32, 2, 3, 16)     \
    ONEKV_KERNEL(T, TYPE, 256, 2, 2, 32, 2, 2, 32)     \
    ONEKV_KERNEL(T, TYPE, 256, 4, 1, 16, 4, 2, 64)
