// A pass of the decoder over the new tokens of all rows: one each in a decode step, whole prompts of unlike
// length in the prefill. Row r of the pass has the tokens first[r]..first[r + 1] and is row slots[r] of the
// cache and of the state: rows that have left the batch leave a hole there, and nothing is moved.
#include "attention/convert.cuh"
#include "attention/softmax.cuh"
#include "order.cuh"
#include "row.cuh"

// Two neighbours as f32.
__device__ __forceinline__ float2 pair_at(const float* p) { return *reinterpret_cast<const float2*>(p); }
__device__ __forceinline__ float2 pair_at(const __half* p) { return __half22float2(*reinterpret_cast<const __half2*>(p)); }
__device__ __forceinline__ float2 pair_at(const __nv_bfloat16* p) { return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p)); }

// Causal self-attention with relative bias, scale 1: the keys that the cache holds, then those of this pass up
// to the token itself, which are appended to the cache. A warp per token and head; a lane takes one key of 32
// for the scores, and pairs of columns for the values.
//
//   qkv [tokens, 3, heads, DIM]   cache [slots, capacity, 2, heads, DIM]   bias [heads, span], distance 0 at `zero`
template <typename T, int DIM>
__device__ __forceinline__ void attend_self(const T* qkv, T* cache, T* out, const int* slots, const T5Row* state,
                                            const int* token_row, const int* first, const float* bias, int heads,
                                            int capacity, int span, int zero) {
    constexpr int PAIRS = DIM / 64, CHUNK = 16 / sizeof(T);
    __shared__ __align__(16) float queries[4][DIM];
    const int token = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y * 4 + warp;
    if (head >= heads) return;
    const int row = token_row[token], slot = slots[row], before = state[slot].length, start = first[row];
    const int position = before + token - start;
    const int64_t inner = static_cast<int64_t>(heads) * DIM;
    T* cached = cache + static_cast<int64_t>(slot) * capacity * 2 * inner + head * DIM;
    const T* own = qkv + static_cast<int64_t>(token) * 3 * inner + head * DIM;
    float* q = queries[warp];
#pragma unroll
    for (int d = lane; d < DIM; d += 32) {
        q[d] = to_float(own[d]);
        cached[position * 2 * inner + d] = own[inner + d];
        cached[(position * 2 + 1) * inner + d] = own[2 * inner + d];
    }
    __syncwarp();
    // Other warps append the keys of this pass at the same time: they are read where they come from.
    const T* fresh = qkv + (static_cast<int64_t>(start) * 3 + 1) * inner + head * DIM;
    auto key_at = [&](int key) { return key < before ? cached + key * 2 * inner : fresh + (key - before) * 3 * inner; };

    float highest = -INFINITY, sum = 0;
    float2 total[PAIRS] = {};
    for (int begin = 0; begin <= position; begin += 32) {
        const int count = min(32, position + 1 - begin), key = begin + min(lane, count - 1);
        const T* k = key_at(key);
        float dot = 0;
#pragma unroll 4
        for (int d = 0; d < DIM; d += CHUNK) {
            const uint4 chunk = *reinterpret_cast<const uint4*>(k + d);
            const T* x = reinterpret_cast<const T*>(&chunk);
#pragma unroll
            for (int i = 0; i < CHUNK; i++) dot = fmaf(q[d + i], to_float(x[i]), dot);
        }
        const float score = lane < count ? dot + bias[static_cast<int64_t>(head) * span + zero + key - position] : -INFINITY;
        float top = fmaxf(highest, score);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
        const float rescale = exp2_approx((highest - top) * LOG2E), weight = exp2_approx((score - top) * LOG2E);
        highest = top;
        sum = sum * rescale + weight;
#pragma unroll
        for (int c = 0; c < PAIRS; c++) total[c].x *= rescale, total[c].y *= rescale;
#pragma unroll 4
        for (int j = 0; j < count; j++) {
            const float w = __shfl_sync(~0u, weight, j);
            const T* v = key_at(begin + j) + inner + 2 * lane;
#pragma unroll
            for (int c = 0; c < PAIRS; c++) {
                const float2 x = pair_at(v + 64 * c);
                total[c].x = fmaf(w, x.x, total[c].x), total[c].y = fmaf(w, x.y, total[c].y);
            }
        }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    // A token sees itself: the sum is never 0.
    T* to = out + token * inner + head * DIM + 2 * lane;
#pragma unroll
    for (int c = 0; c < PAIRS; c++) {
        to[64 * c] = from_float<T>(total[c].x / sum);
        to[64 * c + 1] = from_float<T>(total[c].y / sum);
    }
}

#define T5_ATTEND_SELF(T, TYPE, DIM)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128, 6) t5_attend_self_##TYPE##_##DIM(                                         \
        const T* qkv, T* cache, T* out, const int* slots, const T5Row* state, const int* token_row, const int* first,        \
        const float* bias, int heads, int capacity, int span, int zero) {                                                    \
        in_order();                                                                                                          \
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
extern "C" __global__ void __launch_bounds__(1024) t5_choose(float* logits, int vocab, const int* slots, const int* first, T5Row* state,
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
