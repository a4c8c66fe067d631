// The end of a tile whose keys were shared among warps: their outputs meet, and the result is written.
#pragma once
#include "../ptx/copy.cuh"
#include "../ptx/matrix.cuh"
#include "rows.cuh"
#include "softmax.cuh"

// What the end of a tile takes of shared memory: outputs of WIDTH columns, maxima and sums.
constexpr int join_bytes(int key_warps, int rows, int width) { return key_warps * rows * (width + 2) * 4; }

// Every warp has the unnormalised output, maximum and sum of 16 * ROW_TILES rows from `first_row` on, over the
// keys of its group `key_warp`: element i of out[t][j] is row lane / 4 + i / 2 * 8, column 8 j + lane % 4 * 2 + i % 2,
// or with LANE_COLUMNS 4, which shares sixteen columns out to four lanes: 16 (j / 2) + lane % 4 * 4 + i % 2 * 2 + j % 2.
// They meet in `shared`, [KEY_WARPS, ROWS, DIM + 4 LANE_COLUMNS] f32, without bank conflicts, and twice
// [KEY_WARPS, ROWS]. `sync` is a barrier of Shape::THREADS threads. `v_scale`: what V is multiplied by.
template <typename Shape, int ROW_TILES, typename Sync>
__device__ __forceinline__ void join_and_write(
    const OnekvAttention& p, const OnekvWork& work, char* shared, const Score& score, int thread, int key_warp, int first_row,
    const float (&out)[ROW_TILES][Shape::DIM / 8][4], const float (&highest)[ROW_TILES][2], const float (&sums_of)[ROW_TILES][2], Sync sync,
    float v_scale = 1) {
    using T = typename Shape::Element;
    constexpr int DIM = Shape::DIM, CHUNKS = DIM / 8, ROWS = Shape::ROWS, KEY_WARPS = Shape::KEY_WARPS;
    constexpr int WIDTH = DIM + 4 * Shape::LANE_COLUMNS;
    const int lane = thread % 32;
    float* outs = reinterpret_cast<float*>(shared);
    float* shifts = outs + KEY_WARPS * ROWS * WIDTH;
    float* sums = shifts + KEY_WARPS * ROWS;
    sync();
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = sums_of[t][r];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            const int row = key_warp * ROWS + first_row + 16 * t + lane / 4 + 8 * r;
#pragma unroll
            for (int j = 0; j < DIM / 8; j += 2) {
                const float(&x)[4] = out[t][j], (&y)[4] = out[t][j + 1];
                const uint32_t to = shared_address(&outs[row * WIDTH + 8 * j + lane % 4 * Shape::LANE_COLUMNS]);
                if (Shape::LANE_COLUMNS == 4) {
                    store_four(to, x[2 * r], y[2 * r], x[2 * r + 1], y[2 * r + 1]);
                } else {
                    store_pair(to, x[2 * r], x[2 * r + 1]);
                    store_pair(to + 8 * 4, y[2 * r], y[2 * r + 1]);
                }
            }
            if (lane % 4 == 0) {
                shifts[row] = highest[t][r] == -INFINITY ? -INFINITY : highest[t][r] * score.log2_scale;
                sums[row] = sum;
            }
        }
    sync();

    // Eight elements of a row per thread.
    for (int i = thread; i < ROWS * CHUNKS; i += Shape::THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, folded = work.tile + row;
        if (folded >= work.rows) continue;
        float top = -INFINITY;
#pragma unroll
        for (int w = 0; w < KEY_WARPS; w++) top = fmaxf(top, shifts[w * ROWS + row]);
        const float base = top == -INFINITY ? 0.0f : top;
        float total = 0, x[8] = {};
#pragma unroll
        for (int w = 0; w < KEY_WARPS; w++) {
            const float weight = KEY_WARPS == 1 ? 1.0f : exp2_approx(shifts[w * ROWS + row] - base);
            total += weight * sums[w * ROWS + row];
            const float4* from = reinterpret_cast<const float4*>(&outs[(w * ROWS + row) * WIDTH + chunk * 8]);
            // Half of the threads take the upper four first: eight threads then cover all banks.
            const int flip = chunk >> 2 & 1;
            const float4 first = from[flip], second = from[flip ^ 1];
            const float4 low = flip ? second : first, high = flip ? first : second;
            x[0] += weight * low.x, x[1] += weight * low.y, x[2] += weight * low.z, x[3] += weight * low.w;
            x[4] += weight * high.x, x[5] += weight * high.y, x[6] += weight * high.z, x[7] += weight * high.w;
        }
        // No keys: out = 0, lse = -inf. A NaN sum stays one.
        const float scale = total == 0 ? 0.0f : v_scale / total;
        const float lse = total == 0 ? -INFINITY : base * LN2 + logf(total);
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] *= scale;
        if (work.slot >= 0) {
            const int64_t at = static_cast<int64_t>(work.slot) * ROWS + row;
            float4* to = reinterpret_cast<float4*>(&p.partial_out[at * DIM + chunk * 8]);
            to[0] = make_float4(x[0], x[1], x[2], x[3]);
            to[1] = make_float4(x[4], x[5], x[6], x[7]);
            if (chunk == 0) p.partial_lse[at] = lse;
        } else {
            T* to = static_cast<T*>(p.out) + row_offset(p, work, folded, p.out_strides) + chunk * 8;
            *reinterpret_cast<uint4*>(to) = make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
            if (chunk == 0 && p.lse) p.lse[row_offset(p, work, folded, p.lse_strides)] = lse;
        }
    }
}
