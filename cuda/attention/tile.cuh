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
#include "join.cuh"
#include "rows.cuh"
#include "softmax.cuh"

template <typename T, int DIM_, int ROW_WARPS_, int KEY_WARPS_, int TILE_KEYS_, int STAGES_>
struct TileShape {
    using Element = T;
    static constexpr int DIM = DIM_, ROW_WARPS = ROW_WARPS_, KEY_WARPS = KEY_WARPS_, TILE_KEYS = TILE_KEYS_, STAGES = STAGES_;
    static constexpr int ROWS = 16 * ROW_WARPS;
    static constexpr int THREADS = 32 * ROW_WARPS * KEY_WARPS;
    static constexpr int WARP_KEYS = TILE_KEYS / KEY_WARPS;
    static constexpr int CHUNKS = DIM / 8;  // 16-byte chunks of a row
    static constexpr int LANE_COLUMNS = 2;  // neighbouring columns of the output that a lane holds
    static constexpr bool CLUSTERS = false; // no cluster shares out the keys
    static constexpr int TILE_BYTES = TILE_KEYS * DIM * 2;
    static constexpr int Q_BYTES = ROWS * DIM * 2;
    // Q and the K/V stages; joining the warps' outputs takes the same memory afterwards.
    static constexpr int LOOP_BYTES = Q_BYTES + 2 * STAGES * TILE_BYTES;
    static constexpr int JOIN_BYTES = join_bytes(KEY_WARPS, ROWS, DIM + 4 * LANE_COLUMNS);
    static constexpr int SHARED_BYTES = LOOP_BYTES > JOIN_BYTES ? LOOP_BYTES : JOIN_BYTES;
    static_assert(WARP_KEYS % 16 == 0, "a warp multiplies 16 keys at a time");
};

template <typename Shape>
__device__ __forceinline__ void attend_tile(const OnekvAttention& p, const OnekvWork work, char* shared) {
    using T = typename Shape::Element;
    constexpr int DIM = Shape::DIM, CHUNKS = Shape::CHUNKS, ROWS = Shape::ROWS, KEYS = Shape::TILE_KEYS;
    constexpr int WARP_KEYS = Shape::WARP_KEYS, STAGES = Shape::STAGES;
    if (work.rows == 0) return;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int row_warp = warp % Shape::ROW_WARPS, key_warp = warp / Shape::ROW_WARPS;
    const uint32_t q_tile = shared_address(shared), kv_tiles = q_tile + Shape::Q_BYTES;
    const T* q = static_cast<const T*>(p.q);
    const T* k = static_cast<const T*>(p.k) + work.kv_slot * p.k_slot_stride + work.kv_head * p.k_strides.head;
    const T* v = static_cast<const T*>(p.v) + work.kv_slot * p.v_slot_stride + work.kv_head * p.v_strides.head;

    // Folded rows past the input's end are zeros: they are computed and not written.
    for (int i = thread; i < ROWS * CHUNKS; i += Shape::THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, folded = work.tile_start + row;
        const bool valid = folded < work.rows;
        copy_async_16(chunk_at<CHUNKS>(q_tile, row, chunk), q + row_offset(p, work, valid ? folded : 0, p.q_strides) + chunk * 8, valid);
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

        score.cap_all(s);
        score.mask(s, work.key_end - work.key_begin - tile * KEYS - first, lane);
        float rescale[2];
        score.softmax(s, highest, sum, rescale);
        if (!all_one(rescale)) scale_rows(out, rescale);

#pragma unroll
        for (int key = 0; key < WARP_KEYS; key += 16) {
            uint32_t a[4];
            pack_weights<T>(a, s[key / 8], s[key / 8 + 1]);
#pragma unroll
            for (int d = 0; d < DIM; d += 16) {
                uint32_t b[4];
                load_matrix_transposed(b, chunk_at<CHUNKS>(v_tile, first + key + lane % 16, d / 8 + lane / 16));
                multiply<T>(out[d / 8], a, b[0], b[1]);
                multiply<T>(out[d / 8 + 1], a, b[2], b[3]);
            }
        }
    }

    copy_wait<0>();
    highest[0] *= score.log2_scale, highest[1] *= score.log2_scale;
    join_and_write<Shape>(
        p, work, shared, thread, key_warp, row_warp * 16, reinterpret_cast<const float(&)[1][DIM / 8][4]>(out),
        reinterpret_cast<const float(&)[1][2]>(highest), reinterpret_cast<const float(&)[1][2]>(sum), [] { __syncthreads(); });
}
