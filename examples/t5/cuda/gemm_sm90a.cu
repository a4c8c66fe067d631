// C = A W^T or C += A W^T on Hopper, made for decode steps: few rows of A, weights W that are read once, from memory.
//
//   A [m, k]   W [n, k]   C [m, n], of type T or f32; all row-major. k a multiple of 8.
//
// A step's time is that of reading W, if only the reads never stop. Between two products lie small kernels that depend on
// each other; but W depends on nothing. A block therefore fills its ring with W before it waits for the launches before
// it, and these let it be set up as soon as they run: memory is busy while the small kernels have their turn. Up
// to 128 rows a block takes less than half of a multiprocessor's shared memory, so that it can begin beside the product
// before.
//
//   product   | W W W W |. . . wait . . .| A: multiply ... | join, write |
//   small kernel        |  norm, attention  |              | norm ...
//
// Too few tiles of 128 columns to fill the card: the blocks of a cluster divide k. Each owns every so manieth row, and
// sends its sums of the others' rows to their owners, from registers into shared memory; an owner adds in the order of
// ranks: the same bits every time.
#include "attention/convert.cuh"
#include "ptx/barrier.cuh"
#include "ptx/cluster.cuh"
#include "ptx/copy.cuh"
#include "ptx/tensor_copy.cuh"
#include "ptx/warpgroup.cuh"
#include "activation.cuh"
#include "sum.cuh"

// What becomes of the sums. As `Epilogue` in src/backend/cuda/kernels.rs.
struct T5Epilogue {
    void* out;
    // Where A's rows are yet to be divided by their root mean square: sums of squares [m, parts].
    const float* squares;
    // Where a norm of C, f32, is begun: its weight [n], and what becomes C times it [m, n], of type T, and the squares' sums
    // over tiles of columns [m, tiles].
    const float* next_weight;
    void* next;
    float* next_squares;
    int m, n, k;     // n: columns of C
    int wide;        // C is f32
    int add;
    int activation;  // `Activation`, or NONE
    int gated;       // W has 2n rows: the product of the first n, activated, with the other n is written
    int parts;
    float epsilon;
    int unused;
};
static_assert(sizeof(T5Epilogue) == 80, "without padding: the host passes one");

// The copy engine writes, and wgmma reads, rows of 128 bytes: 64 elements of k.
constexpr int DEPTH = 64, COLUMNS = 128;

template <int GROUPS>
struct GemmShape {
    // A warpgroup has 64 rows; a producer warp comes after them.
    static constexpr int ROWS = 64 * GROUPS, CONSUMERS = 128 * GROUPS, THREADS = CONSUMERS + 32;
    static constexpr int A_BYTES = ROWS * 128, W_BYTES = COLUMNS * 128, STAGE_BYTES = A_BYTES + W_BYTES;
    static constexpr int STAGES = GROUPS == 2 ? 3 : 4;
    // Two blocks at a time on a multiprocessor, but for the most rows.
    static constexpr int BLOCKS = GROUPS <= 2 ? 2 : 1;
    static constexpr int BARRIERS_AT = STAGES * STAGE_BYTES, FACTORS_AT = BARRIERS_AT + (2 * STAGES + 1) * 8;
    // A factor for each row.
    static constexpr int SHARED_BYTES = FACTORS_AT + ROWS * 4;
    // The sums of all blocks for an owner's rows, in the place of the ring: as many rows as a tile has. Padded by 8: four
    // rows' pairs then hit all banks.
    static constexpr int PITCH = COLUMNS + 8;
    static_assert(ROWS * PITCH * 4 <= BARRIERS_AT, "the ring is large enough for the sums");
};

template <typename O>
struct alignas(4 * sizeof(O)) Four {
    O x[4];
};

// Up to four neighbours, added to what is there first; at once where they can be.
template <typename O>
__device__ __forceinline__ void put(O* to, float (&x)[4], int count, bool add) {
    if (count == 4 && reinterpret_cast<uintptr_t>(to) % sizeof(Four<O>) == 0) {
        Four<O> y = {};
        if (add) y = *reinterpret_cast<Four<O>*>(to);
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] += to_float(y.x[e]), y.x[e] = from_float<O>(x[e]);
        *reinterpret_cast<Four<O>*>(to) = y;
    } else {
        for (int e = 0; e < count; e++) {
            if (add) x[e] += to_float(to[e]);
            to[e] = from_float<O>(x[e]);
        }
    }
}

