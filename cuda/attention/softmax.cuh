// The score function and exponentials. Softmax runs in powers of two: exp(x) = 2^(x log2 e), and the
// factor log2 e is folded into the scale.
#pragma once
#include "../abi.h"

__device__ constexpr float LOG2E = 1.4426950408889634f;
__device__ constexpr float LN2 = 0.6931471805599453f;

__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// tanh to 2^-23, absolutely: (1 - e) / (1 + e) with e = exp(-2 |x|). tanhf branches by size, which costs the loops
// more than the exponentials do.
__device__ __forceinline__ float tanh_approx(float x) {
    const float e = exp2_approx(-2 * LOG2E * fabsf(x));
    return copysignf(__fdividef(1 - e, 1 + e), x);
}

// Scores from dot products: either untouched, with the scale left to the exponential, or capped.
struct Score {
    float inner;  // before tanh
    float cap;    // 0: none
    float log2_scale;

    // `k_scale`: what the elements of K are multiplied by.
    __device__ explicit Score(const OnekvAttention& p, float k_scale = 1)
        : inner(p.score_scale * k_scale), cap(p.softcap), log2_scale(p.softcap > 0 ? LOG2E : p.score_scale * k_scale * LOG2E) {}

    __device__ __forceinline__ float capped(float dot) const { return cap * tanh_approx(dot * inner); }

    // What is subtracted in the exponent for a maximum; 0 where nothing has weight yet, so that no
    // infinities are subtracted from each other.
    __device__ __forceinline__ float shift(float highest) const {
        return highest == -INFINITY ? 0.0f : highest * log2_scale;
    }
    __device__ __forceinline__ float weight(float score, float shift) const {
        return exp2_approx(fmaf(score, log2_scale, -shift));
    }

    // Of a warp's scores of 16 rows: element i of s[j] is row lane / 4 + i / 2 * 8, key 8 j + lane % 4 * 2 + i % 2.
    template <int N>
    __device__ __forceinline__ void cap_all(float (&s)[N][4]) const {
        if (cap > 0) {
#pragma unroll
            for (int j = 0; j < N; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[j][i] = capped(s[j][i]);
        }
    }
    // Keys from `left` on weigh nothing.
    template <int N>
    __device__ __forceinline__ void mask(float (&s)[N][4], int left, int lane) const {
        if (left >= 8 * N) return;
        left -= lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (8 * j + i % 2 >= left) s[j][i] = -INFINITY;
    }
    // Scores to weights. Raises the maxima of the two rows, adds to a lane's share of their sums, and gives the
    // factor on what was summed up before.
    template <int N>
    __device__ __forceinline__ void softmax(float (&s)[N][4], float (&highest)[2], float (&sum)[2], float (&rescale)[2]) const {
        softmax(s, highest, sum, rescale, {log2_scale, log2_scale});
    }
    // The same where the scores of each row have a scale of their own.
    template <int N>
    __device__ __forceinline__ void softmax(
        float (&s)[N][4], float (&highest)[2], float (&sum)[2], float (&rescale)[2], const float (&log2_scales)[2]) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            Score row = *this;
            row.log2_scale = log2_scales[r];
            float top = highest[r];
#pragma unroll
            for (int j = 0; j < N; j++) top = fmaxf(top, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            const float down = row.shift(top);
            rescale[r] = row.weight(highest[r], down);
            highest[r] = top;
            sum[r] *= rescale[r];
#pragma unroll
            for (int j = 0; j < N; j++) {
                s[j][2 * r] = row.weight(s[j][2 * r], down);
                s[j][2 * r + 1] = row.weight(s[j][2 * r + 1], down);
                sum[r] += s[j][2 * r] + s[j][2 * r + 1];
            }
        }
    }
};
