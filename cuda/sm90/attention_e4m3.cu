// Kernels with K and V in e4m3, made of rows of src/plan/variants.rs.
#include "../attention/planned.cuh"
#include "stream_e4m3.cuh"

#define ONEKV_STREAM_E4M3(T, name, dim, rows, cluster, tile_keys, key_warps, threads, stages, shared_bytes, blocks)           \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(                                                       \
        const __grid_constant__ OnekvAttention p, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v) { \
        using Shape = StreamShape<T, dim, 4 / key_warps, rows * key_warps / 64, tile_keys, stages / key_warps, 1>;            \
        ONEKV_PLANNED(Shape, name, rows, tile_keys, threads, stages, shared_bytes);                                           \
        extern __shared__ __align__(1024) char shared[];                                                                      \
        attend_stream<StreamProductsE4m3<Shape>>(p, k, v, p.work[blockIdx.x], shared);                                        \
    }
ONEKV_SM90_ATTENTION_E4M3
