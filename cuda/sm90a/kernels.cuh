// How a kernel of warpgroups is made of a row of src/plan/variants.rs.
#pragma once
#include "../attention/planned.cuh"
#include "warpgroups.cuh"

#define ONEKV_CLUSTER_1
#define ONEKV_CLUSTER_2 __cluster_dims__(2, 1, 1)
#define ONEKV_WARPGROUPS(T, name, dim, rows, cluster, tile_keys, key_warps, threads, stages, shared_bytes, blocks)            \
    extern "C" __global__ void ONEKV_CLUSTER_##cluster __launch_bounds__(threads, blocks) name(                               \
        const __grid_constant__ OnekvAttention p, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v) { \
        using Shape = WarpgroupShape<T, dim, rows / 64, tile_keys, stages, cluster>;                                          \
        ONEKV_PLANNED(Shape, name, rows, tile_keys, threads, stages, shared_bytes);                                           \
        static_assert(Shape::BLOCKS == blocks, "src/plan/variants.rs: blocks of " #name);                                     \
        extern __shared__ __align__(1024) char shared[];                                                                      \
        attend_warpgroups<Shape>(p, k, v, p.work[blockIdx.x], shared);                                                        \
    }
