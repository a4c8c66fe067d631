// The feed-forward's activations; the numbers are those of `Activation` in src/config.rs.
#pragma once

enum Activation { NONE = -1, RELU = 0, GELU = 1, GELU_TANH = 2, SILU = 3 };

// NaN stays NaN: a number in its place would hide an overflow.
__device__ __forceinline__ float activated(float x, int activation) {
    if (activation == RELU) return x < 0.0f ? 0.0f : x;
    if (activation == GELU) return 0.5f * x * (1.0f + erff(0.7071067812f * x));
    // GELU's tanh form: 0.5 (1 + tanh u) = 1 / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
    const float two_u = 1.5957691216f * fmaf(0.044715f * x * x, x, x);
    return x / (1.0f + expf(activation == SILU ? -x : -two_u));
}
