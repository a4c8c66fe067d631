// The encoder's self-attention: bidirectional within an input, scale 1, with a relative bias that depends on key
// minus query alone. Scores never leave the chip, and neither they nor the bias exist as n x n.
//
//   qkv [tokens, 3, heads, DIM]   out [tokens, heads, DIM]   bias [heads, span], offset 0 at `zero`
//
// A block per tile of query rows of one input, and head. 16-bit types run on tensor cores, f32 on plain FMA.
#include "attention/convert.cuh"
#include "attention/softmax.cuh"
#include "ptx/copy.cuh"
#include "ptx/matrix.cuh"
#include "order.cuh"

// Query rows first..min(first + rows, end) of the input with the tokens start..end.
struct T5Tile {
    int start, end, first, reserved;
};

template <typename T>
struct EncoderAttention {
    const T* qkv;
    T* out;
    const float* bias;
    int heads, span, zero;
};

// 64 query rows, 16 a warp; K and V tiles by cp.async, two in flight. Chunks of 16 bytes are permuted by XOR
// with the row against bank conflicts.
template <typename T, int DIM, int KEYS>
__device__ __forceinline__ void attend_tensor(const EncoderAttention<T>& p, const T5Tile tile, int head) {
    constexpr int ROWS = 64, CHUNKS = DIM / 8, TILE_BYTES = KEYS * DIM * 2, BIASES = KEYS + ROWS;
    extern __shared__ __align__(128) char shared[];
    const uint32_t q_tile = shared_address(shared), kv_tiles = q_tile + ROWS * DIM * 2;
    float* biases = reinterpret_cast<float*>(shared + ROWS * DIM * 2 + 4 * TILE_BYTES);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int64_t inner = static_cast<int64_t>(p.heads) * DIM, stride = 3 * inner;
    const T* q = p.qkv + head * DIM;
    auto chunk_at = [](uint32_t at, int row, int chunk) { return at + (row * CHUNKS + (chunk ^ (row & 7))) * 16; };

    for (int i = thread; i < ROWS * CHUNKS; i += 128) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const bool valid = tile.first + row < tile.end;
        copy_async_16(chunk_at(q_tile, row, chunk), q + (valid ? tile.first + row : tile.first) * stride + chunk * 8, valid);
    }
    const int keys = tile.end - tile.start, tiles = (keys + KEYS - 1) / KEYS;
    auto fetch = [&](int t) {
        if (t < tiles) {
            const uint32_t stage = kv_tiles + t % 2 * 2 * TILE_BYTES;
#pragma unroll
            for (int i = thread; i < KEYS * CHUNKS; i += 128) {
                const int row = i / CHUNKS, chunk = i % CHUNKS, key = t * KEYS + row;
                // Keys past the end are zeros: 0 x 0 adds nothing, where stale memory might hold NaN.
                const bool valid = key < keys;
                const T* k = q + (tile.start + (valid ? key : 0)) * stride + inner + chunk * 8;
                copy_async_16(chunk_at(stage, row, chunk), k, valid);
                copy_async_16(chunk_at(stage + TILE_BYTES, row, chunk), k + inner, valid);
            }
            // The biases of all offsets in this tile: key j against row i is number j - i + ROWS - 1.
            const int base = p.zero + t * KEYS - (tile.first - tile.start) - (ROWS - 1);
            for (int i = thread; i < BIASES; i += 128) {
                const int at = base + i;
                biases[t % 2 * BIASES + i] = at >= 0 && at < p.span ? p.bias[static_cast<int64_t>(head) * p.span + at] : 0.0f;
            }
        }
        copy_commit();
    };
    fetch(0);

    float out[DIM / 8][4] = {};
    float highest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (int t = 0; t < tiles; t++) {
        copy_wait<0>();
        __syncthreads();
        // The stage that was read in the last iteration is free for the next tile.
        fetch(t + 1);
        const uint32_t k_tile = kv_tiles + t % 2 * 2 * TILE_BYTES, v_tile = k_tile + TILE_BYTES;
        const float* bias = biases + t % 2 * BIASES;
        float s[KEYS / 8][4] = {};
#pragma unroll
        for (int d = 0; d < DIM; d += 16) {
            uint32_t a[4];
            load_matrix(a, chunk_at(q_tile, warp * 16 + lane % 16, d / 8 + lane / 16));
#pragma unroll
            for (int key = 0; key < KEYS; key += 16) {
                uint32_t b[4];
                load_matrix(b, chunk_at(k_tile, key + lane % 8 + lane / 16 * 8, d / 8 + lane / 8 % 2));
                multiply<T>(s[key / 8], a, b[0], b[1]);
                multiply<T>(s[key / 8 + 1], a, b[2], b[3]);
            }
        }
        // Element i of s[j]: row lane / 4 + i / 2 * 8 of the warp, key 8 j + lane % 4 * 2 + i % 2.
        const int left = keys - t * KEYS;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = warp * 16 + lane / 4 + i / 2 * 8, key = 8 * j + lane % 4 * 2 + i % 2;
                s[j][i] = key < left ? s[j][i] + bias[key - row + ROWS - 1] : -INFINITY;
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = highest[r];
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) top = fmaxf(top, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            const float shift = top == -INFINITY ? 0.0f : top * LOG2E, rescale = exp2_approx(highest[r] * LOG2E - shift);
            highest[r] = top;
            sum[r] *= rescale;
#pragma unroll
            for (int j = 0; j < DIM / 8; j++) out[j][2 * r] *= rescale, out[j][2 * r + 1] *= rescale;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) {
                s[j][2 * r] = exp2_approx(fmaf(s[j][2 * r], LOG2E, -shift));
                s[j][2 * r + 1] = exp2_approx(fmaf(s[j][2 * r + 1], LOG2E, -shift));
                sum[r] += s[j][2 * r] + s[j][2 * r + 1];
            }
        }
