// Merges the partial states of a tile: out = sum_i 2^(lse_i - top) out_i / sum_i 2^(lse_i - top). A warp per row.
#include "attention/convert.cuh"
#include "attention/softmax.cuh"

template <typename T, int DIM>
__device__ __forceinline__ void combine(const OnekvAttention& p) {
    const OnekvMerge merge = p.merges[blockIdx.x];
    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < p.tile_rows; row += 4) {
        const int folded = merge.tile + row;
        if (folded >= merge.rows) break;
        const int64_t first = static_cast<int64_t>(merge.slot) * p.tile_rows + row;
        float top = -INFINITY;
        for (int i = 0; i < merge.slots; i++) top = fmaxf(top, p.partial_lse[first + static_cast<int64_t>(i) * p.tile_rows]);
        const float base = top == -INFINITY ? 0.0f : top;
        float total = 0, out[DIM / 32] = {};
        for (int i = 0; i < merge.slots; i++) {
            const int64_t at = first + static_cast<int64_t>(i) * p.tile_rows;
            const float weight = exp2f((p.partial_lse[at] - base) * LOG2E);
            // A part without weight has nothing to say, whatever its output holds.
            if (weight == 0) continue;
            total += weight;
#pragma unroll
            for (int c = 0; c < DIM / 32; c++) out[c] = fmaf(weight, p.partial_out[at * DIM + 32 * c + lane], out[c]);
        }
        const float scale = total == 0 ? 0.0f : 1.0f / total;
        const int64_t query = merge.row_base + folded / p.group, head = merge.kv_head * p.group + folded % p.group;
        T* to = static_cast<T*>(p.out) + query * p.out_strides.row + head * p.out_strides.head;
#pragma unroll
        for (int c = 0; c < DIM / 32; c++) to[32 * c + lane] = from_float<T>(out[c] * scale);
        if (lane == 0 && p.lse) p.lse[query * p.lse_strides.row + head * p.lse_strides.head] = total == 0 ? -INFINITY : base + logf(total);
    }
}

#define ONEKV_COMBINE(T, TYPE, DIM)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) onekv_combine_##TYPE##_##DIM(const __grid_constant__ OnekvAttention p) {    \
        combine<T, DIM>(p);                                                                                                       \
    }
#define ONEKV_COMBINES(T, TYPE) ONEKV_COMBINE(T, TYPE, 64) ONEKV_COMBINE(T, TYPE, 128) ONEKV_COMBINE(T, TYPE, 256)
ONEKV_COMBINES(__nv_bfloat16, bf16)
ONEKV_COMBINES(__half, f16)
ONEKV_COMBINES(float, f32)
