// f32 on plain FMA: exact enough for tests, not meant to be fast. Four warps of four rows each; a lane
// takes one key of 32 for the scores, and head_dim / 32 columns for the values.
#include "attention/planned.cuh"
#include "attention/softmax.cuh"

template <int DIM_>
struct PlainShape {
    static constexpr int DIM = DIM_, ROWS = 16, TILE_KEYS = 32, THREADS = 128, STAGES = 1;
    // K's rows are padded by 4 floats: eight lanes that read 16 bytes of their keys then cover all banks. Q follows K.
    static constexpr int PITCH = DIM + 4;
    static constexpr int SHARED_BYTES = (TILE_KEYS * PITCH + ROWS * DIM) * 4;
};

template <typename Shape>
__device__ __forceinline__ void attend(const OnekvAttention& p, const OnekvWork work) {
    constexpr int DIM = Shape::DIM, ROWS = Shape::ROWS, KEYS = Shape::TILE_KEYS, PITCH = Shape::PITCH, COLUMNS = DIM / 32;
    extern __shared__ __align__(16) float shared[];
    float(*k_tile)[PITCH] = reinterpret_cast<float(*)[PITCH]>(shared);
    float(*q_tile)[DIM] = reinterpret_cast<float(*)[DIM]>(shared + KEYS * PITCH);
    if (work.rows == 0) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float* q = static_cast<const float*>(p.q);
    const float* k = static_cast<const float*>(p.k) + work.kv_slot * p.k_slot_stride + work.kv_head * p.k_strides.head;
    const float* v = static_cast<const float*>(p.v) + work.kv_slot * p.v_slot_stride + work.kv_head * p.v_strides.head;
    for (int i = threadIdx.x; i < ROWS * DIM; i += Shape::THREADS) {
        const int folded = work.tile_start + i / DIM;
        const int64_t query = work.row_base + folded / p.group, head = work.kv_head * p.group + folded % p.group;
        q_tile[i / DIM][i % DIM] = folded < work.rows ? q[query * p.q_strides.row + head * p.q_strides.head + i % DIM] : 0.0f;
    }
    const Score score(p);
    float out[4][COLUMNS] = {}, highest[4], sum[4] = {};
    for (int r = 0; r < 4; r++) highest[r] = -INFINITY;
    for (int first = work.key_begin; first < work.key_end; first += KEYS) {
        const int count = min(KEYS, work.key_end - first);
        __syncthreads();
        for (int i = threadIdx.x; i < KEYS * DIM; i += Shape::THREADS)
            k_tile[i / DIM][i % DIM] = i / DIM < count ? k[(first + i / DIM) * p.k_strides.row + i % DIM] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float dot = 0;
#pragma unroll 8
            for (int d = 0; d < DIM; d += 4) {
                const float4 a = *reinterpret_cast<const float4*>(&q_tile[warp * 4 + r][d]);
                const float4 b = *reinterpret_cast<const float4*>(&k_tile[lane][d]);
                dot = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, dot))));
            }
            const float s = lane < count ? (score.cap > 0 ? score.capped(dot) : dot) : -INFINITY;
            float top = fmaxf(highest[r], s);
            for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
            const float shift = score.shift(top), rescale = score.weight(highest[r], shift), weight = score.weight(s, shift);
            highest[r] = top;
            sum[r] = sum[r] * rescale + weight;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) out[r][c] *= rescale;
            for (int j = 0; j < count; j++) {
                const float w = __shfl_sync(~0u, weight, j);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    out[r][c] = fmaf(w, v[(first + j) * p.v_strides.row + 32 * c + lane], out[r][c]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float total = sum[r];
        for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
        const int row = warp * 4 + r, folded = work.tile_start + row;
        if (folded >= work.rows) continue;
        // Nothing has any weight: out = 0, lse = -inf, which infinite values times 0 would not show.
        const bool none = total == 0;
        const float scale = 1.0f / total, lse = none ? -INFINITY : score.shift(highest[r]) * LN2 + logf(total);
        const int64_t query = work.row_base + folded / p.group, head = work.kv_head * p.group + folded % p.group;
        const int64_t state = static_cast<int64_t>(work.state) * ROWS + row;
        float* to = work.state >= 0 ? p.partial_out + state * DIM
                                   : static_cast<float*>(p.out) + query * p.out_strides.row + head * p.out_strides.head;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) to[32 * c + lane] = none ? 0.0f : out[r][c] * scale;
        if (lane == 0) {
            if (work.state >= 0) p.partial_lse[state] = lse;
            else if (p.lse) p.lse[query * p.lse_strides.row + head * p.lse_strides.head] = lse;
        }
    }
}

// Without `blocks` ptxas aims at more of them, keeps fewer loads in flight, and in some versions spills.
#define ONEKV_PLAIN(T, name, dim, rows, cluster, tile_keys, key_warps, threads, stages, shared_bytes, blocks)      \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ OnekvAttention p) { \
        ONEKV_PLANNED(PlainShape<dim>, name, rows, tile_keys, threads, stages, shared_bytes);                      \
        attend<PlainShape<dim>>(p, p.work[blockIdx.x]);                                                            \
    }
ONEKV_ATTENTION_F32
