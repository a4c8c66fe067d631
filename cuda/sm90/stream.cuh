// Few rows from 9.0 on: a tile of 16 or 32 folded rows over a range of keys, as fast as K and V stream from memory.
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
    // Neighbouring columns of the output that a lane holds.
    static constexpr int LANE_COLUMNS = 4 / KV_BYTES;
    // Warps of a team, which share a tile, divide the output by rows; with e4m3 K and V by columns, so that every byte of a tile is
    // converted by one warp only.
    static constexpr int COLUMN_WARPS = KV_BYTES == 1 ? ROW_WARPS : 1;
    static constexpr int OUT_TILES = ROW_TILES * COLUMN_WARPS, OUT_DIM = DIM / COLUMN_WARPS;
    static_assert(COLUMN_WARPS == 1 || COLUMN_WARPS == 2 && ROW_TILES == 1, "a team of two exchanges a row tile each");
    // Q stays in registers where there is room beside the output and the scores.
    static constexpr bool HOLD_Q = OUT_TILES * (OUT_DIM * 3 / 4 + TILE_KEYS / 2) <= 128;
    // What a warp hands to the other one of its team, sixteen bytes a lane: sums of scores, then weights over them.
    static constexpr int EXCHANGE_BYTES = COLUMN_WARPS == 2 ? TILE_KEYS / 8 * 512 : 0;
    // Shared memory: K/V rings, Q, exchanges, over which the outputs are joined afterwards. Then the barriers, and with e4m3 K and V
    // a factor per row.
    static constexpr int Q_AT = 2 * KEY_WARPS * RING * TILE_BYTES;
    static constexpr int EXCHANGE_AT = Q_AT + Q_BYTES;
    static constexpr int LOOP_BYTES = EXCHANGE_AT + 4 * EXCHANGE_BYTES;
    static constexpr int JOIN_BYTES = join_bytes(KEY_WARPS, ROWS, DIM + 4 * LANE_COLUMNS);
    static constexpr int BARRIERS_AT = ((LOOP_BYTES > JOIN_BYTES ? LOOP_BYTES : JOIN_BYTES) + 127) / 128 * 128;
    // The barrier for states of other blocks that arrive, where a cluster shares out the keys.
    static constexpr int ARRIVED_AT = BARRIERS_AT + KEY_WARPS * RING * 8;
    static constexpr int FACTORS_AT = ARRIVED_AT + 8;
    static constexpr int SHARED_BYTES = FACTORS_AT + (KV_BYTES == 1 ? ROWS * 4 : 0);
    static constexpr bool CLUSTERS = true;
    static_assert(TILE_BYTES % 1024 == 0, "the swizzle repeats every 1024 bytes");
};

// From the address of a lane's chunk 0 or 1 of a swizzled row to that of the chunk `even` (an even number) further on: within a
// panel some bits change, from panel to panel it is an immediate offset.
__device__ __forceinline__ uint32_t advance_chunks(uint32_t chunk, int even, int panel_bytes) {
    return (chunk ^ even % 8 * 16) + even / 8 * panel_bytes;
}

// The products of a warp's rows with 16-bit tiles; stream_e4m3.cuh has those with e4m3 tiles.
template <typename Shape_>
struct StreamProducts {
    using Shape = Shape_;
    using T = typename Shape::Element;
    static constexpr int DIM = Shape::DIM, KEYS = Shape::TILE_KEYS, ROW_TILES = Shape::ROW_TILES, CHUNKS = DIM / 8;
    static constexpr int OUT_TILES = Shape::OUT_TILES, OUT_DIM = Shape::OUT_DIM;
    // A product waits for the one before with the same accumulators. Where these are few there are two sets, added up at the end.
    static constexpr int CHAINS = ROW_TILES * KEYS / 8 < 4 ? 2 : 1;
    uint32_t base;
    int row_warp, key_warp, lane;
    uint32_t held[OUT_TILES][Shape::HOLD_Q ? OUT_DIM / 16 : 1][4];

    // The factors on K and V; 1 but for e4m3.
    __device__ static float k_scale(const OnekvAttention&, const OnekvWork&) { return 1; }
    __device__ static float v_scale(const OnekvAttention&, const OnekvWork&) { return 1; }

