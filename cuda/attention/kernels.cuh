// How a kernel of a 16-bit element type is made of a row of src/plan/variants.rs.
#pragma once
#include "planned.cuh"
#include "tile.cuh"

#define ONEKV_TILE(T, name, dim, rows, cluster, tile_keys, key_warps, threads, stages, shared_bytes, blocks)       \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ OnekvAttention p) { \
        using Shape = TileShape<T, dim, rows / 16, key_warps, tile_keys, stages>;                                  \
        ONEKV_PLANNED(Shape, name, rows, tile_keys, threads, stages, shared_bytes);                                \
        extern __shared__ __align__(128) char shared[];                                                            \
        attend_tile<Shape>(p, entry_of(p.work, blockIdx.x), shared);                                                         \
    }
