// Launches that overlap (9.0 and newer): the next one is set up while this one runs.
#pragma once
#include "ptx/barrier.cuh"

// Also before the wait, where something is fetched that the launches before do not write.
__device__ __forceinline__ void next_may_start() {
#if __CUDA_ARCH__ >= 900
    dependents_start();
#endif
}

// First in every kernel. What the launches before wrote is seen after it, and what they read may be overwritten: each
// of them waited likewise, so that the end of the last is the end of all. Before 9.0 launches do not overlap.
__device__ __forceinline__ void in_order() {
    next_may_start();
#if __CUDA_ARCH__ >= 900
    predecessors_wait();
#endif
}