    // The block's Q to shared memory. Folded rows past the input's end are zeros: they are computed and not written.
    __device__ __forceinline__ static void fetch_q(const OnekvAttention& p, const OnekvWork& work, uint32_t base, int thread) {
        const T* q = static_cast<const T*>(p.q);
        for (int i = thread; i < Shape::ROWS * CHUNKS; i += Shape::THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS, folded = work.tile_start + row;
            const bool valid = folded < work.rows;
            copy_async_16(
                chunk_at<CHUNKS>(base + Shape::Q_AT, row, chunk), q + row_offset(p, work, valid ? folded : 0, p.q_strides) + chunk * 8, valid);
        }
        copy_commit();
        copy_wait<0>();
    }
    // Row tile t of the warp begins at first_row() + row_step() t.
    __device__ __forceinline__ int first_row() const { return row_warp * 16 * ROW_TILES; }
    __device__ __forceinline__ int row_step() const { return OUT_DIM < DIM && row_warp == 1 ? -16 : 16; }
    __device__ __forceinline__ int first_column() const { return OUT_DIM < DIM ? row_warp * OUT_DIM : 0; }
    __device__ __forceinline__ void load_q(uint32_t (&a)[4], int t, int d) const {
        const uint32_t first = chunk_at<CHUNKS>(base + Shape::Q_AT, first_row() + row_step() * t + lane % 16, first_column() / 8 + lane / 16);
        load_matrix(a, advance_chunks(first, d / 8, 128));
    }
    __device__ __forceinline__ void hold_q() {
        if (Shape::HOLD_Q) {
#pragma unroll
            for (int t = 0; t < OUT_TILES; t++)
#pragma unroll
                for (int d = 0; d < OUT_DIM; d += 16) load_q(held[t][Shape::HOLD_Q ? d / 16 : 0], t, d);
        }
    }
    // Q's columns d to d + 15 of all row tiles, from registers or shared memory.
    __device__ __forceinline__ void q_of(uint32_t (&a)[OUT_TILES][4], int d) const {
#pragma unroll
        for (int t = 0; t < OUT_TILES; t++) {
            if (!Shape::HOLD_Q) load_q(a[t], t, d);
#pragma unroll
            for (int i = 0; Shape::HOLD_Q && i < 4; i++) a[t][i] = held[t][Shape::HOLD_Q ? d / 16 : 0][i];
        }
    }
    // S = Q K^T.
    __device__ __forceinline__ void scores(float (&s)[ROW_TILES][KEYS / 8][4], uint32_t k_tile) const {
        const uint32_t first = panel_chunk<KEYS>(k_tile, lane % 8 + lane / 16 * 8, lane / 8 % 2);
        float sums[CHAINS][ROW_TILES][KEYS / 8][4] = {};
#pragma unroll
        for (int d = 0; d < DIM; d += 16) {
            uint32_t a[ROW_TILES][4];
            q_of(a, d);
#pragma unroll
            for (int key = 0; key < KEYS; key += 16) {
                uint32_t b[4];
                load_matrix(b, advance_chunks(first, d / 8, KEYS * 128) + key * 128);
#pragma unroll
                for (int t = 0; t < ROW_TILES; t++) {
                    multiply<T>(sums[d / 16 % CHAINS][t][key / 8], a[t], b[0], b[1]);
                    multiply<T>(sums[d / 16 % CHAINS][t][key / 8 + 1], a[t], b[2], b[3]);
                }
            }
        }
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[t][j][i] = CHAINS == 1 ? sums[0][t][j][i] : sums[0][t][j][i] + sums[CHAINS - 1][t][j][i];
    }
    // The factor that a row's dot products still lack; 1 but for bf16 Q with e4m3 K.
    __device__ __forceinline__ static float row_factor(int, int) { return 1; }
    // O = rescale O + P V.
    __device__ __forceinline__ void values(
        float (&out)[ROW_TILES][DIM / 8][4], const float (&weights)[ROW_TILES][KEYS / 8][4], const float (&)[ROW_TILES][2],
        const float (&rescale)[ROW_TILES][2], uint32_t v_tile) const {
        const uint32_t first = panel_chunk<KEYS>(v_tile, lane % 16, lane / 16);
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++)
            if (!all_one(rescale[t])) scale_rows(out[t], rescale[t]);
#pragma unroll
        for (int key = 0; key < KEYS; key += 16) {
            uint32_t a[ROW_TILES][4];
#pragma unroll
            for (int t = 0; t < ROW_TILES; t++) pack_weights<T>(a[t], weights[t][key / 8], weights[t][key / 8 + 1]);
#pragma unroll
            for (int d = 0; d < DIM; d += 16) {
                uint32_t b[4];
                load_matrix_transposed(b, advance_chunks(first, d / 8, KEYS * 128) + key * 128);
#pragma unroll
                for (int t = 0; t < ROW_TILES; t++) {
                    multiply<T>(out[t][d / 8], a[t], b[0], b[1]);
                    multiply<T>(out[t][d / 8 + 1], a[t], b[2], b[3]);
                }
            }
        }
    }
    // A barrier of the team: the warps that share a tile.
    __device__ __forceinline__ void team_sync() const {
        if (Shape::ROW_WARPS == 1) __syncwarp();
        else named_sync(1 + key_warp, 32 * Shape::ROW_WARPS);
    }
    // Rows of V past the last of `left` keys may hold NaN, and 0 x NaN is NaN: they become zeros.
    __device__ __forceinline__ void zero_values_past(uint32_t v_tile, int left) const {
        constexpr int ROW_CHUNKS = Shape::TILE_BYTES / KEYS / 16;
        for (int i = left * ROW_CHUNKS + row_warp * 32 + lane; i < KEYS * ROW_CHUNKS; i += 32 * Shape::ROW_WARPS) {
            const int row = i / ROW_CHUNKS, chunk = i % ROW_CHUNKS;
            const uint32_t at = ROW_CHUNKS < 8 ? i * 16 : panel_chunk<KEYS>(0, row, chunk);
            store_16(v_tile + at, make_uint4(0, 0, 0, 0));
        }
        team_sync();
    }
};

