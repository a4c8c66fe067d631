// Kernels with K and V in e4m3. Names: onekv_sm90_<type of Q and the output>_e4m3_<head_dim>_<rows of a tile>.
#include "stream_e4m3.cuh"

// src/plan/variants.rs has the same table.
#define ONEKV_STREAM_E4M3(T, TYPE, DIM, ROW_WARPS, ROW_TILES, KEYS, RING, BLOCKS, ROWS)                                              \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS) onekv_sm90_##TYPE##_e4m3_##DIM##_##ROWS(                               \
        const __grid_constant__ OnekvAttention p, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v) {        \
        extern __shared__ __align__(1024) char shared[];                                                                             \
        attend_stream<StreamProductsE4m3<StreamShape<T, DIM, ROW_WARPS, ROW_TILES, KEYS, RING, 1>>>(                                 \
            p, k, v, p.work[blockIdx.x], shared);                                                                                    \
    }

#define ONEKV_KERNELS_E4M3(T, TYPE)                       \
    ONEKV_STREAM_E4M3(T, TYPE, 64, 1, 1, 64, 2, 3, 16)    \
    ONEKV_STREAM_E4M3(T, TYPE, 64, 1, 2, 32, 6, 2, 32)    \
    ONEKV_STREAM_E4M3(T, TYPE, 128, 1, 1, 32, 3, 2, 16)   \
    ONEKV_STREAM_E4M3(T, TYPE, 128, 1, 2, 32, 3, 2, 32)   \
    ONEKV_STREAM_E4M3(T, TYPE, 256, 1, 1, 32, 3, 1, 16)   \
    ONEKV_STREAM_E4M3(T, TYPE, 256, 2, 1, 32, 6, 1, 32)

ONEKV_KERNELS_E4M3(__nv_bfloat16, bf16)
ONEKV_KERNELS_E4M3(__half, f16)
