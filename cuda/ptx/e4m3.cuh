// e4m3 values in registers (compute capability 8.9).
#pragma once
#include <stdint.h>

// Four e4m3 values to two pairs of f16, from the lowest byte on: exact, NaN stays NaN.
__device__ __forceinline__ void widen(uint32_t& low, uint32_t& high, uint32_t four) {
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.rn.f16x2.e4m3x2 %0, low;\ncvt.rn.f16x2.e4m3x2 %1, high;\n}"
        : "=r"(low), "=r"(high) : "r"(four));
}
