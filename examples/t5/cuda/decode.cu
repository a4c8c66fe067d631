// A pass of the decoder over the new tokens of all rows: one each in a decode step, whole prompts of unlike
// length in the prefill. Row r of the pass has the tokens first[r]..first[r + 1] and is row slots[r] of the
// cache and of the state: rows that have left the batch leave a hole there, and nothing is moved.
#include "attention/convert.cuh"
#include "attention/softmax.cuh"
#include "ptx/copy.cuh"
#include "order.cuh"
#include "row.cuh"

// Two neighbours as they lie in memory, and as f32.
template <typename T>
struct alignas(2 * sizeof(T)) Two {
    uint32_t words[sizeof(T) / 2];
};
__device__ __forceinline__ float2 floats(Two<float> x) { return make_float2(__uint_as_float(x.words[0]), __uint_as_float(x.words[1])); }
__device__ __forceinline__ float2 floats(Two<__half> x) { return __half22float2(reinterpret_cast<const __half2&>(x)); }
__device__ __forceinline__ float2 floats(Two<__nv_bfloat16> x) { return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(x)); }

// Causal self-attention with relative bias, scale 1: the keys that the cache holds, then those of this pass up
// to the token itself, which are appended to the cache. A warp per token and head; a lane takes one key of 32
// for the scores, and pairs of columns for the values. A step has few warps, and all they do is wait for memory: what
// does not depend on each other is asked for together, eight rows of V or eight chunks of K at a time.
//
//   qkv [tokens, 3, heads, DIM]   cache [slots, capacity, 2, heads, DIM]   bias [heads, span], distance 0 at `zero`
template <typename T, int DIM>
__device__ __forceinline__ void attend_self(const T* qkv, T* cache, T* out, const int* slots, const T5Row* state,
                                            const int* token_row, const int* first, const float* bias, int heads,
                                            int capacity, int span, int zero) {
    constexpr int PAIRS = DIM / 64, CHUNK = 16 / sizeof(T), BATCH = 8;
    __shared__ __align__(16) float queries[4][DIM];
    const int token = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y * 4 + warp;
    // The host wrote these: no kernel that is still running does.
    next_may_start();
    const int row = token_row[token], slot = slots[row], start = first[row];
    in_order();
    if (head >= heads) return;
    const int inner = heads * DIM, cached_step = 2 * inner, step = 3 * inner;
    const T* own = qkv + static_cast<int64_t>(token) * step + head * DIM + 2 * lane;
    Two<T> mine[3][PAIRS];
#pragma unroll
    for (int i = 0; i < 3; i++)
#pragma unroll
        for (int c = 0; c < PAIRS; c++) mine[i][c] = *reinterpret_cast<const Two<T>*>(own + i * inner + 64 * c);
    const int before = state[slot].length, position = before + token - start;
    T* cached = cache + static_cast<int64_t>(slot) * capacity * cached_step + head * DIM;
    const uint32_t q = shared_address(queries[warp]);
#pragma unroll
    for (int c = 0; c < PAIRS; c++) {
        const float2 x = floats(mine[0][c]);
        store_pair(q + (2 * lane + 64 * c) * 4, x.x, x.y);
        T* to = cached + static_cast<int64_t>(position) * cached_step + 2 * lane + 64 * c;
        *reinterpret_cast<Two<T>*>(to) = mine[1][c];
        *reinterpret_cast<Two<T>*>(to + inner) = mine[2][c];
    }
    __syncwarp();
    // Other warps append the keys of this pass at the same time: they are read where they come from. Selected, not
    // branched to: ptxas would not move a load across the branch of the one before.
    const T* fresh = qkv + static_cast<int64_t>(start) * step + inner + head * DIM;
    auto key_at = [&](int key) {
        const bool old = key < before;
        return (old ? cached : fresh) + static_cast<int64_t>(old ? key : key - before) * (old ? cached_step : step);
    };

    float highest = -INFINITY, sum = 0;
    float2 total[PAIRS] = {};
    for (int begin = 0; begin <= position; begin += 32) {
        const int count = min(32, position + 1 - begin), key = begin + min(lane, count - 1);
        const T* k = key_at(key);
        const float shift = load_here(bias + static_cast<int64_t>(head) * span + zero + key - position);
        float dot = 0;
#pragma unroll 1
        for (int d = 0; d < DIM; d += BATCH * CHUNK) {
            uint4 chunks[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; i++) chunks[i] = *reinterpret_cast<const uint4*>(k + d + i * CHUNK);
#pragma unroll
            for (int i = 0; i < BATCH * CHUNK; i += 4) {
                const T* x = reinterpret_cast<const T*>(chunks) + i;
                const uint4 y = load_16(q + (d + i) * 4);
                dot = fmaf(__uint_as_float(y.x), to_float(x[0]), dot), dot = fmaf(__uint_as_float(y.y), to_float(x[1]), dot);
                dot = fmaf(__uint_as_float(y.z), to_float(x[2]), dot), dot = fmaf(__uint_as_float(y.w), to_float(x[3]), dot);
            }
        }
        const float score = lane < count ? dot + shift : -INFINITY;
        float top = fmaxf(highest, score);
#pragma unroll
        for (int lanes = 16; lanes > 0; lanes /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, lanes));
        const float rescale = exp2_approx((highest - top) * LOG2E), weight = exp2_approx((score - top) * LOG2E);
        highest = top;
        sum = sum * rescale + weight;
#pragma unroll
        for (int c = 0; c < PAIRS; c++) total[c].x *= rescale, total[c].y *= rescale;
#pragma unroll 1
        for (int j = 0; j < count; j += BATCH) {
            Two<T> v[BATCH][PAIRS];
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const T* from = key_at(begin + min(j + i, count - 1)) + inner + 2 * lane;
#pragma unroll
                for (int c = 0; c < PAIRS; c++) v[i][c] = *reinterpret_cast<const Two<T>*>(from + 64 * c);
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const float w = __shfl_sync(~0u, weight, j + i);
#pragma unroll
                for (int c = 0; c < PAIRS; c++) {
                    // Behind the last key 0, whose weight is 0: the last row again may be infinite.
                    const float2 x = floats(j + i < count ? v[i][c] : Two<T>{});
                    total[c].x = fmaf(w, x.x, total[c].x), total[c].y = fmaf(w, x.y, total[c].y);
                }
            }
        }
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    // A token sees itself: the sum is never 0.
    T* to = out + static_cast<int64_t>(token) * inner + head * DIM + 2 * lane;
