// The kernels that combine split keys, for every card.
#include "attention/combine.cuh"

#define ONEKV_COMBINE(T, TYPE, DIM)                                                                                       \
    extern "C" __global__ void __launch_bounds__(COMBINE_THREADS, combine_blocks(DIM))                                    \
        onekv_combine_##TYPE##_##DIM(const __grid_constant__ OnekvAttention p) {                                          \
        combine<T, DIM>(p, share_of(p, blockIdx.x), blockIdx.x);                                                                                   \
    }
ONEKV_COMBINES(ONEKV_COMBINE)
// What only kernels for 8.0 compute; their launches do not overlap.
ONEKV_COMBINE(__nv_bfloat16, bf16, 32)
ONEKV_COMBINE(__nv_bfloat16, bf16, 96)
ONEKV_COMBINE(__half, f16, 32)
ONEKV_COMBINE(__half, f16, 96)
ONEKV_COMBINE(float, f32, 32)
ONEKV_COMBINE(float, f32, 64)
ONEKV_COMBINE(float, f32, 96)
ONEKV_COMBINE(float, f32, 128)
ONEKV_COMBINE(float, f32, 256)
