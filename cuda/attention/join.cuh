// The end of a tile whose keys were shared out: the states of warps, then of a cluster's blocks, are joined, and the result is
// written.
#pragma once
#include "../ptx/barrier.cuh"
#include "../ptx/cluster.cuh"
#include "../ptx/copy.cuh"
#include "../ptx/matrix.cuh"
#include "rows.cuh"
#include "softmax.cuh"

// Shared memory that joining the warps takes: outputs of `width` columns, maxima and sums.
constexpr int join_bytes(int key_warps, int rows, int width) { return key_warps * rows * (width + 2) * 4; }

// Blocks of the largest cluster that shares out the keys of a tile.
constexpr int MAX_RANKS = 8;

// Eight f32 from and to shared memory, as two accesses of sixteen bytes. Neighbouring threads have neighbouring eights: four of
// each eight threads take the upper half first, so that there are no bank conflicts. `i`: the number of the eight.
__device__ __forceinline__ void load_eight(float (&x)[8], const float* from, int i) {
    const int flip = i >> 2 & 1;
    const float4* of = reinterpret_cast<const float4*>(from);
    const float4 first = of[flip], second = of[flip ^ 1];
    const float4 low = flip ? second : first, high = flip ? first : second;
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w, x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}
__device__ __forceinline__ void store_eight(float* to, const float (&x)[8], int i) {
    const int flip = i >> 2 & 1;
    float4* of = reinterpret_cast<float4*>(to);
    const float4 low = make_float4(x[0], x[1], x[2], x[3]), high = make_float4(x[4], x[5], x[6], x[7]);
    of[flip] = flip ? high : low;
    of[flip ^ 1] = flip ? low : high;
}

// Writes eight elements of the result, and with the first of a row its LSE.
template <typename T>
__device__ __forceinline__ void write_result(
    const OnekvAttention& p, const OnekvWork& work, int folded, int chunk, const float (&x)[8], float lse) {
    T* to = static_cast<T*>(p.out) + row_offset(p, work, folded, p.out_strides) + chunk * 8;
    *reinterpret_cast<uint4*>(to) = make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
    if (chunk == 0 && p.lse) p.lse[row_offset(p, work, folded, p.lse_strides)] = lse;
}

// Joins the states of a cluster's blocks, which shared out the keys. Each block has left its state of every row, normalised,
// with the LSE in column DIM, at the beginning of `shared`, [ROWS, WIDTH] f32. Every block writes an equal number of rows:
// the copy engine brings their states from all blocks, to behind its own, [ranks, rows of a block, DIM + 4]. Nothing goes to
// memory, and as other blocks read no ordinary store, no fence over the card is needed. The sums are those of
// cuda/attention/combine.cuh, bit for bit.
template <typename Shape>
__device__ __forceinline__ void join_cluster(const OnekvAttention& p, const OnekvWork& work, const char* shared, int thread, int ranks) {
    constexpr int DIM = Shape::DIM, CHUNKS = DIM / 8, ROWS = Shape::ROWS, WIDTH = DIM + 4 * Shape::LANE_COLUMNS, RECORD = DIM + 4;
    static_assert(RECORD <= WIDTH && Shape::KEY_WARPS > 1 && ROWS % MAX_RANKS == 0, "states that arrive go where a second group of warps had its output");
    const int rank = cluster_rank(), valid = min(ROWS, work.rows - work.tile_start), of_block = (valid + ranks - 1) / ranks;
    const int own = max(0, min(of_block, valid - rank * of_block));
    const float* arrivals = reinterpret_cast<const float*>(shared) + ROWS * WIDTH;
    const uint32_t base = shared_address(shared), arrived = base + Shape::ARRIVED_AT;
    if (thread == 0) barrier_arrive_expect(arrived, ranks * own * RECORD * 4);
    fence_async();
    __syncthreads();
    // All blocks have read what the arriving rows overwrite.
    cluster_sync();
    for (int row = thread; row < valid; row += Shape::THREADS)
        copy_to_block(
            shared_address(arrivals) + (rank * of_block + row % of_block) * RECORD * 4, base + row * WIDTH * 4, RECORD * 4, arrived, row / of_block);
    barrier_wait(arrived, 0);
    for (int i = thread; i < own * CHUNKS; i += Shape::THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const float* record = arrivals + row * RECORD;
        float lse[MAX_RANKS], top = -INFINITY, out[8] = {};
#pragma unroll
        for (int r = 0; r < MAX_RANKS; r++) {
            lse[r] = r < ranks ? record[r * of_block * RECORD + DIM] : -INFINITY;
            top = fmaxf(top, lse[r]);
        }
        const float shift = top == -INFINITY ? 0.0f : top;
#pragma unroll
        for (int r = 0; r < MAX_RANKS; r++) lse[r] = exp2f((lse[r] - shift) * LOG2E);
#pragma unroll
        for (int r = 0; r < MAX_RANKS; r++) {
            if (r >= ranks) break;
            float x[8];
            load_eight(x, record + r * of_block * RECORD + chunk * 8, i);
#pragma unroll
            for (int e = 0; e < 8; e++) out[e] = fmaf(lse[r], x[e], out[e]);
        }
        // In the order in which a warp's shuffles add up its lanes.
#pragma unroll
        for (int step = MAX_RANKS / 2; step > 0; step /= 2)
#pragma unroll
            for (int r = 0; r < step; r++) lse[r] += lse[r + step];
        const float total = lse[0], scale = total == 0 ? 0.0f : 1.0f / total;
#pragma unroll
        for (int e = 0; e < 8; e++) out[e] *= scale;
        write_result<typename Shape::Element>(
            p, work, work.tile_start + rank * of_block + row, chunk, out, total == 0 ? -INFINITY : shift + logf(total));
    }
    // No block ends before the others have what it sent.
    cluster_sync();
}

