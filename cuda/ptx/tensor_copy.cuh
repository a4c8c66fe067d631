// The copy engine: boxes of a tensor from global to shared memory (compute capability 9.0).
#pragma once
#include <stdint.h>

// A CUtensorMap, aligned as cuda.h of CUDA 13 has it; only the driver knows what is inside.
struct alignas(128) TensorMap {
    uint64_t opaque[16];
};

__device__ __forceinline__ void tensor_prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// The state space of a box's destination, this block's own memory. From 12.0 on ptxas takes shared::cluster for any block of a
// cluster, and checks the address by a call for every box: with nvcc 13.0 and 13.5 a stack frame and 55 to 68 instructions a tile.
#if __CUDA_ARCH__ >= 1200
#define ONEKV_OWN_SHARED "shared::cta"
#else
#define ONEKV_OWN_SHARED "shared::cluster"
#endif
// One thread asks for a box; its bytes count towards the phase of `barrier`.
__device__ __forceinline__ void tensor_load(uint32_t to, const TensorMap& map, int x, int y, int z, int w, int u, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.5d." ONEKV_OWN_SHARED ".global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(u), "r"(barrier)
        : "memory");
}
// The same into the same place of every block of the cluster in `blocks`, a bit each; in each of them the bytes count
// towards the barrier in that place.
__device__ __forceinline__ void tensor_load_multicast(
    uint32_t to, const TensorMap& map, int x, int y, int z, int w, int u, uint32_t barrier, uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(to),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(u), "r"(barrier), "h"(blocks)
        : "memory");
}
