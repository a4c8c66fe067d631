// Few rows on Hopper: a tile of 16 or 32 folded rows over a range of keys, as fast as K and V stream from memory.
//
// Four warps take K/V tiles in turn. Each has a softmax over its own tiles and a ring of its own, which the copy
// engine fills RING tiles ahead: a warp that is done with a tile asks for the next into its place, so that nothing in
// the loop waits for another warp. What they have meets once, at the end. ROW_WARPS warps share a tile where one
// warp's registers do not hold all rows.
//
//   keys ->   tile 0   tile 1   tile 2   tile 3   tile 4 ...        S = Q K^T: ROW_TILES x 16 rows x TILE_KEYS
//            +--------+--------+--------+--------+--------          P = 2^(S - max), in registers as A of
//            | warp 0 | warp 1 | warp 2 | warp 3 | warp 0 ...       O = P V
//            +--------+--------+--------+--------+--------
//   docs/kernels.md counts what this takes beside the stream of K and V.
#pragma once
#include "../attention/join.cuh"
#include "../ptx/barrier.cuh"
#include "../ptx/tensor_copy.cuh"

// T: of Q and the output. KV_BYTES: of an element of K and V.
template <typename T, int DIM_, int ROW_WARPS_, int ROW_TILES_, int TILE_KEYS_, int RING_, int KV_BYTES = 2>
struct StreamShape {
    using Element = T;
    static constexpr int DIM = DIM_, ROW_WARPS = ROW_WARPS_, ROW_TILES = ROW_TILES_, TILE_KEYS = TILE_KEYS_, RING = RING_;
    static constexpr int THREADS = 128;
    static constexpr int KEY_WARPS = 4 / ROW_WARPS;
    static constexpr int STAGES = KEY_WARPS * RING;
    static constexpr int ROWS = 16 * ROW_WARPS * ROW_TILES;
    static constexpr int TILE_BYTES = TILE_KEYS * DIM * KV_BYTES;
    static constexpr int Q_BYTES = ROWS * DIM * 2;
    // Neighbouring columns of the output that a lane holds: as the products leave them.
    static constexpr int LANE_COLUMNS = 4 / KV_BYTES;
    // Q stays in registers where they suffice.
    static constexpr bool HOLD_Q = ROW_TILES * DIM <= 128;
    // K/V rings, Q; the meeting outputs take their place. Then zeros of every bank, the barriers, and with e4m3 K a factor
    // per row.
    static constexpr int Q_AT = 2 * KEY_WARPS * RING * TILE_BYTES;
    static constexpr int LOOP_BYTES = Q_AT + Q_BYTES;
    static constexpr int JOIN_BYTES = join_bytes(KEY_WARPS, ROWS, DIM + 4 * LANE_COLUMNS);
    static constexpr int ZERO_AT = ((LOOP_BYTES > JOIN_BYTES ? LOOP_BYTES : JOIN_BYTES) + 127) / 128 * 128;
    static constexpr int BARRIERS_AT = ZERO_AT + 128;
    static constexpr int FACTORS_AT = BARRIERS_AT + KEY_WARPS * RING * 8;
    static constexpr int SHARED_BYTES = FACTORS_AT + (KV_BYTES == 1 ? ROWS * 4 : 0);
    static_assert(TILE_BYTES % 1024 == 0, "the swizzle repeats every 1024 bytes");
};

// The products of a warp's rows with 16-bit tiles; stream_e4m3.cuh has those with e4m3 tiles.
template <typename Shape_>
struct StreamProducts {
    using Shape = Shape_;
    using T = typename Shape::Element;
    static constexpr int DIM = Shape::DIM, KEYS = Shape::TILE_KEYS, ROW_TILES = Shape::ROW_TILES, CHUNKS = DIM / 8;
    uint32_t base;
    int first_row, lane;
    uint32_t held[ROW_TILES][Shape::HOLD_Q ? DIM / 16 : 1][4];

    // Factors on K and V.
    __device__ static float k_scale(const OnekvAttention&, const OnekvWork&) { return 1; }
    __device__ static float v_scale(const OnekvAttention&, const OnekvWork&) { return 1; }

