// How a streaming kernel (stream.cuh) is made of a row of src/plan/variants.rs.
#pragma once
#include "../attention/planned.cuh"
#include "stream_e4m3.cuh"

#define ONEKV_STREAM_KERNEL(Products, KV_BYTES, T, name, dim, rows, tile_keys, key_warps, threads, stages, shared_bytes, blocks)  \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(                                                       \
        const __grid_constant__ OnekvAttention p, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v) { \
        using Shape = StreamShape<T, dim, 4 / key_warps, rows * key_warps / 64, tile_keys, stages / key_warps, KV_BYTES>;     \
        ONEKV_PLANNED(Shape, name, rows, tile_keys, threads, stages, shared_bytes);                                           \
        extern __shared__ __align__(1024) char shared[];                                                                      \
        attend_stream<Products<Shape>>(p, k, v, entry_of(p.work, blockIdx.x), shared);                                                  \
    }
#define ONEKV_STREAM(T, name, dim, rows, cluster, ...) ONEKV_STREAM_KERNEL(StreamProducts, 2, T, name, dim, rows, __VA_ARGS__)
#define ONEKV_STREAM_E4M3(T, name, dim, rows, cluster, ...) ONEKV_STREAM_KERNEL(StreamProductsE4m3, 1, T, name, dim, rows, __VA_ARGS__)