template <typename T, int GROUPS>
__device__ __forceinline__ void multiply_streamed(const TensorMap& a_map, const TensorMap& w_map, const T5Epilogue& p, char* shared) {
    using Shape = GemmShape<GROUPS>;
    constexpr int STAGES = Shape::STAGES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank(), ranks = cluster_size();
    const int row0 = blockIdx.y * Shape::ROWS, width = p.gated ? COLUMNS / 2 : COLUMNS, column0 = blockIdx.x / ranks * width;
    const uint32_t base = shared_address(shared);
    auto a_at = [&](int i) { return base + i % STAGES * Shape::STAGE_BYTES; };
    auto w_at = [&](int i) { return a_at(i) + Shape::A_BYTES; };
    auto full = [&](int i) { return base + Shape::BARRIERS_AT + i % STAGES * 8; };
    auto empty = [&](int i) { return full(i) + STAGES * 8; };
    const uint32_t joined = base + Shape::BARRIERS_AT + 2 * STAGES * 8;
    const int rows = min(Shape::ROWS, p.m - row0);
    float* factors = reinterpret_cast<float*>(shared + Shape::FACTORS_AT);
    // This block's part of k.
    const int depths = (p.k + DEPTH - 1) / DEPTH, first = depths * rank / ranks, steps = depths * (rank + 1) / ranks - first;

    if (threadIdx.x == Shape::CONSUMERS) {
        for (int i = 0; i < STAGES; i++) barrier_init(full(i), 1), barrier_init(empty(i), 4 * GROUPS);
        // A phase of one: this block's warps, and what the others send of its rows.
        barrier_init(joined, 4 * GROUPS + 1);
        barrier_init_fence();
        barrier_arrive_expect(joined, (ranks - 1) * ((rows + ranks - 1 - rank) / ranks) * COLUMNS * 4);
        tensor_prefetch(a_map), tensor_prefetch(w_map);
    }
    __syncthreads();
    dependents_start();

    if (warp == 4 * GROUPS) {
        if (lane == 0) {
            auto fetch_w = [&](int i) {
                barrier_arrive_expect(full(i), Shape::STAGE_BYTES);
                tensor_load(w_at(i), w_map, (first + i) * DEPTH, column0, 0, 0, 0, full(i));
            };
            auto fetch_a = [&](int i) {
                for (int g = 0; g < GROUPS; g++)
                    tensor_load(a_at(i) + g * 64 * 128, a_map, (first + i) * DEPTH, row0 + 64 * g, 0, 0, 0, full(i));
            };
            const int early = min(STAGES, steps);
            for (int i = 0; i < early; i++) fetch_w(i);
            predecessors_wait();
            for (int i = 0; i < early; i++) fetch_a(i);
            for (int i = early; i < steps; i++) {
                barrier_wait(empty(i), i / STAGES & 1 ^ 1);
                fetch_w(i), fetch_a(i);
            }
        }
        __syncwarp();
        cluster_sync();
    } else {
        predecessors_wait();
        // While the rows come. A thread adds a row's parts in their order.
        const int own = threadIdx.x;
        if (p.squares && own < rows && own % ranks == rank) {
            const float* squares = p.squares + static_cast<int64_t>(row0 + own) * p.parts;
            float sum = 0;
#pragma unroll 16
            for (int i = 0; i < p.parts; i++) sum += squares[i];
            factors[own] = rsqrtf(sum / p.k + p.epsilon);
        }
        const int group = warp / 4;
        float sums[COLUMNS / 8][4] = {};
        auto release = [&](int i) {
            if (lane == 0) barrier_arrive(empty(i));
        };
        for (int i = 0; i < steps; i++) {
            barrier_wait(full(i), i / STAGES & 1);
            warpgroup_arrive();
#pragma unroll
            for (int d = 0; d < DEPTH; d += 16)
                SharedProduct<T, COLUMNS>::run(
                    sums, tile_descriptor(a_at(i) + group * 64 * 128 + d * 2, 16), tile_descriptor(w_at(i) + d * 2, 16), 1);
            warpgroup_commit();
            // One product stays under way.
            warpgroup_wait<1>();
            if (i > 0) release(i - 1);
        }
        warpgroup_wait<0>();
        settle(sums);
        // Behind this, the ring of every block is free for sums: each warp has waited for every box that was fetched into its
        // block's, and all products that read them have ended. And the barriers of every block are set up.
        cluster_sync();
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = warp * 16 + lane / 4 + 8 * r, owner = row % ranks;
            if (row >= rows) continue;
            const uint32_t to = base + ((row - owner + rank) * Shape::PITCH + lane % 4 * 2) * 4;
            if (owner == rank) {
#pragma unroll
                for (int j = 0; j < COLUMNS / 8; j++) store_pair(to + 32 * j, sums[j][2 * r], sums[j][2 * r + 1]);
            } else {
                const uint32_t there = at_block(to, owner), counted = at_block(joined, owner);
#pragma unroll
                for (int j = 0; j < COLUMNS / 8; j++) store_pair_async(there + 32 * j, sums[j][2 * r], sums[j][2 * r + 1], counted);
            }
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(joined);
        barrier_wait_for_blocks(joined, 0);
        // Of an owner's row, the sums of block 0, 1, and so on follow each other.
        auto total = [&](int row, int column, float (&sum)[4]) {
            const char* at = shared + (row / ranks * ranks * Shape::PITCH + column) * 4;
#pragma unroll 8
            for (int r = 0; r < ranks; r++) {
                const float4 x = *reinterpret_cast<const float4*>(at + r * Shape::PITCH * 4);
                sum[0] += x.x, sum[1] += x.y, sum[2] += x.z, sum[3] += x.w;
            }
        };
        // Blocks take rows in turn: also few rows are divided among all.
        for (int i = threadIdx.x; i < Shape::ROWS / ranks * (width / 4); i += Shape::CONSUMERS) {
            const int row = i / (width / 4) * ranks + rank, column = i % (width / 4) * 4, count = min(4, p.n - column0 - column);
            if (row >= rows) continue;
            const float factor = p.squares ? factors[row] : 1.0f;
            float x[4] = {};
            total(row, column, x);
            for (int e = 0; e < 4; e++) x[e] *= factor;
            if (p.activation != NONE)
                for (int e = 0; e < 4; e++) x[e] = activated(x[e], p.activation);
            if (p.gated) {
                float y[4] = {};
                total(row, column + width, y);
                for (int e = 0; e < 4; e++) x[e] *= y[e] * factor;
            }
            const int64_t at = static_cast<int64_t>(row0 + row) * p.n + column0 + column;
            if (p.wide) put(static_cast<float*>(p.out) + at, x, count, p.add);
            else put(static_cast<T*>(p.out) + at, x, count, p.add);
            if (p.next) {
                // A warp has a row's columns of this tile.
                float squares = 0;
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (e >= count) continue;
                    squares = fmaf(x[e], x[e], squares);
                    x[e] *= p.next_weight[column0 + column + e];
                }
                put(static_cast<T*>(p.next) + at, x, count, false);
                squares = sum_of_warp(squares);
                if (lane == 0) p.next_squares[static_cast<int64_t>(row0 + row) * (gridDim.x / ranks) + blockIdx.x / ranks] = squares;
            }
        }
    }
}

// Names: t5_gemm_sm90a_<type of A and W>_<rows of a tile>.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define T5_GEMM_SM90A(T, TYPE, GROUPS, ROWS)                                                                                   \
    extern "C" __global__ void __launch_bounds__(GemmShape<GROUPS>::THREADS, GemmShape<GROUPS>::BLOCKS) t5_gemm_sm90a_##TYPE##_##ROWS( \
        const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap w, const __grid_constant__ T5Epilogue p) {     \
        extern __shared__ __align__(1024) char shared[];                                                                      \
        multiply_streamed<T, GROUPS>(a, w, p, shared);                                                                        \
    }
#define T5_GEMMS_SM90A(T, TYPE) T5_GEMM_SM90A(T, TYPE, 1, 64) T5_GEMM_SM90A(T, TYPE, 2, 128) T5_GEMM_SM90A(T, TYPE, 4, 256)
T5_GEMMS_SM90A(__nv_bfloat16, bf16)
T5_GEMMS_SM90A(__half, f16)
#endif
