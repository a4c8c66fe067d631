// The kernels that combine split keys where launches overlap: blocks start, and read their share, while the attention runs.
#include "../attention/combine.cuh"
#include "../ptx/barrier.cuh"

#define ONEKV_COMBINE(T, TYPE, DIM)                                                                                       \
    extern "C" __global__ void __launch_bounds__(COMBINE_THREADS, combine_blocks(DIM))                                    \
        onekv_sm90_combine_##TYPE##_##DIM(const __grid_constant__ OnekvAttention p) {                                     \
        dependents_start();                                                                                               \
        const OnekvCombine share = share_of(p, blockIdx.x);                                                               \
        predecessors_wait();                                                                                              \
        combine<T, DIM>(p, share, blockIdx.x);                                                                            \
    }
ONEKV_COMBINES(ONEKV_COMBINE)
