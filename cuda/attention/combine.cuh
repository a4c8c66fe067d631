// Combines the partial states of tiles, by their natural-log LSE: out = sum_i e^(lse_i - max) out_i / sum_i e^(lse_i - max).
// A warp per row: a lane per state for the weights, then a lane per two neighbouring columns.
#pragma once
#include "convert.cuh"
#include "rows.cuh"
#include "softmax.cuh"

constexpr int COMBINE_THREADS = 128, COMBINE_ROWS = COMBINE_THREADS / 32;
// Blocks that a multiprocessor of every card holds. Without this bound some versions of ptxas take more registers.
constexpr int combine_blocks(int dim) { return dim > 128 ? 9 : dim > 64 ? 10 : 12; }

// A block's share: blocks are combines x (tile rows / COMBINE_ROWS).
__device__ __forceinline__ OnekvCombine share_of(const OnekvAttention& p, int block) {
    return entry_of(p.combines, block / (p.tile_rows / COMBINE_ROWS));
}

template <typename T, int DIM>
__device__ __forceinline__ void combine(const OnekvAttention& p, const OnekvCombine& share, int block) {
    constexpr int PAIRS = (DIM + 63) / 64;
    const int parts = p.tile_rows / COMBINE_ROWS, lane = threadIdx.x % 32;
    const int row = block % parts * COMBINE_ROWS + threadIdx.x / 32, folded = share.tile_start + row;
    if (folded >= share.rows) return;
    const int64_t first = static_cast<int64_t>(share.first_state) * p.tile_rows + row;
    // Whether the lane's pair of columns exists: where DIM is no multiple of 64, the warp's last pairs do not all.
    auto is_column = [&](int c) { return DIM % 64 == 0 || 64 * c + 2 * lane < DIM; };
    auto lse_of = [&](int i) {
        return i < share.states ? p.partial_lse[first + static_cast<int64_t>(i) * p.tile_rows] : -INFINITY;
    };

    float top = -INFINITY, total = 0, out[PAIRS][2] = {};
    for (int i = lane; i < share.states; i += 32) top = fmaxf(top, lse_of(i));
#pragma unroll
    for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    const float shift = top == -INFINITY ? 0.0f : top;
    for (int begin = 0; begin < share.states; begin += 32) {
        const float own = exp2f((lse_of(begin + lane) - shift) * LOG2E);
        total += own;
        const int count = min(32, share.states - begin);
#pragma unroll 4
        for (int i = 0; i < count; i++) {
            const float weight = __shfl_sync(~0u, own, i);
            const float* from = &p.partial_out[(first + static_cast<int64_t>(begin + i) * p.tile_rows) * DIM + 2 * lane];
#pragma unroll
            for (int c = 0; c < PAIRS; c++) {
                if (!is_column(c)) continue;
                const float2 x = *reinterpret_cast<const float2*>(from + 64 * c);
                // A part whose LSE is -inf has left zeros.
                out[c][0] = fmaf(weight, x.x, out[c][0]);
                out[c][1] = fmaf(weight, x.y, out[c][1]);
            }
        }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
    const float scale = total == 0 ? 0.0f : 1.0f / total;
    T* to = static_cast<T*>(p.out) + row_offset(p, share, folded, p.out_strides) + 2 * lane;
#pragma unroll
    for (int c = 0; c < PAIRS; c++)
        if (is_column(c)) store_two(to + 64 * c, out[c][0] * scale, out[c][1] * scale);
    if (lane == 0 && p.lse) p.lse[row_offset(p, share, folded, p.lse_strides)] = total == 0 ? -INFINITY : shift + logf(total);
}

// The 16-bit element types, and the head_dims that kernels of every architecture have.
#define ONEKV_COMBINES(X) \
    X(__nv_bfloat16, bf16, 64) X(__nv_bfloat16, bf16, 128) X(__nv_bfloat16, bf16, 256) X(__half, f16, 64) X(__half, f16, 128) \
    X(__half, f16, 256)