#pragma unroll
        for (int key = 0; key < KEYS; key += 16) {
            const uint32_t a[4] = {pack<T>(s[key / 8][0], s[key / 8][1]), pack<T>(s[key / 8][2], s[key / 8][3]),
                                   pack<T>(s[key / 8 + 1][0], s[key / 8 + 1][1]), pack<T>(s[key / 8 + 1][2], s[key / 8 + 1][3])};
#pragma unroll
            for (int d = 0; d < DIM; d += 16) {
                uint32_t b[4];
                load_matrix_transposed(b, chunk_at(v_tile, key + lane % 16, d / 8 + lane / 16));
                multiply<T>(out[d / 8], a, b[0], b[1]);
                multiply<T>(out[d / 8 + 1], a, b[2], b[3]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        const int64_t token = tile.first + warp * 16 + lane / 4 + 8 * r;
        if (token >= tile.end) continue;
        T* to = p.out + token * inner + head * DIM + lane % 4 * 2;
        const float scale = 1.0f / sum[r];
#pragma unroll
        for (int j = 0; j < DIM / 8; j++)
            *reinterpret_cast<uint32_t*>(to + 8 * j) = pack<T>(out[j][2 * r] * scale, out[j][2 * r + 1] * scale);
    }
}

// 16 query rows, four a warp; a lane takes one key of 32 for the scores, DIM / 32 columns for the values.
template <int DIM>
__device__ __forceinline__ void attend_plain(const EncoderAttention<float>& p, const T5Tile tile, int head) {
    constexpr int ROWS = 16, KEYS = 32, COLUMNS = DIM / 32;
    // Rows of K padded by 4: a lane's key then starts in a bank of its own.
    __shared__ __align__(16) float k_tile[KEYS][DIM + 4], q_tile[ROWS][DIM];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t inner = static_cast<int64_t>(p.heads) * DIM, stride = 3 * inner;
    const float* q = p.qkv + head * DIM;
    const float* bias = p.bias + static_cast<int64_t>(head) * p.span;
    for (int i = threadIdx.x; i < ROWS * DIM; i += 128)
        q_tile[i / DIM][i % DIM] = tile.first + i / DIM < tile.end ? q[(tile.first + i / DIM) * stride + i % DIM] : 0.0f;
    float out[4][COLUMNS] = {}, highest[4], sum[4] = {};
    for (int r = 0; r < 4; r++) highest[r] = -INFINITY;
    for (int begin = tile.start; begin < tile.end; begin += KEYS) {
        const int count = min(KEYS, tile.end - begin);
        __syncthreads();
        for (int i = threadIdx.x; i < KEYS * DIM; i += 128)
            k_tile[i / DIM][i % DIM] = i / DIM < count ? q[(begin + i / DIM) * stride + inner + i % DIM] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int row = tile.first + warp * 4 + r;
            if (row >= tile.end) continue;
            float dot = 0;
#pragma unroll 4
            for (int d = 0; d < DIM; d += 4) {
                const float4 a = *reinterpret_cast<const float4*>(&q_tile[warp * 4 + r][d]);
                const float4 b = *reinterpret_cast<const float4*>(&k_tile[lane][d]);
                dot = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, dot))));
            }
            const float score = lane < count ? dot + bias[p.zero + begin + lane - row] : -INFINITY;
            float top = fmaxf(highest[r], score);
            for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
            const float rescale = exp2_approx((highest[r] - top) * LOG2E), weight = exp2_approx((score - top) * LOG2E);
            highest[r] = top;
            sum[r] = sum[r] * rescale + weight;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) out[r][c] *= rescale;
            for (int j = 0; j < count; j++) {
                const float w = __shfl_sync(~0u, weight, j);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    out[r][c] = fmaf(w, q[(begin + j) * stride + 2 * inner + 32 * c + lane], out[r][c]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float total = sum[r];
        for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
        const int64_t token = tile.first + warp * 4 + r;
        if (token >= tile.end) continue;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) p.out[token * inner + head * DIM + 32 * c + lane] = out[r][c] / total;
    }
}

// Without a number of blocks ptxas aims at more of them, or at fewer than there were, and some versions spill.
#define T5_ATTEND_ENCODER(T, TYPE, DIM, BLOCKS, ATTEND)                                                                      \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS) t5_attend_encoder_##TYPE##_##DIM(                              \
        const T* qkv, T* out, const T5Tile* tiles, const float* bias, int heads, int span, int zero) {                       \
        in_order();                                                                                                          \
        ATTEND({qkv, out, bias, heads, span, zero}, tiles[blockIdx.x], blockIdx.y);                                          \
    }
T5_ATTEND_ENCODER(__nv_bfloat16, bf16, 64, 3, (attend_tensor<__nv_bfloat16, 64, 64>))
T5_ATTEND_ENCODER(__nv_bfloat16, bf16, 128, 3, (attend_tensor<__nv_bfloat16, 128, 32>))
T5_ATTEND_ENCODER(__half, f16, 64, 3, (attend_tensor<__half, 64, 64>))
T5_ATTEND_ENCODER(__half, f16, 128, 3, (attend_tensor<__half, 128, 32>))
T5_ATTEND_ENCODER(float, f32, 64, 5, attend_plain<64>)
T5_ATTEND_ENCODER(float, f32, 128, 5, attend_plain<128>)
