// A product by the C++ interface of wmma: C = A * B + C, with A by rows, B by columns, tiles through shared memory with
// a skew, fragments scaled element by element.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;

constexpr int kTile = 16;
constexpr int kSkew = 8;

// One warp per 16x16 tile of C [m, n]; A [m, k], B [n, k].
extern "C" __global__ void gemm_f16(const half* a, const half* b, float* c, int n, int k, float alpha) {
    __shared__ __align__(32) half tile_a[kTile][kTile + kSkew];
    __shared__ __align__(32) half tile_b[kTile][kTile + kSkew];
    const int row = blockIdx.y * kTile, column = blockIdx.x * kTile;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum, old;
    wmma::fill_fragment(sum, 0.0f);
    for (int step = 0; step < k; step += kTile) {
        for (int i = threadIdx.x; i < kTile * kTile; i += 32) {
            tile_a[i / kTile][i % kTile] = a[(row + i / kTile) * k + step + i % kTile];
            tile_b[i / kTile][i % kTile] = b[(column + i / kTile) * k + step + i % kTile];
        }
        __syncwarp();
        wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> left;
        wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> right;
        wmma::load_matrix_sync(left, &tile_a[0][0], kTile + kSkew);
        wmma::load_matrix_sync(right, &tile_b[0][0], kTile + kSkew);
        wmma::mma_sync(sum, left, right, sum);
        __syncwarp();
    }
    wmma::load_matrix_sync(old, c + row * n + column, n, wmma::mem_row_major);
    for (int i = 0; i < sum.num_elements; ++i) sum.x[i] = alpha * sum.x[i] + old.x[i];
    wmma::store_matrix_sync(c + row * n + column, sum, n, wmma::mem_row_major);
}

// 32x8 tiles of s32 sums of s8, straight from global memory; C by columns.
extern "C" __global__ void gemm_s8(const signed char* a, const signed char* b, int* c, int m, int k) {
    const int row = blockIdx.y * 32, column = blockIdx.x * 8;
    wmma::fragment<wmma::accumulator, 32, 8, 16, int> sum;
    wmma::fill_fragment(sum, 0);
    for (int step = 0; step < k; step += 16) {
        wmma::fragment<wmma::matrix_a, 32, 8, 16, signed char, wmma::row_major> left;
        wmma::fragment<wmma::matrix_b, 32, 8, 16, signed char, wmma::col_major> right;
        wmma::load_matrix_sync(left, a + row * k + step, k);
        wmma::load_matrix_sync(right, b + column * k + step, k);
        wmma::mma_sync(sum, left, right, sum);
    }
    wmma::store_matrix_sync(c + column * m + row, sum, m, wmma::mem_col_major);
}

// 16x16 tiles of tf32: numbers are rounded where they lie in fragments.
extern "C" __global__ void gemm_tf32(const float* a, const float* b, float* c, int n, int k) {
    const int row = blockIdx.y * 16, column = blockIdx.x * 16;
    wmma::fragment<wmma::accumulator, 16, 16, 8, float> sum;
    wmma::fill_fragment(sum, 0.0f);
    for (int step = 0; step < k; step += 8) {
        wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> left;
        wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> right;
        wmma::load_matrix_sync(left, a + row * k + step, k);
        wmma::load_matrix_sync(right, b + step * n + column, n);
        for (int i = 0; i < left.num_elements; ++i) left.x[i] = wmma::__float_to_tf32(left.x[i]);
        for (int i = 0; i < right.num_elements; ++i) right.x[i] = wmma::__float_to_tf32(right.x[i]);
        wmma::mma_sync(sum, left, right, sum);
    }
    wmma::store_matrix_sync(c + row * n + column, sum, n, wmma::mem_row_major);
}
