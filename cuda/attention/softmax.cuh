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

// 2^x on the FMA pipes, for x < 127 (weights have at most 8), to 2^-22 like ex2.approx: 2^n p(x - n) with n the nearest integer
// and p the polynomial of degree 5 with p(0) = 1 and the least relative error on [-1/2, 1/2]. From x = -126.5 down it is 0; NaN
// stays NaN.
__device__ __forceinline__ float exp2_polynomial(float x) {
    float clamped;
    asm("max.NaN.f32 %0, %1, 0fC2FE0000;" : "=f"(clamped) : "f"(x));  // -127: 2^n is the float 0 then
    // The last bits of the sum are n + 127, the biased exponent of 2^n.
    constexpr float ROUND = 12582912.0f + 127;
    const float rounded = clamped + ROUND, r = clamped - (rounded - ROUND);
    float p = fmaf(0.0013264727f, r, 0.009671513f);
    p = fmaf(p, r, 0.055507336f), p = fmaf(p, r, 0.24022242f), p = fmaf(p, r, 0.693147f);
    return fmaf(p, r, 1.0f) * __int_as_float(__float_as_int(rounded) << 23);
}

// tanh to 2^-23, absolutely: (1 - e) / (1 + e) with e = exp(-2 |x|). tanhf branches by size, which costs the loops
// more than the exponentials do.
__device__ __forceinline__ float tanh_approx(float x) {
    const float e = exp2_approx(-2 * LOG2E * fabsf(x));
    return copysignf(__fdividef(1 - e, 1 + e), x);
}

// Multiplies each of a warp's sixteen rows by its own factor.
template <int N>
__device__ __forceinline__ void scale_rows(float (&tile)[N][4], const float (&factors)[2]) {
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) tile[j][i] *= factors[i / 2];
}
// Whether no row of the warp needs rescaling, as is mostly so: a vote costs less than to multiply all outputs.
__device__ __forceinline__ bool all_one(const float (&factors)[2]) { return __all_sync(~0u, factors[0] == 1 && factors[1] == 1); }

// How dot products become weights. Without a softcap they stay as they are, and the scale is left to the exponential.
struct Score {
    float inner;  // factor before tanh
    float cap;    // 0: none
    float log2_scale;

    // `k_scale`: the factor on K's elements, 1 but for e4m3.
    __device__ explicit Score(const OnekvAttention& p, float k_scale = 1)
        : inner(p.score_scale * k_scale), cap(p.softcap), log2_scale(p.softcap > 0 ? LOG2E : p.score_scale * k_scale * LOG2E) {}

    // Not `dot * factor` first: that may overflow where `inner` is small.
    __device__ __forceinline__ float capped(float dot, float factor = 1) const { return cap * tanh_approx(dot * (inner * factor)); }

    // What is subtracted in the exponent for a maximum; 0 where nothing has weight yet, so that no
    // infinities are subtracted from each other.
    __device__ __forceinline__ float shift(float highest) const {
        return highest == -INFINITY ? 0.0f : highest * log2_scale;
    }
    __device__ __forceinline__ float weight(float score, float shift, bool polynomial = false) const {
        const float x = fmaf(score, log2_scale, -shift);
        return polynomial ? exp2_polynomial(x) : exp2_approx(x);
    }

    // Of a warp's scores of 16 rows: element i of s[j] is row lane / 4 + i / 2 * 8, key 8 j + lane % 4 * 2 + i % 2. What the
    // dot products of a row are multiplied by besides is one number for the first eight rows and one for the others.
    template <int N>
    __device__ __forceinline__ void cap_all(float (&s)[N][4], float upper = 1, float lower = 1) const {
        if (cap > 0) {
#pragma unroll
            for (int j = 0; j < N; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[j][i] = capped(s[j][i], i < 2 ? upper : lower);
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
    // Scores to weights. Raises the maxima of the lane's two rows, adds to its share of their sums, and gives the factor on what
    // was summed up before. That is mostly 1: a maximum stays until it would make weights of more than 2^8, by the row's own
    // scores alone, so that no bit depends on other rows. POLYNOMIALS: every tenth weight is computed on the FMA pipes, where
    // those for exponentials are the bottleneck.
    template <bool POLYNOMIALS = false, int N>
    __device__ __forceinline__ void softmax(float (&s)[N][4], float (&highest)[2], float (&sum)[2], float (&rescale)[2]) const {
        softmax<POLYNOMIALS>(s, highest, sum, rescale, {log2_scale, log2_scale});
    }
    // The same where the scores of each row have a scale of their own.
    template <bool POLYNOMIALS = false, int N>
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
            const bool rises = (top - highest[r]) * row.log2_scale > 8;
            top = rises ? top : highest[r];
            const float down = row.shift(top);
            // 1 exactly where the maximum stays: the fused exponent would be the rounding error of its product, not 0.
            rescale[r] = rises ? row.weight(highest[r], down) : 1.0f;
            highest[r] = top;
            sum[r] *= rescale[r];
#pragma unroll
            for (int j = 0; j < N; j++) {
                s[j][2 * r] = row.weight(s[j][2 * r], down);
                s[j][2 * r + 1] = row.weight(s[j][2 * r + 1], down, POLYNOMIALS && j % 5 == 2);
                sum[r] += s[j][2 * r] + s[j][2 * r + 1];
            }
        }
    }
};
