// What lies between the matrix products of a T5. The residual stream is f32, everything else of type T.
#include "attention/convert.cuh"
#include "activation.cuh"
#include "order.cuh"
#include "sum.cuh"

// out[t] = table[ids[t]], or table[ids[index[t]]]. A block per token. Where a norm of it is begun, that gets out * weight,
// and the sum of squares.
template <typename T>
__device__ __forceinline__ void embed(const T* table, const int* ids, int stride, const int* index, float* out, int width,
                                      const float* next_weight, T* next, float* next_squares) {
    const int64_t token = blockIdx.x, from = index ? static_cast<int64_t>(index[token]) * stride : token;
    const T* row = table + static_cast<int64_t>(ids[from]) * width;
    float squares = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float x = to_float(row[i]);
        out[token * width + i] = x;
        if (next) {
            next[token * width + i] = from_float<T>(x * next_weight[i]);
            squares = fmaf(x, x, squares);
        }
    }
    if (!next) return;
    squares = sum_of_block(squares);
    if (threadIdx.x == 0) next_squares[token] = squares;
}

// Eight neighbours: one or two accesses of 16 bytes. Widths are multiples of 8.
template <typename T>
struct alignas(16) Eight {
    T x[8];
};

// out = x / sqrt(mean(x^2) + epsilon) * weight. A block per token. The first 2048 elements stay in registers, and their
// weights are there before the launches before have ended.
template <typename T>
__device__ __forceinline__ void rms_norm(const float* x, const float* weight, T* out, int width, float epsilon) {
    const Eight<float>* from = reinterpret_cast<const Eight<float>*>(x + static_cast<int64_t>(blockIdx.x) * width);
    const Eight<float>* weights = reinterpret_cast<const Eight<float>*>(weight);
    Eight<T>* to = reinterpret_cast<Eight<T>*>(out + static_cast<int64_t>(blockIdx.x) * width);
    const int first = threadIdx.x, count = width / 8;
    const Eight<float> first_weights = first < count ? weights[first] : Eight<float>{};
    in_order();
    const Eight<float> first_x = first < count ? from[first] : Eight<float>{};
    float squares = 0;
    auto add = [&](const Eight<float> v) {
#pragma unroll
        for (int e = 0; e < 8; e++) squares = fmaf(v.x[e], v.x[e], squares);
    };
    add(first_x);
    for (int i = first + 256; i < count; i += 256) add(from[i]);
    const float factor = rsqrtf(sum_of_block(squares) / width + epsilon);
    auto write = [&](int i, const Eight<float> v, const Eight<float> w) {
        Eight<T> y;
#pragma unroll
        for (int e = 0; e < 8; e++) y.x[e] = from_float<T>(v.x[e] * factor * w.x[e]);
        to[i] = y;
    };
    if (first < count) write(first, first_x, first_weights);
    for (int i = first + 256; i < count; i += 256) write(i, from[i], weights[i]);
}

// out[t][i] = act(h[t][i]), or act(h[t][i]) * h[t][width + i] where `gated`. Eight elements a thread.
template <typename T>
__device__ __forceinline__ void activate(const T* h, T* out, int width, int64_t count, int activation, int gated) {
    const int64_t at = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) * 8;
    if (at >= count) return;
    const T* from = h + (gated ? at / width * 2 * width + at % width : at);
    const Eight<T> left = *reinterpret_cast<const Eight<T>*>(from), right = *reinterpret_cast<const Eight<T>*>(from + (gated ? width : 0));
    Eight<T> result;
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const float y = activated(to_float(left.x[e]), activation);
        result.x[e] = from_float<T>(gated ? y * to_float(right.x[e]) : y);
    }
    *reinterpret_cast<Eight<T>*>(out + at) = result;
}

#define T5_ELEMENTWISE(T, TYPE)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 6) t5_embed_##TYPE(const T* table, const int* ids, int stride,            \
                                                                      const int* index, float* out, int width,               \
                                                                      const float* next_weight, T* next, float* next_squares) { \
        in_order();                                                                                                          \
        embed(table, ids, stride, index, out, width, next_weight, next, next_squares);                                       \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256, 5) t5_rms_norm_##TYPE(const float* x, const float* weight, T* out,     \
                                                                         int width, float epsilon) {                         \
        rms_norm(x, weight, out, width, epsilon);                                                                            \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256, 6) t5_activate_##TYPE(const T* h, T* out, int width, int64_t count,    \
                                                                         int activation, int gated) {                        \
        in_order();                                                                                                          \
        activate(h, out, width, count, activation, gated);                                                                   \
    }
T5_ELEMENTWISE(__nv_bfloat16, bf16)
T5_ELEMENTWISE(__half, f16)
T5_ELEMENTWISE(float, f32)

// out[r] = x[first[r + 1] - 1]: the last token of every row. A block per row.
extern "C" __global__ void __launch_bounds__(256, 6) t5_last_tokens(const float* x, const int* first, float* out, int width) {
    in_order();
    const int64_t row = blockIdx.x, token = first[row + 1] - 1;
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[row * width + i] = x[token * width + i];
}