// Every warp has the unnormalised output, maximum and sum of 16 * ROW_TILES rows from `first_row` on, over the
// keys of its group `key_warp`: element i of out[t][j] is row lane / 4 + i / 2 * 8, column 8 j + lane % 4 * 2 + i % 2,
// or with LANE_COLUMNS 4, which shares sixteen columns out to four lanes: 16 (j / 2) + lane % 4 * 4 + i % 2 * 2 + j % 2.
// `shifts_of`: the maxima, times the scale to powers of two. `shared` takes the outputs, [KEY_WARPS, ROWS,
// DIM + 4 LANE_COLUMNS] f32, which is free of bank conflicts, then the maxima and the sums, [KEY_WARPS, ROWS] each. `sync` is
// a barrier of Shape::THREADS threads. `v_scale`: the factor on V. Where two warps share out columns instead of rows, tile t
// of OUT_TILES begins at row first_row + row_step t and at `first_column`; maxima and sums are of the first ROW_TILES, the
// warp's own.
template <typename Shape, int OUT_TILES, int OUT_CHUNKS, int ROW_TILES, typename Sync>
__device__ __forceinline__ void join_and_write(
    const OnekvAttention& p, const OnekvWork& work, char* shared, int thread, int key_warp, int first_row,
    const float (&out)[OUT_TILES][OUT_CHUNKS][4], const float (&shifts_of)[ROW_TILES][2], const float (&sums_of)[ROW_TILES][2], Sync sync,
    float v_scale = 1, int row_step = 16, int first_column = 0) {
    using T = typename Shape::Element;
    constexpr int DIM = Shape::DIM, CHUNKS = DIM / 8, ROWS = Shape::ROWS, KEY_WARPS = Shape::KEY_WARPS;
    constexpr int WIDTH = DIM + 4 * Shape::LANE_COLUMNS;
    const int lane = thread % 32;
    float* outs = reinterpret_cast<float*>(shared);
    float* shifts = outs + KEY_WARPS * ROWS * WIDTH;
    float* sums = shifts + KEY_WARPS * ROWS;
    sync();
#pragma unroll
    for (int t = 0; t < OUT_TILES; t++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = key_warp * ROWS + first_row + row_step * t + lane / 4 + 8 * r;
#pragma unroll
            for (int j = 0; j < OUT_CHUNKS; j += 2) {
                const float(&x)[4] = out[t][j], (&y)[4] = out[t][j + 1];
                const uint32_t to = shared_address(&outs[row * WIDTH + first_column + 8 * j + lane % 4 * Shape::LANE_COLUMNS]);
                if (Shape::LANE_COLUMNS == 4) {
                    store_four(to, x[2 * r], y[2 * r], x[2 * r + 1], y[2 * r + 1]);
                } else {
                    store_pair(to, x[2 * r], x[2 * r + 1]);
                    store_pair(to + 8 * 4, y[2 * r], y[2 * r + 1]);
                }
            }
            if (t >= ROW_TILES) continue;
            float sum = sums_of[t < ROW_TILES ? t : 0][r];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            if (lane % 4 == 0) {
                shifts[row] = shifts_of[t < ROW_TILES ? t : 0][r];
                sums[row] = sum;
            }
        }
    sync();

    const int ranks = Shape::CLUSTERS ? cluster_size() : 1;
    const bool in_cluster = ranks > 1;
    // Each thread joins eight elements of a row.
    for (int i = thread; i < ROWS * CHUNKS; i += Shape::THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, folded = work.tile_start + row;
        if (folded >= work.rows) continue;
        float top = -INFINITY;
#pragma unroll
        for (int w = 0; w < KEY_WARPS; w++) top = fmaxf(top, shifts[w * ROWS + row]);
        const float shift = top == -INFINITY ? 0.0f : top;
        float total = 0, x[8] = {};
#pragma unroll
        for (int w = 0; w < KEY_WARPS; w++) {
            const float weight = KEY_WARPS == 1 ? 1.0f : exp2_approx(shifts[w * ROWS + row] - shift);
            total += weight * sums[w * ROWS + row];
            float part[8];
            load_eight(part, &outs[(w * ROWS + row) * WIDTH + chunk * 8], i);
#pragma unroll
            for (int e = 0; e < 8; e++) x[e] += weight * part[e];
        }
        // Nothing has any weight: out = 0, lse = -inf, which infinite values times 0 would not show. A NaN sum stays one.
        const bool none = total == 0;
        const float scale = v_scale / total, lse = none ? -INFINITY : shift * LN2 + logf(total);
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = none ? 0.0f : x[e] * scale;
        if (in_cluster) {
            // Over the eight that this thread alone has read.
            store_eight(&outs[row * WIDTH + chunk * 8], x, i);
            // Sixteen bytes: the copy engine takes no less.
            if (chunk == 0) store_four(shared_address(&outs[row * WIDTH + DIM]), lse, 0, 0, 0);
        } else if (work.state >= 0) {
            const int64_t at = static_cast<int64_t>(work.state) * ROWS + row;
            float4* to = reinterpret_cast<float4*>(&p.partial_out[at * DIM + chunk * 8]);
            to[0] = make_float4(x[0], x[1], x[2], x[3]);
            to[1] = make_float4(x[4], x[5], x[6], x[7]);
            if (chunk == 0) p.partial_lse[at] = lse;
        } else {
            write_result<T>(p, work, folded, chunk, x, lse);
        }
    }
    if constexpr (Shape::CLUSTERS)
        if (in_cluster) join_cluster<Shape>(p, work, shared, thread, ranks);
}
