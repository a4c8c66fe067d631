// Synchronisation and its kin (compute capability 9.0): barriers in shared memory (mbarrier), named barriers, the fence for the
// copy engine, registers moved between warpgroups, election of a thread, dependent launches.
#pragma once
#include <stdint.h>

// A phase ends when `count` threads have arrived and all announced bytes have landed.
__device__ __forceinline__ void barrier_init(uint32_t barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Makes fresh barriers known to the copy engine; then the block synchronises.
__device__ __forceinline__ void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits until the phase of this parity is over. A fresh barrier's phase before the first counts as parity 1.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// Barrier `id` (1 to 15) of `threads` threads of the block.
__device__ __forceinline__ void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Arrives at the named barrier without waiting.
__device__ __forceinline__ void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// After this and a barrier the copy engine and wgmma see what ordinary stores wrote to shared memory.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int REGISTERS>
__device__ __forceinline__ void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ __forceinline__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// True in one thread of a warp; all threads of it call this. The compiler then knows that it is one only.
__device__ __forceinline__ bool elected() {
    uint32_t one;
    asm volatile("{\n.reg .pred is;\nelect.sync _|is, 0xffffffff;\nselp.b32 %0, 1, 0, is;\n}" : "=r"(one));
    return one != 0;
}

// The launch after this one may start to set up.
__device__ __forceinline__ void dependents_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
// Everything launched before has ended, and what it wrote is seen.
__device__ __forceinline__ void predecessors_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
