// One tile of folded query rows over a range of keys, on tensor cores (16-bit types).
//
// ROW_WARPS warps share the rows, 16 each; KEY_WARPS groups of them share the keys of every K/V tile, each
// with a softmax of its own, joined at the end. K and V tiles come by cp.async, STAGES in flight, and are
// read once for all rows. 16-byte chunks of a tile's rows are permuted by XOR with the row, which keeps
// both the copies and ldmatrix free of bank conflicts.
//
//   keys ->                 S = Q K^T per warp: 16 rows x (TILE_KEYS / KEY_WARPS) keys
//   +----+----+----+----+   P = 2^(S - max), kept in registers as the A operand of
//   | w0 | w1 | w2 | w3 |   O = P V
//   +----+----+----+----+   (here ROW_WARPS = 1, KEY_WARPS = 4: few rows)
#pragma once
#include "../ptx/copy.cuh"
#include "../ptx/matrix.cuh"
#include "softmax.cuh"

template <typename T, int DIM_, int ROW_WARPS_, int KEY_WARPS_, int TILE_KEYS_, int STAGES_>
struct TileShape {
    using Element = T;
    static constexpr int DIM = DIM_, ROW_WARPS = ROW_WARPS_, KEY_WARPS = KEY_WARPS_, TILE_KEYS = TILE_KEYS_, STAGES = STAGES_;
    static constexpr int ROWS = 16 * ROW_WARPS;
    static constexpr int THREADS = 32 * ROW_WARPS * KEY_WARPS;
    static constexpr int WARP_KEYS = TILE_KEYS / KEY_WARPS;
    static constexpr int CHUNKS = DIM / 8;  // 16-byte chunks of a row
    static constexpr int TILE_BYTES = TILE_KEYS * DIM * 2;
    static constexpr int Q_BYTES = ROWS * DIM * 2;
    // The output of every warp meets in shared memory in f32, padded by 8 elements a row.
    static constexpr int OUT_BYTES = KEY_WARPS * ROWS * (DIM + 8) * 4 + 2 * KEY_WARPS * ROWS * 4;
    static constexpr int LOOP_BYTES = Q_BYTES + 2 * STAGES * TILE_BYTES;
    static constexpr int SHARED_BYTES = LOOP_BYTES > OUT_BYTES ? LOOP_BYTES : OUT_BYTES;
    static_assert(WARP_KEYS % 16 == 0, "a warp multiplies 16 keys at a time");
};

// Shared address of a 16-byte chunk of a row.
template <int CHUNKS>
__device__ __forceinline__ uint32_t chunk_at(uint32_t tile, int row, int chunk) {
    return tile + (row * CHUNKS + (chunk ^ (row & 7))) * 16;
}