    // The block's Q to shared memory. Folded rows past the input's end are zeros: they are computed and not written.
    __device__ __forceinline__ static void fetch_q(const OnekvAttention& p, const OnekvWork& work, uint32_t base, int thread) {
        const T* q = static_cast<const T*>(p.q);
        for (int i = thread; i < Shape::ROWS * CHUNKS; i += Shape::THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS, folded = work.tile + row;
            const bool valid = folded < work.rows;
            copy_async_16(
                chunk_at<CHUNKS>(base + Shape::Q_AT, row, chunk), q + row_offset(p, work, valid ? folded : 0, p.q_strides) + chunk * 8, valid);
        }
        copy_commit();
        copy_wait<0>();
    }
    __device__ __forceinline__ void load_q(uint32_t (&a)[4], int t, int d) const {
        load_matrix(a, chunk_at<CHUNKS>(base + Shape::Q_AT, first_row + 16 * t + lane % 16, d / 8 + lane / 16));
    }
    __device__ __forceinline__ void hold_q() {
        if (Shape::HOLD_Q) {
#pragma unroll
            for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
                for (int d = 0; d < DIM; d += 16) load_q(held[t][Shape::HOLD_Q ? d / 16 : 0], t, d);
        }
    }
    // Q of columns d to d + 15, of all rows.
    __device__ __forceinline__ void q_of(uint32_t (&a)[ROW_TILES][4], int d) const {
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) {
            if (!Shape::HOLD_Q) load_q(a[t], t, d);
#pragma unroll
            for (int i = 0; Shape::HOLD_Q && i < 4; i++) a[t][i] = held[t][Shape::HOLD_Q ? d / 16 : 0][i];
        }
    }
    // S += Q K^T.
    __device__ __forceinline__ void scores(float (&s)[ROW_TILES][KEYS / 8][4], uint32_t k_tile) const {
#pragma unroll
        for (int d = 0; d < DIM; d += 16) {
            uint32_t a[ROW_TILES][4];
            q_of(a, d);
#pragma unroll
            for (int key = 0; key < KEYS; key += 16) {
                uint32_t b[4];
                load_matrix(b, panel_chunk<KEYS>(k_tile, key + lane % 8 + lane / 16 * 8, d / 8 + lane / 8 % 2));
#pragma unroll
                for (int t = 0; t < ROW_TILES; t++) {
                    multiply<T>(s[t][key / 8], a[t], b[0], b[1]);
                    multiply<T>(s[t][key / 8 + 1], a[t], b[2], b[3]);
                }
            }
        }
    }
    // O += P V. What stands behind the last of `left` keys may be NaN, and 0 x NaN is NaN: zeros are read in its place.
    __device__ __forceinline__ void values(
        float (&out)[ROW_TILES][DIM / 8][4], const float (&weights)[ROW_TILES][KEYS / 8][4], uint32_t v_tile, int left) const {
#pragma unroll
        for (int key = 0; key < KEYS; key += 16) {
            uint32_t a[ROW_TILES][4];
#pragma unroll
            for (int t = 0; t < ROW_TILES; t++) pack_weights<T>(a[t], weights[t][key / 8], weights[t][key / 8 + 1]);
            const bool valid = key + lane % 16 < left;
#pragma unroll
            for (int d = 0; d < DIM; d += 16) {
                uint32_t b[4];
                const uint32_t at = panel_chunk<KEYS>(v_tile, key + lane % 16, d / 8 + lane / 16);
                load_matrix_transposed(b, valid ? at : base + Shape::ZERO_AT + at % 128);
#pragma unroll
                for (int t = 0; t < ROW_TILES; t++) {
                    multiply<T>(out[t][d / 8], a[t], b[0], b[1]);
                    multiply<T>(out[t][d / 8 + 1], a[t], b[2], b[3]);
                }
            }
        }
    }
};

