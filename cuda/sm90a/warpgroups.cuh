// Many rows on Hopper: a tile of 64 folded rows per consumer warpgroup over a range of keys, on wgmma.
//
// A producer warp lets the copy engine fill rings of K and V tiles. Every consumer warpgroup has 64 rows of its own
// and reads the same tiles. It issues Q K^T of a tile and P V of the tile before together, and its softmax waits for the
// scores only: exponentials run beside P V.
//
//   tensor cores   QK0          QK1 PV0          QK2 PV1          QK3 PV2       S = Q K^T   64 rows x TILE_KEYS, f32 in registers
//   exponentials       softmax0     softmax1         softmax2         softmax3  P = 2^(S - max), 16 bits, registers: A of
//                                                                               O = P V     64 rows x DIM, f32 in registers
//   The last tile of keys, which may be short, comes first: the loop then needs no mask. Consumer warpgroups take
//   turns to issue products, so that one's exponentials run beside the others' products.
//
// A tile of M rows at the tensor cores' full rate draws 4096 / M bytes of K and V a clock from L2, more than there is for
// 128 rows on every multiprocessor. Two blocks of a cluster, with neighbouring tiles of rows, halve that: each
// fetches half of every tile into both.
//
//              block 0                       block 1           K of DIM 128: a panel of 64 columns each
//   rows       0 .. M-1                      M .. 2M-1         (DIM 64: half of the keys)
//   K, V   [ fetched | <---------- ]   [ ----------> | fetched ]
//   A producer fetches into a stage that the consumers of both blocks have released.
#pragma once
#include "../attention/rows.cuh"
#include "../attention/softmax.cuh"
#include "../ptx/barrier.cuh"
#include "../ptx/cluster.cuh"
#include "../ptx/copy.cuh"
#include "../ptx/matrix.cuh"
#include "../ptx/tensor_copy.cuh"
#include "../ptx/warpgroup.cuh"

template <typename T, int DIM_, int GROUPS_, int TILE_KEYS_, int STAGES_, int CLUSTER_ = 1>
struct WarpgroupShape {
    using Element = T;
    static constexpr int DIM = DIM_, GROUPS = GROUPS_, TILE_KEYS = TILE_KEYS_, STAGES = STAGES_, CLUSTER = CLUSTER_;
    static constexpr int ROWS = 64 * GROUPS, CONSUMERS = 128 * GROUPS, THREADS = 128 + CONSUMERS;
    static constexpr int TILE_BYTES = TILE_KEYS * DIM * 2;
    // What each block of a cluster fetches of a tile: some of its panels, or some keys of its only panel. The host's boxes are
    // as large (src/cuda/tensor_map.rs).
    static constexpr bool PART_OF_PANELS = DIM / 64 >= CLUSTER;
    static constexpr int PART_PANELS = PART_OF_PANELS ? DIM / 64 / CLUSTER : 0, PART_KEYS = PART_OF_PANELS ? 0 : TILE_KEYS / CLUSTER;
    static constexpr int PART_BYTES = TILE_BYTES / CLUSTER;
    static constexpr int Q_BYTES = 64 * DIM * 2;  // of one warpgroup
    static constexpr bool TURNS = GROUPS >= 2 && DIM <= 128;
    // With a second one the next entry's Q is fetched beside the products of the one before. Not in tiles of 64 rows, whose blocks
    // have few entries each.
    static constexpr int Q_BUFFERS = TURNS ? 2 : 1;
    // Shared memory: K stages, V stages, Q, barriers.
    static constexpr int Q_AT = 2 * STAGES * TILE_BYTES;
    static constexpr int BARRIERS_AT = Q_AT + GROUPS * Q_BUFFERS * Q_BYTES;
    static constexpr int SHARED_BYTES = BARRIERS_AT + 4 * STAGES * 8;
    // Blocks of a multiprocessor. They divide its 64 K registers, of which the producer needs few.
    static constexpr int BLOCKS = SHARED_BYTES <= 113 * 1024 && GROUPS == 1 ? 2 : 1;
    // At DIM 256 the products take far longer than the exponentials.
    static constexpr bool POLYNOMIALS = DIM <= 128;
    static constexpr int PRODUCER_REGISTERS = GROUPS == 2 ? 24 : GROUPS == 3 ? 32 : 40;
    static constexpr int CONSUMER_REGISTERS = GROUPS == 2 ? 240 : GROUPS == 3 ? 160 : BLOCKS == 2 ? 216 : 240;
};