#pragma unroll
    for (int c = 0; c < PAIRS; c++) store_two(to + 64 * c, total[c].x / sum, total[c].y / sum);
}

#define T5_ATTEND_SELF(T, TYPE, DIM)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128, 6) t5_attend_self_##TYPE##_##DIM(                                         \
        const T* qkv, T* cache, T* out, const int* slots, const T5Row* state, const int* token_row, const int* first,        \
        const float* bias, int heads, int capacity, int span, int zero) {                                                    \
        attend_self<T, DIM>(qkv, cache, out, slots, state, token_row, first, bias, heads, capacity, span, zero);             \
    }
#define T5_ATTEND_SELVES(T, TYPE) T5_ATTEND_SELF(T, TYPE, 64) T5_ATTEND_SELF(T, TYPE, 128)
T5_ATTEND_SELVES(__nv_bfloat16, bf16)
T5_ATTEND_SELVES(__half, f16)
T5_ATTEND_SELVES(float, f32)

// Whether (x, i) comes before (y, j): larger, or the first of equals.
__device__ __forceinline__ bool comes_before(float x, int i, float y, int j) { return x > y || (x == y && i < j); }

// Whether a row's first new id is forced: that of a row that began with one token, its tokens so far without the new ones.
__device__ __forceinline__ bool forces_first(const T5Rules& rules, const T5Row& row, int tokens) {
    return rules.forced_first >= 0 && row.length + tokens - row.produced == 1;
}

// The next token of every row, greedily: the largest logit, the first of equals, of those that the rules allow, or the
// one that they force. A row behind its end keeps still; one without a finite logit is marked. A block per row.
//
//   logits [rows, vocab], overwritten where ids are suppressed   outputs [slots, max_new]
extern "C" __global__ void __launch_bounds__(1024, 1) t5_choose(float* logits, int vocab, const int* slots, const int* first, T5Row* state,
                                                             int* outputs, const int* listed, const T5Rules rules) {
    in_order();
    const int row = blockIdx.x, thread = threadIdx.x;
    logits += static_cast<int64_t>(row) * vocab;
    bool numbers = false;
    if (rules.suppressed + rules.suppressed_first > 0) {
        const T5Row& mine = state[slots[row]];
        const int first_free = forces_first(rules, mine, first[row + 1] - first[row]) ? 1 : 0;
        const int count = rules.suppressed + (mine.produced == first_free ? rules.suppressed_first : 0);
#pragma unroll 1
        for (int i = thread; i < count; i += 1024) {
            float& logit = logits[listed[rules.more_ends + i]];
            // Where an id is listed twice, the first to come has seen its logit.
            numbers |= isfinite(logit);
            logit = -INFINITY;
        }
        __syncthreads();
    }
    float best = -INFINITY;
    // An id that loses against every other.
    int at = vocab;
#pragma unroll 4
    for (int i = thread; i < vocab; i += 1024)
        if (comes_before(logits[i], i, best, at)) best = logits[i], at = i;
    numbers |= isfinite(best);
    __shared__ float values[32];
    __shared__ int ids[32];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(~0u, best, step);
        const int other_at = __shfl_xor_sync(~0u, at, step);
        if (comes_before(other, other_at, best, at)) best = other, at = other_at;
    }
    if (thread % 32 == 0) values[thread / 32] = best, ids[thread / 32] = at;
    numbers = __syncthreads_or(numbers);
    if (!numbers) {
        // Infinity is larger than numbers: they are looked for where nothing else was found.
#pragma unroll 1
        for (int i = thread; i < vocab; i += 1024) numbers |= isfinite(logits[i]);
        numbers = __syncthreads_or(numbers);
    }
    if (thread > 0) return;
    for (int warp = 1; warp < 32; warp++)
        if (comes_before(values[warp], ids[warp], best, at)) best = values[warp], at = ids[warp];
    // Read only now: a scan that nothing is suppressed in waits for logits alone.
    T5Row& mine = state[slots[row]];
    if (mine.finished || mine.produced >= rules.max_new) return;
    if (!numbers) {
        mine.finished = OVERFLOWED;
        return;
    }
    // Not NaN: a finite logit comes before, or if that was suppressed, the -inf in its place.
    int id = at;
    const int tokens = first[row + 1] - first[row];
    if (mine.produced == 0 && forces_first(rules, mine, tokens)) id = rules.forced_first;
    if (mine.produced == rules.max_new - 1 && rules.forced_last >= 0) id = rules.forced_last;
    bool ends = id == rules.end;
#pragma unroll 1
    for (int i = 0; i < rules.more_ends; i++) ends |= id == listed[i];
    outputs[static_cast<int64_t>(slots[row]) * rules.max_new + mine.produced] = id;
    mine.next = id;
    mine.length += tokens;
    mine.produced++;
    mine.finished = ends ? ENDED : 0;
}
