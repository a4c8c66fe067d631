// merge_states: attention over disjoint parts of the keys joined into attention over all of them,
// out = sum_i e^(lse_i - lse) out_i with lse = ln sum_i e^(lse_i). A warp per query row and head.
#include "attention/convert.cuh"
#include "attention/softmax.cuh"

template <typename P, typename T>
__device__ __forceinline__ void merge_states(const OnekvMergeStates& p) {
    const int lane = threadIdx.x % 32;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * 4 + threadIdx.x / 32, row = at / p.heads, head = at % p.heads;
    if (row >= p.rows) return;
    float weights[ONEKV_MAX_STATES], top = -INFINITY, total = 0;
    const P* outs[ONEKV_MAX_STATES];
#pragma unroll
    for (int i = 0; i < ONEKV_MAX_STATES; i++) {
        if (i < p.count) {
            const OnekvState& state = p.states[i];
            weights[i] = state.lse[row * state.lse_strides.row + head * state.lse_strides.head];
            // The output of a part without keys may hold anything: it is not read.
            outs[i] = weights[i] == -INFINITY ? nullptr : static_cast<const P*>(state.out) + row * state.out_strides.row + head * state.out_strides.head;
            top = fmaxf(top, weights[i]);
        }
    }
    const float shift = top == -INFINITY ? 0.0f : top;
#pragma unroll
    for (int i = 0; i < ONEKV_MAX_STATES; i++)
        if (i < p.count) total += weights[i] = exp2f((weights[i] - shift) * LOG2E);
    // No keys anywhere: out = 0, lse = -inf. A NaN total stays one.
    const float scale = total == 0 ? 0.0f : 1.0f / total;
    T* to = static_cast<T*>(p.out) + row * p.out_strides.row + head * p.out_strides.head;
    for (int d = lane; d < p.head_dim; d += 32) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < ONEKV_MAX_STATES; i++)
            if (i < p.count && outs[i]) sum = fmaf(weights[i], to_float(outs[i][d]), sum);
        to[d] = from_float<T>(sum * scale);
    }
    if (lane == 0 && p.lse) p.lse[row * p.lse_strides.row + head * p.lse_strides.head] = total == 0 ? -INFINITY : shift + logf(total);
}

#define ONEKV_MERGE(P, FROM, T, TO)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128, 8) onekv_merge_##FROM##_##TO(const __grid_constant__ OnekvMergeStates p) {  \
        merge_states<P, T>(p);                                                                                                    \
    }
ONEKV_MERGE(float, f32, float, f32)
ONEKV_MERGE(float, f32, __half, f16)
ONEKV_MERGE(float, f32, __nv_bfloat16, bf16)
ONEKV_MERGE(__half, f16, __half, f16)
ONEKV_MERGE(__nv_bfloat16, bf16, __nv_bfloat16, bf16)