// The products of one warpgroup, with tiles given by descriptors of their first bytes.
template <typename Shape>
struct Products {
    using T = typename Shape::Element;
    static constexpr int DIM = Shape::DIM, KEYS = Shape::TILE_KEYS;

    __device__ __forceinline__ static uint64_t k_tile(uint32_t address) { return tile_descriptor(address, 16); }
    __device__ __forceinline__ static uint64_t v_tile(uint32_t address) { return tile_descriptor(address, KEYS * 128); }

    // S = Q K^T. Sixteen elements of k are 32 bytes of a row; panels of 64 follow each other.
    __device__ __forceinline__ static void scores(float (&s)[KEYS / 8][4], uint64_t q, uint64_t k) {
#pragma unroll
        for (int d = 0; d < DIM; d += 16)
            SharedProduct<T, KEYS>::run(s, further(q, d / 64 * 64 * 8 + d % 64 / 8), further(k, d / 64 * KEYS * 8 + d % 64 / 8), d > 0);
    }
    // O += P V.
    __device__ __forceinline__ static void values(float (&out)[DIM / 8][4], const uint32_t (&weights)[KEYS / 16][4], uint64_t v) {
#pragma unroll
        for (int key = 0; key < KEYS; key += 16) RegisterProduct<T, DIM>::run(out, weights[key / 16], further(v, key * 8));
    }
};

// The entries of the list that a block takes after its first: one in each pass of the whole grid. Entries come longest first,
// so that every other pass goes backwards, to even out the blocks. Blocks of a cluster stay neighbours.
template <int CLUSTER>
struct Passes {
    int first = gridDim.x;  // first entry of the next pass
    bool backwards = true;

    // An empty entry ends the block's work: those of the list come last, and past its end there are only such.
    __device__ __forceinline__ OnekvWork next(const OnekvAttention& p) {
        const int blocks = gridDim.x, cluster = blockIdx.x / CLUSTER, rank = blockIdx.x % CLUSTER;
        const int entry = first + (backwards ? blocks / CLUSTER - 1 - cluster : cluster) * CLUSTER + rank;
        first += blocks, backwards = !backwards;
        return entry < p.work_count ? p.work[entry] : OnekvWork{};
    }
};

// A stage of a ring, and the parity of the phase that its barriers are in.
template <int STAGES>
struct PipelineState {
    int stage = 0, parity = 0;
    __device__ __forceinline__ void next() {
        // (stage + 1) % STAGES, in fewer instructions.
        stage = STAGES == 2 ? stage ^ 1 : STAGES == 4 ? stage + 1 & 3 : stage + 1 == STAGES ? 0 : stage + 1;
        parity ^= STAGES == 2 ? stage ^ 1 : stage == 0;
    }
};