template <typename Products>
__device__ __forceinline__ void attend_stream(
    const OnekvAttention& p, const TensorMap& k_map, const TensorMap& v_map, const OnekvWork work, char* shared) {
    using Shape = typename Products::Shape;
    constexpr int DIM = Shape::DIM, KEYS = Shape::TILE_KEYS, RING = Shape::RING;
    constexpr int ROW_TILES = Shape::ROW_TILES, KEY_WARPS = Shape::KEY_WARPS;
    if (work.rows == 0) {
        // Where all blocks are such, what comes after this launch still comes after what came before it.
        if (blockIdx.x == 0) predecessors_wait();
        return;
    }
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int row_warp = warp % Shape::ROW_WARPS, key_warp = warp / Shape::ROW_WARPS, first_row = row_warp * 16 * ROW_TILES;
    const uint32_t base = shared_address(shared), ring = base + key_warp * RING * 2 * Shape::TILE_BYTES;
    const uint32_t barriers = base + Shape::BARRIERS_AT + key_warp * RING * 8;
    const int tiles = (work.key_end - work.key_begin + KEYS - 1) / KEYS;
    // The warps that share a tile.
    auto team_sync = [&] {
        if (Shape::ROW_WARPS == 1) __syncwarp();
        else named_sync(1 + key_warp, 32 * Shape::ROW_WARPS);
    };
    const bool fetches = row_warp == 0 && lane == 0;
    auto fetch = [&](int tile, int stage) {
        if (tile >= tiles) return;
        const uint32_t to = ring + stage * 2 * Shape::TILE_BYTES, barrier = barriers + stage * 8;
        const int key = work.key_begin + tile * KEYS;
        barrier_arrive_expect(barrier, 2 * Shape::TILE_BYTES);
        tensor_load(to, k_map, 0, key, 0, work.kv_head, work.kv_slot, barrier);
        tensor_load(to + Shape::TILE_BYTES, v_map, 0, key, 0, work.kv_head, work.kv_slot, barrier);
    };

    if (fetches) {
#pragma unroll
        for (int i = 0; i < RING; i++) barrier_init(barriers + i * 8, 1);
        barrier_init_fence();
    }
    if (thread == 0 && tiles > 0) tensor_prefetch(k_map), tensor_prefetch(v_map);
    dependents_start();
    predecessors_wait();
    if (fetches) {
#pragma unroll
        for (int i = 0; i < RING; i++) fetch(key_warp + i * KEY_WARPS, i);
    }
    Products::fetch_q(p, work, base, thread);
    if (thread < 8) store_16(base + Shape::ZERO_AT + thread * 16, make_uint4(0, 0, 0, 0));
    const float v_scale = Products::v_scale(p, work);
    const Score score(p, Products::k_scale(p, work));
    __syncthreads();
    Products products = {base, first_row, lane};
    products.hold_q();

    float out[ROW_TILES][DIM / 8][4] = {}, highest[ROW_TILES][2], sum[ROW_TILES][2] = {};
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++) highest[t][0] = highest[t][1] = -INFINITY;
    for (int tile = key_warp, stage = 0, parity = 0; tile < tiles; tile += KEY_WARPS) {
        const int left = work.key_end - work.key_begin - tile * KEYS;
        const uint32_t k_tile = ring + stage * 2 * Shape::TILE_BYTES, v_tile = k_tile + Shape::TILE_BYTES;
        barrier_wait(barriers + stage * 8, parity);

        float s[ROW_TILES][KEYS / 8][4] = {};
        products.scores(s, k_tile);
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) {
            float rescale[2];
            score.cap_all(s[t]);
            score.mask(s[t], left, lane);
            score.softmax(s[t], highest[t], sum[t], rescale);
#pragma unroll
            for (int j = 0; j < DIM / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) out[t][j][i] *= rescale[i / 2];
        }
        products.values(out, s, v_tile, left);
        team_sync();
        if (fetches) fetch(tile + RING * KEY_WARPS, stage);
        stage = stage + 1 == RING ? 0 : stage + 1;
        parity ^= stage == 0;
    }
    join_and_write<Shape>(p, work, shared, score, thread, key_warp, first_row, out, highest, sum, [] { __syncthreads(); }, v_scale);
}