template <typename Products>
__device__ __forceinline__ void attend_stream(
    const OnekvAttention& p, const TensorMap& k_map, const TensorMap& v_map, const OnekvWork work, char* shared) {
    using Shape = typename Products::Shape;
    constexpr int KEYS = Shape::TILE_KEYS, RING = Shape::RING;
    constexpr int ROW_TILES = Shape::ROW_TILES, KEY_WARPS = Shape::KEY_WARPS;
    if (work.rows == 0) {
        // Where all blocks end here, the next launch must still not overtake the one before this one.
        if (blockIdx.x == 0) predecessors_wait();
        return;
    }
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int row_warp = warp % Shape::ROW_WARPS, key_warp = warp / Shape::ROW_WARPS;
    const uint32_t base = shared_address(shared), ring = base + key_warp * RING * 2 * Shape::TILE_BYTES;
    const uint32_t barriers = base + Shape::BARRIERS_AT + key_warp * RING * 8;
    const int tiles = (work.key_end - work.key_begin + KEYS - 1) / KEYS;
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
        if (thread == 0) barrier_init(base + Shape::ARRIVED_AT, 1);
        barrier_init_fence();
    }
    if (thread == 0 && tiles > 0) tensor_prefetch(k_map), tensor_prefetch(v_map);
    dependents_start();
    // Settled K and V are fetched while the launches before this one still run: only Q must be waited for.
    if (!p.kv_settled) predecessors_wait();
    if (fetches) {
#pragma unroll
        for (int i = 0; i < RING; i++) fetch(key_warp + i * KEY_WARPS, i);
    }
    if (p.kv_settled) predecessors_wait();
    Products::fetch_q(p, work, base, thread);
    const Score score(p, Products::k_scale(p, work));
    __syncthreads();
    Products products = {base, row_warp, key_warp, lane};
    products.hold_q();

    float out[Shape::OUT_TILES][Shape::OUT_DIM / 8][4] = {}, highest[ROW_TILES][2], sum[ROW_TILES][2] = {}, log2_scale[ROW_TILES][2];
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            highest[t][r] = -INFINITY;
            // Never 0, also where k_scale is 0 or the product underflows: 0 times -inf, the score of a masked key, would be NaN.
            log2_scale[t][r] = fmaxf(score.log2_scale * (score.cap > 0 ? 1 : products.row_factor(t, r)), __FLT_DENORM_MIN__);
        }
    for (int tile = key_warp, stage = 0, parity = 0; tile < tiles; tile += KEY_WARPS) {
        const int left = work.key_end - work.key_begin - tile * KEYS;
        const uint32_t k_tile = ring + stage * 2 * Shape::TILE_BYTES, v_tile = k_tile + Shape::TILE_BYTES;
        barrier_wait(barriers + stage * 8, parity);

        if (left < KEYS) products.zero_values_past(v_tile, left);
        float s[ROW_TILES][KEYS / 8][4], rescale[ROW_TILES][2];
        products.scores(s, k_tile);
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) {
            if (score.cap > 0) score.cap_all(s[t], products.row_factor(t, 0), products.row_factor(t, 1));
            score.mask(s[t], left, lane);
            score.softmax(s[t], highest[t], sum[t], rescale[t], log2_scale[t]);
        }
        products.values(out, s, sum, rescale, v_tile);
        products.team_sync();
        if (fetches) fetch(tile + RING * KEY_WARPS, stage);
        stage = stage + 1 == RING ? 0 : stage + 1;
        parity ^= stage == 0;
    }
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
        for (int r = 0; r < 2; r++) highest[t][r] *= log2_scale[t][r];
    join_and_write<Shape>(
        p, work, shared, thread, key_warp, products.first_row(), out, highest, sum, [] { __syncthreads(); }, Products::v_scale(p, work),
        products.row_step(), products.first_column());
}