template <typename Shape>
__device__ __forceinline__ void attend_warpgroups(
    const OnekvAttention& p, const TensorMap& k_map, const TensorMap& v_map, OnekvWork work, char* shared) {
    using T = typename Shape::Element;
    constexpr int DIM = Shape::DIM, CHUNKS = DIM / 8, KEYS = Shape::TILE_KEYS, STAGES = Shape::STAGES;
    // An empty entry. All blocks of a cluster have one then.
    if (work.rows == 0) {
        // Where all blocks end here, the next launch must still not overtake the one before this one.
        if (blockIdx.x == 0) predecessors_wait();
        return;
    }
    // Named barriers: 1 to GROUPS are the warpgroups' own, then one for all consumers, then TURN + group for each group's turn.
    constexpr int ALL_CONSUMERS = Shape::GROUPS + 1, TURN = ALL_CONSUMERS;
    // The shuffle tells the compiler that all lanes have the same value: what is computed of it stands in uniform registers.
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0), thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const uint32_t base = shared_address(shared);
    auto k_at = [&](int stage) { return base + stage * Shape::TILE_BYTES; };
    auto v_at = [&](int stage) { return base + (STAGES + stage) * Shape::TILE_BYTES; };
    auto barrier = [&](int kind, int stage) { return base + Shape::BARRIERS_AT + (kind * STAGES + stage) * 8; };
    enum { K_FULL, V_FULL, K_EMPTY, V_EMPTY };
    auto tiles_of = [](const OnekvWork& work) { return (work.key_end - work.key_begin + KEYS - 1) / KEYS; };
    constexpr bool PAIR = Shape::CLUSTER > 1;
    Passes<Shape::CLUSTER> passes;

    if (threadIdx.x == 0) {
#pragma unroll
        for (int i = 0; i < STAGES; i++) {
            barrier_init(barrier(K_FULL, i), 1), barrier_init(barrier(V_FULL, i), 1);
            constexpr int WARPS = 4 * Shape::GROUPS * Shape::CLUSTER;
            barrier_init(barrier(K_EMPTY, i), WARPS), barrier_init(barrier(V_EMPTY, i), WARPS);
        }
        barrier_init_fence();
    }
    if constexpr (PAIR) cluster_sync();
    else __syncthreads();
    if (threadIdx.x == 0 && tiles_of(work) > 0) tensor_prefetch(k_map), tensor_prefetch(v_map);
    dependents_start();

    if (group == 0) {
        registers_give<Shape::PRODUCER_REGISTERS>();
        if (!p.kv_settled) predecessors_wait();
        if (__shfl_sync(~0u, threadIdx.x / 32, 0) == 0 && elected()) {
            const int rank = PAIR ? cluster_rank() : 0;
            // Phases of a stage's empty barrier are one behind those of its full one.
            auto await_empty = [&](PipelineState<STAGES> at, int empty) { barrier_wait(barrier(empty, at.stage), at.parity ^ 1); };
            auto fetch = [&](PipelineState<STAGES>& at, int key, int empty, int full, uint32_t to, const TensorMap& map) {
                await_empty(at, empty);
                const uint32_t done = barrier(full, at.stage);
                barrier_arrive_expect(done, Shape::TILE_BYTES);
                if constexpr (PAIR)
                    // The peer's half may arrive before these bytes are announced: the phase ends only after both.
                    tensor_load_multicast(
                        to + rank * Shape::PART_BYTES, map, 0, key + rank * Shape::PART_KEYS, rank * Shape::PART_PANELS, work.kv_head, work.kv_slot, done,
                        (1 << Shape::CLUSTER) - 1);
                else tensor_load(to, map, 0, key, 0, work.kv_head, work.kv_slot, done);
                at.next();
            };
            // In the order of use: K of a tile comes before V of the tile before it.
            PipelineState<STAGES> k, v;
            for (; work.rows > 0; work = passes.next(p)) {
                const int tiles = tiles_of(work);
                for (int i = tiles; i >= 0; i--) {
                    const int key = work.key_begin + i * KEYS;
                    if (i > 0) fetch(k, key - KEYS, K_EMPTY, K_FULL, k_at(k.stage), k_map);
                    if (i < tiles) fetch(v, key, V_EMPTY, V_FULL, v_at(v.stage), v_map);
                }
            }
            // The peer's consumers arrive at barriers of this block, and this block's last halves land in the peer: neither may end
            // before the other is done.
            for (int i = 0; PAIR && i < STAGES; i++, v.next()) await_empty(v, K_EMPTY), await_empty(v, V_EMPTY);
        }
    } else {
        registers_take<Shape::CONSUMER_REGISTERS>();
        predecessors_wait();
        const int first_row = (group - 1) * 64;
        const uint32_t q_buffers = base + Shape::Q_AT + (group - 1) * Shape::Q_BUFFERS * Shape::Q_BYTES;
        const Score score(p);
        float s[KEYS / 8][4], out[DIM / 8][4], highest[2], sum[2], rescale[2];
        uint32_t weights[KEYS / 16][4];
        auto release = [&](int kind, int stage) {
            if constexpr (PAIR) {
                // A lane for each block that fetches into this one.
                if (lane < Shape::CLUSTER) barrier_arrive_at(barrier(kind, stage), lane);
            } else if (lane == 0) barrier_arrive(barrier(kind, stage));
        };
        auto pack_all = [&] {
#pragma unroll
            for (int key = 0; key < KEYS; key += 16) pack_weights<T>(weights[key / 16], s[key / 8], s[key / 8 + 1]);
        };
        using Multiply = Products<Shape>;
        // Descriptors of the first stages. The empty asm hides how they were computed, or the compiler would do so again for every
        // product.
        uint64_t k_desc = Multiply::k_tile(k_at(0)), v_desc = Multiply::v_tile(v_at(0));
        asm volatile("" : "+l"(k_desc), "+l"(v_desc));
        // Brings the output to the scale of the weights that come next. Without turns it is called between the products, to run
        // beside Q K^T; within a turn it would only make the others wait.
        auto rescale_out = [&] {
            if (all_one(rescale)) return;
            scale_rows(out, rescale);
            settle(out);
        };
        auto multiply_values = [&](int stage) {
            if (!Shape::TURNS) rescale_out();
            warpgroup_arrive();
            Multiply::values(out, weights, further(v_desc, stage * (Shape::TILE_BYTES / 16)));
            warpgroup_commit();
        };
        auto await_turn = [&] {
            if (Shape::TURNS) named_sync(TURN + group, 256);
        };
        auto pass_turn = [&] {
            if (Shape::TURNS) named_arrive(TURN + group % Shape::GROUPS + 1, 256);
        };
        // The first warpgroup has the first turn.
        if (group == Shape::GROUPS) pass_turn();
        PipelineState<STAGES> at;
        // Folded rows past the input's end are zeros: they are computed and not written.
        auto fetch_q = [&](const OnekvWork& work, uint32_t to) {
            const T* q = static_cast<const T*>(p.q);
            for (int i = thread; i < 64 * CHUNKS; i += 128) {
                const int row = i / CHUNKS, chunk = i % CHUNKS, folded = work.tile_start + first_row + row;
                const bool valid = folded < work.rows;
                copy_async_16(panel_chunk<64>(to, row, chunk), q + row_offset(p, work, valid ? folded : 0, p.q_strides) + chunk * 8, valid);
            }
            copy_commit();
        };
        constexpr bool FETCH_AHEAD = Shape::Q_BUFFERS == 2;
        if (FETCH_AHEAD) fetch_q(work, q_buffers);
        OnekvWork next;
        for (int buffer = 0; work.rows > 0; work = FETCH_AHEAD ? next : passes.next(p), buffer ^= FETCH_AHEAD) {
            const uint32_t q_tile = q_buffers + buffer * Shape::Q_BYTES;
            for (auto& row : out) row[0] = row[1] = row[2] = row[3] = 0;
            highest[0] = highest[1] = -INFINITY, sum[0] = sum[1] = 0;
            if (!FETCH_AHEAD) {
                // First all threads have written their part of the last result, which went through the same memory.
                named_sync(group, 128);
                fetch_q(work, q_tile);
            }
            copy_wait<0>();
            fence_async();
            named_sync(group, 128);
            if (FETCH_AHEAD) next = passes.next(p);
            uint64_t q_desc = Multiply::k_tile(q_tile);
            asm volatile("" : "+l"(q_desc));
            // Rows of V past the last key may hold NaN, and 0 x NaN is NaN: they become zeros.
            const int tiles = tiles_of(work), left = work.key_end - work.key_begin - (tiles - 1) * KEYS;
            if (tiles > 0 && left < KEYS) {
                barrier_wait(barrier(V_FULL, at.stage), at.parity);
                for (int i = threadIdx.x - 128; i < (KEYS - left) * CHUNKS; i += Shape::CONSUMERS)
                    store_16(panel_chunk<KEYS>(v_at(at.stage), left + i / CHUNKS, i % CHUNKS), make_uint4(0, 0, 0, 0));
                fence_async();
                named_sync(ALL_CONSUMERS, Shape::CONSUMERS);
            }

            if (tiles > 0) {
                barrier_wait(barrier(K_FULL, at.stage), at.parity);
                warpgroup_arrive();
                Multiply::scores(s, q_desc, further(k_desc, at.stage * (Shape::TILE_BYTES / 16)));
                warpgroup_commit();
                warpgroup_wait<0>();
                settle(s);
                release(K_EMPTY, at.stage);
                score.cap_all(s);
                score.mask(s, left, lane);
                score.template softmax<Shape::POLYNOMIALS>(s, highest, sum, rescale);
                pack_all();
            }
            // The other buffer is free: the result of the entry before, which went through it, is written.
            if (FETCH_AHEAD && next.rows > 0) fetch_q(next, q_buffers + (buffer ^ 1) * Shape::Q_BYTES);
            for (int i = 1; i < tiles; i++) {
                const PipelineState<STAGES> last = at;
                at.next();
                barrier_wait(barrier(K_FULL, at.stage), at.parity);
                await_turn();
                warpgroup_arrive();
                Multiply::scores(s, q_desc, further(k_desc, at.stage * (Shape::TILE_BYTES / 16)));
                warpgroup_commit();
                barrier_wait(barrier(V_FULL, last.stage), last.parity);
                multiply_values(last.stage);
                pass_turn();
                warpgroup_wait<1>();
                settle(s);
                release(K_EMPTY, at.stage);
                score.cap_all(s);
                score.template softmax<Shape::POLYNOMIALS>(s, highest, sum, rescale);
                stay_before(sum[0] + sum[1], q_tile);
                warpgroup_wait<0>();
                settle(out);
                release(V_EMPTY, last.stage);
                if (Shape::TURNS) rescale_out();
                pack_all();
            }
            if (tiles > 0) {
                barrier_wait(barrier(V_FULL, at.stage), at.parity);
                multiply_values(at.stage);
                warpgroup_wait<0>();
                settle(out);
                release(V_EMPTY, at.stage);
                at.next();
            }

            // A lane has two rows: warp * 16 + lane / 4, and eight further on.
            float scale[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
                sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
                // Nothing has any weight: out = 0, lse = -inf, which infinite values times 0 would not show. A NaN sum stays one.
                const bool none = sum[r] == 0;
                scale[r] = none ? 0.0f : 1.0f / sum[r];
                // A vote costs less than to select all outputs.
                if (__any_sync(~0u, none)) {
#pragma unroll
                    for (int j = 0; j < DIM / 8; j++)
                        if (none) out[j][2 * r] = out[j][2 * r + 1] = 0;
                }
                const float lse = none ? -INFINITY : score.shift(highest[r]) * LN2 + logf(sum[r]);
                const int row = first_row + warp * 16 + lane / 4 + 8 * r, folded = work.tile_start + row;
                if (lane % 4 == 0 && folded < work.rows) {
                    if (work.state >= 0) p.partial_lse[static_cast<int64_t>(work.state) * Shape::ROWS + row] = lse;
                    else if (p.lse) p.lse[row_offset(p, work, folded, p.lse_strides)] = lse;
                }
            }
            if (work.state >= 0) {
                // Four lanes write a sector of 32 bytes.
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int row = first_row + warp * 16 + lane / 4 + 8 * r;
                    if (work.tile_start + row >= work.rows) continue;
                    float* to = p.partial_out + (static_cast<int64_t>(work.state) * Shape::ROWS + row) * DIM + lane % 4 * 2;
#pragma unroll
                    for (int j = 0; j < DIM / 8; j++)
                        *reinterpret_cast<float2*>(to + 8 * j) = make_float2(out[j][2 * r] * scale[r], out[j][2 * r + 1] * scale[r]);
                }
                continue;
            }
            // Through the shared memory of Q, which this warpgroup alone reads, so that whole rows are written 16 bytes at a time.
            named_sync(group, 128);
#pragma unroll
            for (int d = 0; d < DIM; d += 16) {
                const float(&low)[4] = out[d / 8], (&high)[4] = out[d / 8 + 1];
                const uint32_t tile[4] = {pack<T>(low[0] * scale[0], low[1] * scale[0]), pack<T>(low[2] * scale[1], low[3] * scale[1]),
                                          pack<T>(high[0] * scale[0], high[1] * scale[0]), pack<T>(high[2] * scale[1], high[3] * scale[1])};
                store_matrix(panel_chunk<64>(q_tile, warp * 16 + lane % 16, d / 8 + lane / 16), tile);
            }
            __syncwarp();
            // A warp writes its own sixteen rows.
#pragma unroll 4
            for (int i = lane; i < 16 * CHUNKS; i += 32) {
                const int row = warp * 16 + i / CHUNKS, chunk = i % CHUNKS, folded = work.tile_start + first_row + row;
                if (folded >= work.rows) continue;
                T* to = static_cast<T*>(p.out) + row_offset(p, work, folded, p.out_strides) + chunk * 8;
                store_global_16(to, load_16(panel_chunk<64>(q_tile, row, chunk)));
            }
        }
        // The last turn that was passed is taken by the first warpgroup, as named barriers want as many waits as arrivals.
        if (group == 1) await_turn();
    }
}
