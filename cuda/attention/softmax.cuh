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

// Scores from dot products: either untouched, with the scale left to the exponential, or capped.
struct Score {
    float inner;  // before tanh
    float cap;    // 0: none
    float log2_scale;

    __device__ explicit Score(const OnekvAttention& p)
        : inner(p.score_scale), cap(p.softcap), log2_scale(p.softcap > 0 ? LOG2E : p.score_scale * LOG2E) {}

    __device__ __forceinline__ float capped(float dot) const { return cap > 0 ? cap * tanhf(dot * inner) : dot; }

    // What is subtracted in the exponent for a maximum; 0 where nothing has weight yet, so that no
    // infinities are subtracted from each other.
    __device__ __forceinline__ float shift(float highest) const {
        return highest == -INFINITY ? 0.0f : highest * log2_scale;
    }
    __device__ __forceinline__ float weight(float score, float shift) const {
        return exp2_approx(fmaf(score, log2_scale, -shift));
    }
};
