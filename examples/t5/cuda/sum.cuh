// Sums over a block of 256 threads.
#pragma once

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

// The same sum in every thread, in an order that does not depend on timing. Once per kernel.
__device__ __forceinline__ float sum_of_block(float x) {
    __shared__ float sums[8];
    x = sum_of_warp(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < 8; warp++) total += sums[warp];
    return total;
}
