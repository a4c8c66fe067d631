// Tensor cores and asynchronous copies of compute capability 8.0, by hand.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

using bf16 = __nv_bfloat16;

__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

__device__ void load_matrix(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ void load_matrix_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

enum Bug { NONE, MISSING_BARRIER, MISSING_WAIT, SWAPPED_FRAGMENT };

// C = A B for 64 x n x 64, A row-major [64, k], B row-major [k, 64]; four warps, two stages of 32 of k.
template <Bug BUG>
__device__ void matmul_body(const bf16* a, const bf16* b, float* c, int k) {
    __shared__ __align__(16) bf16 sa[2][64][40];
    __shared__ __align__(16) bf16 sb[2][32][72];
    int t = threadIdx.x, warp = t / 32, lane = t % 32;
    float d[8][4] = {};
    auto fetch = [&](int stage, int from) {
        for (int i = t; i < 64 * 4; i += 128) copy16(&sa[stage][i / 4][i % 4 * 8], a + i / 4 * k + from + i % 4 * 8);
        for (int i = t; i < 32 * 8; i += 128) copy16(&sb[stage][i / 8][i % 8 * 8], b + (from + i / 8) * 64 + i % 8 * 8);
        commit();
    };
    fetch(0, 0);
    for (int from = 0, stage = 0; from < k; from += 32, stage ^= 1) {
        if (from + 32 < k) {
            fetch(stage ^ 1, from + 32);
            if (BUG != MISSING_WAIT) wait<1>();
        } else if (BUG != MISSING_WAIT) wait<0>();
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            uint32_t fa[4];
            load_matrix(fa, &sa[stage][warp * 16 + lane % 16][kk + lane / 16 * 8]);
            for (int n = 0; n < 64; n += 16) {
                uint32_t fb[4];
                load_matrix_transposed(fb, &sb[stage][kk + lane % 16][n + lane / 16 * 8]);
                if (BUG == SWAPPED_FRAGMENT) {
                    multiply(d[n / 8], fa, fb[1], fb[0]);
                    multiply(d[n / 8 + 1], fa, fb[3], fb[2]);
                } else {
                    multiply(d[n / 8], fa, fb[0], fb[1]);
                    multiply(d[n / 8 + 1], fa, fb[2], fb[3]);
                }
            }
        }
        if (BUG != MISSING_BARRIER) __syncthreads();
    }
    for (int n = 0; n < 8; n++)
        for (int i = 0; i < 4; i++) c[(warp * 16 + lane / 4 + i / 2 * 8) * 64 + n * 8 + lane % 4 * 2 + i % 2] = d[n][i];
}
extern "C" __global__ void matmul(const bf16* a, const bf16* b, float* c, int k) { matmul_body<NONE>(a, b, c, k); }
extern "C" __global__ void matmul_missing_barrier(const bf16* a, const bf16* b, float* c, int k) { matmul_body<MISSING_BARRIER>(a, b, c, k); }
extern "C" __global__ void matmul_missing_wait(const bf16* a, const bf16* b, float* c, int k) { matmul_body<MISSING_WAIT>(a, b, c, k); }
extern "C" __global__ void matmul_swapped_fragment(const bf16* a, const bf16* b, float* c, int k) { matmul_body<SWAPPED_FRAGMENT>(a, b, c, k); }

// out = softmax(q k^T) v for 64 rows of q, head_dim 64, K/V [n, 64]; one block of four warps per head.
extern "C" __global__ void attention(const bf16* q, const bf16* k, const bf16* v, bf16* out, int n) {
    __shared__ __align__(16) bf16 sq[64][72];
    __shared__ __align__(16) bf16 sk[2][64][72];
    __shared__ __align__(16) bf16 sv[2][64][72];
    int t = threadIdx.x, warp = t / 32, lane = t % 32;
    q += blockIdx.x * 64 * 64, out += blockIdx.x * 64 * 64;
    k += blockIdx.x * n * 64, v += blockIdx.x * n * 64;
    auto fetch = [&](int stage, int from) {
        for (int i = t; i < 64 * 8; i += 128) {
            copy16(&sk[stage][i / 8][i % 8 * 8], k + (from + i / 8) * 64 + i % 8 * 8);
            copy16(&sv[stage][i / 8][i % 8 * 8], v + (from + i / 8) * 64 + i % 8 * 8);
        }
        commit();
    };
    for (int i = t; i < 64 * 8; i += 128) copy16(&sq[i / 8][i % 8 * 8], q + i / 8 * 64 + i % 8 * 8);
    fetch(0, 0);
    uint32_t fq[4][4];
    float o[8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    const float LOG2E = 1.4426950408889634f;
    for (int from = 0, stage = 0; from < n; from += 64, stage ^= 1) {
        if (from + 64 < n) {
            fetch(stage ^ 1, from + 64);
            wait<1>();
        } else wait<0>();
        __syncthreads();
        if (from == 0)
            for (int i = 0; i < 4; i++) load_matrix(fq[i], &sq[warp * 16 + lane % 16][i * 16 + lane / 16 * 8]);
        float s[8][4] = {};
        for (int i = 0; i < 4; i++)
            for (int key = 0; key < 64; key += 16) {
                uint32_t f[4];
                load_matrix(f, &sk[stage][key + lane % 8 + lane / 16 * 8][i * 16 + lane / 8 % 2 * 8]);
                multiply(s[key / 8], fq[i], f[0], f[1]);
                multiply(s[key / 8 + 1], fq[i], f[2], f[3]);
            }
        for (int r = 0; r < 2; r++) {
            float top = highest[r];
            for (int j = 0; j < 8; j++) top = fmaxf(top, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            float scale = exp2f((highest[r] - top) * LOG2E);
            highest[r] = top;
            sum[r] *= scale;
            for (int j = 0; j < 8; j++) {
                o[j][2 * r] *= scale, o[j][2 * r + 1] *= scale;
                s[j][2 * r] = exp2f((s[j][2 * r] - top) * LOG2E);
                s[j][2 * r + 1] = exp2f((s[j][2 * r + 1] - top) * LOG2E);
                sum[r] += s[j][2 * r] + s[j][2 * r + 1];
            }
        }
        for (int i = 0; i < 4; i++) {
            uint32_t p[4];
            for (int h = 0; h < 4; h++) {
                __nv_bfloat162 pair = __floats2bfloat162_rn(s[2 * i + h / 2][h % 2 * 2], s[2 * i + h / 2][h % 2 * 2 + 1]);
                p[h] = *reinterpret_cast<uint32_t*>(&pair);
            }
            for (int d = 0; d < 64; d += 16) {
                uint32_t f[4];
                load_matrix_transposed(f, &sv[stage][i * 16 + lane % 16][d + lane / 16 * 8]);
                multiply(o[d / 8], p, f[0], f[1]);
                multiply(o[d / 8 + 1], p, f[2], f[3]);
            }
        }
        __syncthreads();
    }
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        for (int j = 0; j < 8; j++) {
            __nv_bfloat162 pair = __floats2bfloat162_rn(o[j][2 * r] / sum[r], o[j][2 * r + 1] / sum[r]);
            *reinterpret_cast<__nv_bfloat162*>(&out[(warp * 16 + lane / 4 + r * 8) * 64 + j * 8 + lane % 4 * 2]) = pair;
        }
    }
}
