// Combines the states of split keys on Hopper: set up while the attention still runs.
#include "../attention/combine.cuh"
#include "../ptx/barrier.cuh"

#define ONEKV_COMBINE(T, TYPE, DIM)                                                                                       \
    extern "C" __global__ void __launch_bounds__(COMBINE_THREADS)                                                         \
        onekv_sm90_combine_##TYPE##_##DIM(const __grid_constant__ OnekvAttention p) {                                     \
        dependents_start();                                                                                               \
        predecessors_wait();                                                                                              \
        combine<T, DIM>(p, blockIdx.x);                                                                                   \
    }
ONEKV_COMBINES(ONEKV_COMBINE)
