// Clusters: blocks that run at the same time and reach each other's shared memory (compute capability 9.0).
#pragma once
#include <stdint.h>

__device__ __forceinline__ int cluster_rank() {
    int rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ int cluster_size() {
    int size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}
// A barrier of all threads of all blocks. It publishes no writes, but for barriers that barrier_init_fence followed.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Arrives at the barrier at the same address of block `rank`. It says that reads are over, and publishes no writes:
// `.release.cluster` would, at the price of a MEMBAR.GPU each time.
__device__ __forceinline__ void barrier_arrive_at(uint32_t barrier, int rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}
// The copy engine writes `bytes` of this block's shared memory to that of block `rank`, where they count towards the barrier
// in the place of `barrier`. Both addresses are of this block's; 16 bytes aligned, as many or a multiple.
__device__ __forceinline__ void copy_to_block(uint32_t to, uint32_t from, int bytes, uint32_t barrier, int rank) {
    asm volatile(
        "{\n.reg .b32 there, told;\nmapa.shared::cluster.u32 there, %0, %4;\nmapa.shared::cluster.u32 told, %3, %4;\n"
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [there], [%1], %2, [told];\n}" ::"r"(to),
        "r"(from), "r"(bytes), "r"(barrier), "r"(rank)
        : "memory");
}
// The address in block `rank` of what this block has at `shared`.
__device__ __forceinline__ uint32_t at_block(uint32_t shared, int rank) {
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared), "r"(rank));
    return there;
}
// Two neighbours to a block of the cluster; their 8 bytes count towards the phase of `barrier`, of the same block.
__device__ __forceinline__ void store_pair_async(uint32_t to, float x, float y, uint32_t barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to), "f"(x), "f"(y), "r"(barrier)
                 : "memory");
}
// Waits until the phase of this parity is over, and sees what other blocks stored that counted towards it.
__device__ __forceinline__ void barrier_wait_for_blocks(uint32_t barrier, int parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}
