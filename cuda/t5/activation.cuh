// The feed-forward's activations.
#pragma once

// GELU in its tanh form, or ReLU.
__device__ __forceinline__ float activated(float x, bool gelu) {
    // 0.5 (1 + tanh u) = 1 / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
    const float u = 0.7978845608f * fmaf(0.044715f * x * x, x, x);
    return gelu ? x / (1.0f + expf(-2.0f * u)) : fmaxf(x, 0.0f);
}