template <typename Shape>
__device__ __forceinline__ void attend_tile(const OnekvAttention& p, const OnekvWork work, char* shared) {
    using T = typename Shape::Element;
    constexpr int DIM = Shape::DIM, CHUNKS = Shape::CHUNKS, ROWS = Shape::ROWS, KEYS = Shape::TILE_KEYS;
    constexpr int WARP_KEYS = Shape::WARP_KEYS, KEY_WARPS = Shape::KEY_WARPS, STAGES = Shape::STAGES;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int row_warp = warp % Shape::ROW_WARPS, key_warp = warp / Shape::ROW_WARPS;
    const uint32_t q_tile = shared_address(shared), kv_tiles = q_tile + Shape::Q_BYTES;
    const T* q = static_cast<const T*>(p.q);
    const T* k = static_cast<const T*>(p.k) + work.kv_head * p.k_strides.head;
    const T* v = static_cast<const T*>(p.v) + work.kv_head * p.v_strides.head;

    // Folded rows past the input's end are zeros: they are computed and not written.
    for (int i = thread; i < ROWS * CHUNKS; i += Shape::THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, folded = work.tile + row;
        const bool valid = folded < work.rows;
        const int64_t query = work.row_base + (valid ? folded / p.group : 0);
        const int64_t head = work.kv_head * p.group + (valid ? folded % p.group : 0);
        copy_async_16(chunk_at<CHUNKS>(q_tile, row, chunk), q + query * p.q_strides.row + head * p.q_strides.head + chunk * 8, valid);
    }
    const int tiles = (work.key_end - work.key_begin + KEYS - 1) / KEYS;
    auto fetch = [&](int tile) {
        if (tile < tiles) {
            const uint32_t stage = kv_tiles + tile % STAGES * 2 * Shape::TILE_BYTES;
#pragma unroll
            for (int i = thread; i < KEYS * CHUNKS; i += Shape::THREADS) {
                const int row = i / CHUNKS, chunk = i % CHUNKS;
                const int64_t key = work.key_begin + tile * KEYS + row;
                // Keys past the end are zeros: 0 x 0 adds nothing, where stale memory might hold NaN.
                const bool valid = key < work.key_end;
                const int64_t at = valid ? key : work.key_begin;
                copy_async_16(chunk_at<CHUNKS>(stage, row, chunk), k + at * p.k_strides.row + chunk * 8, valid);
                copy_async_16(chunk_at<CHUNKS>(stage + Shape::TILE_BYTES, row, chunk), v + at * p.v_strides.row + chunk * 8, valid);
            }
        }
        // Empty groups keep the count of groups in flight constant.
        copy_commit();
    };
#pragma unroll
    for (int tile = 0; tile < STAGES - 1; tile++) fetch(tile);

    const Score score(p);
    float out[DIM / 8][4] = {};
    float highest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (int tile = 0; tile < tiles; tile++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        // The stage that was read in the last iteration is free for the next tile.
        fetch(tile + STAGES - 1);
        const uint32_t k_tile = kv_tiles + tile % STAGES * 2 * Shape::TILE_BYTES, v_tile = k_tile + Shape::TILE_BYTES;
        const int first = key_warp * WARP_KEYS;

        float s[WARP_KEYS / 8][4] = {};
#pragma unroll
        for (int d = 0; d < DIM; d += 16) {
            uint32_t a[4];
            load_matrix(a, chunk_at<CHUNKS>(q_tile, row_warp * 16 + lane % 16, d / 8 + lane / 16));
#pragma unroll
            for (int key = 0; key < WARP_KEYS; key += 16) {
                uint32_t b[4];
                load_matrix(b, chunk_at<CHUNKS>(k_tile, first + key + lane % 8 + lane / 16 * 8, d / 8 + lane / 8 % 2));
                multiply<T>(s[key / 8], a, b[0], b[1]);
                multiply<T>(s[key / 8 + 1], a, b[2], b[3]);
            }
        }

        // Element i of s[j]: row lane / 4 + i / 2 * 8, key 8 j + lane % 4 * 2 + i % 2.
        const int left = work.key_end - work.key_begin - tile * KEYS - first - lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < WARP_KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[j][i] = 8 * j + i % 2 < left ? score.capped(s[j][i]) : -INFINITY;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = highest[r];
#pragma unroll
            for (int j = 0; j < WARP_KEYS / 8; j++) top = fmaxf(top, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            const float shift = score.shift(top), rescale = score.weight(highest[r], shift);
            highest[r] = top;
            sum[r] *= rescale;
#pragma unroll
            for (int j = 0; j < DIM / 8; j++) out[j][2 * r] *= rescale, out[j][2 * r + 1] *= rescale;
#pragma unroll
            for (int j = 0; j < WARP_KEYS / 8; j++) {
                s[j][2 * r] = score.weight(s[j][2 * r], shift);
                s[j][2 * r + 1] = score.weight(s[j][2 * r + 1], shift);
                sum[r] += s[j][2 * r] + s[j][2 * r + 1];
            }
        }

#pragma unroll
        for (int key = 0; key < WARP_KEYS; key += 16) {
            const uint32_t a[4] = {pack<T>(s[key / 8][0], s[key / 8][1]), pack<T>(s[key / 8][2], s[key / 8][3]),
                                   pack<T>(s[key / 8 + 1][0], s[key / 8 + 1][1]), pack<T>(s[key / 8 + 1][2], s[key / 8 + 1][3])};
#pragma unroll
            for (int d = 0; d < DIM; d += 16) {
                uint32_t b[4];
                load_matrix_transposed(b, chunk_at<CHUNKS>(v_tile, first + key + lane % 16, d / 8 + lane / 16));
                multiply<T>(out[d / 8], a, b[0], b[1]);
                multiply<T>(out[d / 8 + 1], a, b[2], b[3]);
            }
        }
    }

    // Every warp's unnormalised output, maximum (in log2) and sum meet in shared memory.
    copy_wait<0>();
    __syncthreads();
    constexpr int WIDTH = DIM + 8;
    float* outs = reinterpret_cast<float*>(shared);
    float* shifts = outs + KEY_WARPS * ROWS * WIDTH;
    float* sums = shifts + KEY_WARPS * ROWS;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        const int row = key_warp * ROWS + row_warp * 16 + lane / 4 + 8 * r;
#pragma unroll
        for (int j = 0; j < DIM / 8; j++)
            store_pair(shared_address(&outs[row * WIDTH + 8 * j + lane % 4 * 2]), out[j][2 * r], out[j][2 * r + 1]);
        if (lane % 4 == 0) {
            shifts[row] = highest[r] == -INFINITY ? -INFINITY : highest[r] * score.log2_scale;
            sums[row] = sum[r];
        }
    }
    __syncthreads();

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
        const float scale = total == 0 ? 0.0f : 1.0f / total;
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
            const int64_t query = work.row_base + folded / p.group, head = work.kv_head * p.group + folded % p.group;
            T* to = static_cast<T*>(p.out) + query * p.out_strides.row + head * p.out_strides.head + chunk * 8;
            *reinterpret_cast<uint4*>(to) = make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
            if (chunk == 0 && p.lse) p.lse[query * p.lse_strides.row + head * p.lse_strides.head] = lse;
        }
    }
}
