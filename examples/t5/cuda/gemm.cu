// C = A W^T, or C += A W^T: for cards without cublasLt. Correct on every shape, and not meant to rival it.
//
//   A [m, k]   W [n, k]   C [m, n], of type T or f32; all row-major. 16-bit types: k a multiple of 8.
#include "attention/convert.cuh"
#include "ptx/copy.cuh"
#include "ptx/matrix.cuh"
#include "order.cuh"

template <typename O>
__device__ __forceinline__ void put(O* c, int64_t at, float x, bool add) {
    c[at] = from_float<O>(add ? to_float(c[at]) + x : x);
}

// A tile of 64 x 64; four warps of 32 x 32; 32 columns of A and W at a time, three stages in flight.
template <typename T, typename O>
__device__ __forceinline__ void gemm_tensor(const T* a, const T* w, O* c, int m, int n, int k, bool add) {
    constexpr int TILE = 64, DEPTH = 32, STAGES = 3, TILE_BYTES = TILE * DEPTH * 2;
    __shared__ __align__(128) char shared[2 * STAGES * TILE_BYTES];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int64_t row0 = static_cast<int64_t>(blockIdx.y) * TILE, col0 = static_cast<int64_t>(blockIdx.x) * TILE;
    const uint32_t tiles = shared_address(shared);
    // Two rows of four chunks span all banks: chunks are permuted by XOR with half the row.
    auto chunk_at = [](uint32_t at, int row, int chunk) { return at + (row * 4 + (chunk ^ (row >> 1 & 3))) * 16; };
    const int steps = (k + DEPTH - 1) / DEPTH;
    auto fetch = [&](int step) {
        if (step < steps) {
            const uint32_t stage = tiles + step % STAGES * 2 * TILE_BYTES;
#pragma unroll
            for (int i = thread; i < TILE * 4; i += 128) {
                const int row = i / 4, chunk = i % 4, at = step * DEPTH + chunk * 8;
                const bool in_a = row0 + row < m && at < k, in_w = col0 + row < n && at < k;
                copy_async_16(chunk_at(stage, row, chunk), in_a ? a + (row0 + row) * k + at : a, in_a);
                copy_async_16(chunk_at(stage + TILE_BYTES, row, chunk), in_w ? w + (col0 + row) * k + at : w, in_w);
            }
        }
        copy_commit();
    };
    fetch(0), fetch(1);
    float sums[2][4][4] = {};
    const int warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;
    // A decode step has few rows: a warp that has none only fetches.
    const bool busy = row0 + warp_row < m && col0 + warp_col < n;
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1);
        const uint32_t a_tile = tiles + step % STAGES * 2 * TILE_BYTES, w_tile = a_tile + TILE_BYTES;
#pragma unroll
        for (int d = 0; d < DEPTH && busy; d += 16) {
            uint32_t x[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) load_matrix(x[i], chunk_at(a_tile, warp_row + 16 * i + lane % 16, d / 8 + lane / 16));
#pragma unroll
            for (int j = 0; j < 2; j++) {
                uint32_t y[4];
                load_matrix(y, chunk_at(w_tile, warp_col + 16 * j + lane % 8 + lane / 16 * 8, d / 8 + lane / 8 % 2));
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    multiply<T>(sums[i][2 * j], x[i], y[0], y[1]);
                    multiply<T>(sums[i][2 * j + 1], x[i], y[2], y[3]);
                }
            }
        }
    }
    copy_wait<0>();
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int64_t row = row0 + warp_row + 16 * i + lane / 4 + e / 2 * 8, col = col0 + warp_col + 8 * j + lane % 4 * 2 + e % 2;
                if (row < m && col < n) put(c, row * n + col, sums[i][j][e], add);
            }
}

// A tile of 64 x 64 of 256 threads, 4 x 4 elements each; 16 columns of A and W at a time.
__device__ __forceinline__ void gemm_plain(const float* a, const float* w, float* c, int m, int n, int k, bool add) {
    constexpr int TILE = 64, DEPTH = 16;
    // [column][row], rows padded by 4: four threads that store one row's neighbours hit different banks.
    __shared__ __align__(16) float a_tile[DEPTH][TILE + 4], w_tile[DEPTH][TILE + 4];
    const int thread = threadIdx.x, x = thread % 16 * 4, y = thread / 16 * 4;
    const int64_t row0 = static_cast<int64_t>(blockIdx.y) * TILE, col0 = static_cast<int64_t>(blockIdx.x) * TILE;
    // A decode step has few rows: who has none only fetches.
    const bool busy = row0 + y < m && col0 + x < n;
    float sums[4][4] = {};
    for (int first = 0; first < k; first += DEPTH) {
#pragma unroll
        for (int i = thread; i < TILE * DEPTH; i += 256) {
            const int row = i / DEPTH, d = i % DEPTH;
            a_tile[d][row] = row0 + row < m && first + d < k ? a[(row0 + row) * k + first + d] : 0.0f;
            w_tile[d][row] = col0 + row < n && first + d < k ? w[(col0 + row) * k + first + d] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH && busy; d++) {
            const float4 u = *reinterpret_cast<const float4*>(&a_tile[d][y]), v = *reinterpret_cast<const float4*>(&w_tile[d][x]);
            const float us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(us[i], vs[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (row0 + y + i < m && col0 + x + j < n) put(c, (row0 + y + i) * n + col0 + x + j, sums[i][j], add);
}

// Names: t5_gemm_<type of A and W>_<type of C>.
#define T5_GEMM(T, TYPE, O, OUT, THREADS, BLOCKS, GEMM)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                            \
        t5_gemm_##TYPE##_##OUT(const T* a, const T* w, O* c, int m, int n, int k, int add) {                                 \
        in_order();                                                                                                          \
        GEMM(a, w, c, m, n, k, add != 0);                                                                                    \
    }
T5_GEMM(__nv_bfloat16, bf16, __nv_bfloat16, bf16, 128, 5, gemm_tensor)
T5_GEMM(__nv_bfloat16, bf16, float, f32, 128, 5, gemm_tensor)
T5_GEMM(__half, f16, __half, f16, 128, 5, gemm_tensor)
T5_GEMM(__half, f16, float, f32, 128, 5, gemm_tensor)
T5_GEMM(float, f32, float, f32, 256, 3, gemm_plain)
