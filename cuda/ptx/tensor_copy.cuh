// The copy engine: boxes of a tensor from global to shared memory (compute capability 9.0).
#pragma once
#include <stdint.h>

// A CUtensorMap; only the driver knows what is inside.
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

__device__ __forceinline__ void tensor_prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// One thread asks for a box; its bytes count towards the phase of `barrier`.
__device__ __forceinline__ void tensor_load(uint32_t to, const TensorMap& map, int x, int y, int z, int w, int u, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to),
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
