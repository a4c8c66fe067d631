// Few rows from 9.0 on with K and V in e4m3: the stream of stream.cuh with half of its bytes. Products are f16, which holds
// every e4m3 value exactly.
//
// Every byte is converted once: where two warps share a tile, each has half of head_dim for all 32 rows. Each then has partial
// sums of S, over its half. It gets those of its own 16 rows from the other, computes their softmax, and hands over the weights.
//
// Clocks: at 20 bytes a clock and multiprocessor, an H200's share of its memory, the tiles of four warps come in 0.4 DIM
// TILE_KEYS clocks (two warps' tiles in half), in which a scheduler issues as many instructions. For four bytes of each
// lane a warp issues two conversions of K; a permutation and two conversions of V; two products per row tile. With the
// softmax and all else in the loop, counted in what ptxas 13.0 made for bf16 Q, that is of the clocks, in percent:
// 31, 27, 21 for 16 rows of DIM 64, 128, 256, and 47, 39, 35 for 32 rows, in tiles that rescale nothing. K widened to
// bf16 instead, which needs no factors on Q, takes six instructions more for four bytes of K.
#pragma once
#include <type_traits>

#include "../ptx/e4m3.cuh"
#include "stream.cuh"

template <typename Shape_>
struct StreamProductsE4m3 : StreamProducts<Shape_> {
    using Shape = Shape_;
    using T = typename Shape::Element;
    static constexpr int DIM = Shape::DIM, KEYS = Shape::TILE_KEYS, ROW_TILES = Shape::ROW_TILES;
    static constexpr int OUT_TILES = Shape::OUT_TILES, OUT_DIM = Shape::OUT_DIM, CHUNKS = DIM / 8, UNITS = DIM / 16;
    static constexpr int ROW_BYTES = DIM == 64 ? 64 : 128;  // of a row within a panel
    static constexpr bool TEAM = OUT_DIM < DIM;             // two warps share a tile, by columns
    static constexpr int STEP = TEAM ? 32 : KEYS;           // keys whose scores are summed at a time
    // Q in bf16 is brought to f16 row by row: to_f16().
    static constexpr bool SCALES_ROWS = std::is_same<T, __nv_bfloat16>::value;

    __device__ __forceinline__ static float k_scale(const OnekvAttention& p, const OnekvWork& work) { return p.k_scale[work.kv_head]; }
    __device__ __forceinline__ static float v_scale(const OnekvAttention& p, const OnekvWork& work) { return p.v_scale[work.kv_head]; }

    // Shared address of a 16-byte chunk, as the copy engine writes it: rows of 64 bytes are swizzled by 64 bytes.
    __device__ __forceinline__ static uint32_t chunk(uint32_t tile, int row, int chunk) {
        return DIM == 64 ? tile + row * 64 + (chunk ^ (row >> 1 & 3)) * 16 : panel_chunk<KEYS>(tile, row, chunk);
    }
    __device__ __forceinline__ static uint32_t factor_at(uint32_t base, int row) { return base + Shape::FACTORS_AT + row * 4; }
    // A row of Q in bf16, whose range exceeds f16's, to f16: it is multiplied by the power of two that brings its largest magnitude
    // to 2^14, and this returns the inverse, for its scores. Elements of at least 2^-31 of the largest stay exact, and none is off
    // by more than 2^-39 of it, which is less than f32 sums round away. Infinities and NaN stay what they are. The lanes of a row
    // call it together, each with sixteen elements.
    __device__ __forceinline__ static float to_f16(uint32_t (&q)[8]) {
        int largest = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) largest = max(largest, max(q[i] & 0x7fff, q[i] >> 16 & 0x7fff));
#pragma unroll
        for (int step = UNITS / 2; step > 0; step /= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, step));
        // The biased exponent of the factor as f32. At most 253, so that the inverse is a normal number as well.
        const int power = min(127 + 14 + 127 - (largest >> 7), 253);
        const float factor = __int_as_float(power << 23);
#pragma unroll
        for (int i = 0; i < 8; i++) q[i] = pack<__half>(__uint_as_float(q[i] << 16) * factor, __uint_as_float(q[i] & 0xffff0000) * factor);
        return __int_as_float((254 - power) << 23);
    }
    // A lane reads four neighbouring elements of a K row, d to d + 3, and serves two places of the product with two of
    // them each. So Q stands in this order too: of every sixteen columns 0 1, 4 5, 8 9, 12 13, then 2 3, 6 7, 10 11, 14 15.
    __device__ __forceinline__ static void fetch_q(const OnekvAttention& p, const OnekvWork& work, uint32_t base, int thread) {
        const T* q = static_cast<const T*>(p.q);
        static_assert(Shape::ROWS * UNITS % 32 == 0, "whole warps find the largest of their rows");
#pragma unroll 2
        for (int i = thread; i < Shape::ROWS * UNITS; i += Shape::THREADS) {
            const int row = i / UNITS, unit = i % UNITS, folded = work.tile_start + row;
            uint4 x = make_uint4(0, 0, 0, 0), y = x;
            if (folded < work.rows) {
                const uint4* from = reinterpret_cast<const uint4*>(q + row_offset(p, work, folded, p.q_strides)) + 2 * unit;
                x = from[0], y = from[1];
            }
            uint32_t pairs[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
            if (SCALES_ROWS) {
                const float inverse = to_f16(pairs);
                if (unit == 0) store_float(factor_at(base, row), inverse);
            }
            // Every other four lanes store the upper chunk first: eight lanes then cover all banks.
            const int flip = unit >> 2 & 1;
            const uint4 low = make_uint4(pairs[0], pairs[2], pairs[4], pairs[6]), high = make_uint4(pairs[1], pairs[3], pairs[5], pairs[7]);
            store_16(chunk_at<CHUNKS>(base + Shape::Q_AT, row, 2 * unit + flip), flip ? high : low);
            store_16(chunk_at<CHUNKS>(base + Shape::Q_AT, row, 2 * unit + (flip ^ 1)), flip ? low : high);
        }
    }
    // The inverse of to_f16()'s factor, for the scores of a lane's row.
    __device__ __forceinline__ float row_factor(int t, int r) const {
        return SCALES_ROWS ? load_float(factor_at(this->base, this->first_row() + 16 * t + this->lane / 4 + 8 * r)) : 1;
    }
    // Where a lane of the team's warp `row_warp` leaves sixteen bytes for the same lane of the other; the next sixteen stand 1024
    // bytes further on.
    __device__ __forceinline__ uint32_t exchange_at(int row_warp) const {
        return this->base + Shape::EXCHANGE_AT + this->key_warp * 2 * Shape::EXCHANGE_BYTES + row_warp * 512 + this->lane * 16;
    }
    __device__ __forceinline__ void scores(float (&s)[ROW_TILES][KEYS / 8][4], uint32_t k_tile) const {
        const uint32_t first = chunk(k_tile, this->lane, this->first_column() / 16);
        const uint32_t from = exchange_at(this->row_warp), to = from ^ 512;
        // In a team a warp has sums for twice the rows: to save registers, of STEP keys at a time.
#pragma unroll
        for (int step = 0; step < KEYS; step += STEP) {
            float sums[OUT_TILES][STEP / 8][4] = {};
#pragma unroll
            for (int d = 0; d < OUT_DIM; d += 16) {
                uint32_t a[OUT_TILES][4];
                this->q_of(a, d);
#pragma unroll
                for (int key = 0; key < STEP; key += 32) {
                    // Each register holds, over the warp, sixteen columns of eight keys.
                    uint32_t k[4];
                    load_matrix(k, advance_chunks(first, d / 16, KEYS * 128) + (step + key) * ROW_BYTES);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        uint32_t b0, b1;
                        widen(b0, b1, k[i]);
#pragma unroll
                        for (int t = 0; t < OUT_TILES; t++) multiply<__half>(sums[t][key / 8 + i], a[t], b0, b1);
                    }
                }
            }
#pragma unroll
            for (int j = 0; j < STEP / 8; j++) {
                const float (&other)[4] = sums[OUT_TILES - 1][j];
                if (TEAM) store_four(to + (step / 8 + j) * 1024, other[0], other[1], other[2], other[3]);
#pragma unroll
                for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
                    for (int i = 0; i < 4; i++) s[t][step / 8 + j][i] = sums[t][j][i];
            }
        }
        if (!TEAM) return;
        this->team_sync();
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            float other[4];
            load_four(other, from + j * 1024);
#pragma unroll
            for (int i = 0; i < 4; i++) s[0][j][i] += other[i];
        }
    }
    // A transposed load leaves two neighbouring columns of two keys in a register; the product wants two keys of one
    // column. So bytes 1 and 2 change places, and even and odd columns are multiplied apart: out[t][d / 8] has the even
    // ones of d to d + 15, out[t][d / 8 + 1] the odd ones.
    __device__ __forceinline__ void values(
        float (&out)[OUT_TILES][OUT_DIM / 8][4], const float (&weights)[ROW_TILES][KEYS / 8][4], const float (&sum)[ROW_TILES][2],
        const float (&rescale)[ROW_TILES][2], uint32_t v_tile) const {
        uint32_t a[KEYS / 16][ROW_TILES][4];
        float rescales[OUT_TILES][2];
#pragma unroll
        for (int t = 0; t < ROW_TILES; t++) {
            rescales[t][0] = rescale[t][0], rescales[t][1] = rescale[t][1];
#pragma unroll
            for (int i = 0; i < KEYS / 16; i++) pack_weights<__half>(a[i][t], weights[t][2 * i], weights[t][2 * i + 1]);
        }
        const uint32_t to = exchange_at(this->row_warp), from = to ^ 512;
        if (TEAM) {
#pragma unroll
            for (int i = 0; i < KEYS / 16; i++) store_16(to + i * 1024, make_uint4(a[i][0][0], a[i][0][1], a[i][0][2], a[i][0][3]));
            // Nobody reads the stored sums. But without a use here ptxas would put their additions off, and keep the unpacked weights
            // in registers for that, beside all that the next products need.
            store_four(to + KEYS / 16 * 1024, rescale[0][0], rescale[0][1], sum[0][0], sum[0][1]);
            this->team_sync();
            float other[4];
            load_four(other, from + KEYS / 16 * 1024);
            rescales[OUT_TILES - 1][0] = other[0], rescales[OUT_TILES - 1][1] = other[1];
        }
#pragma unroll
        for (int t = 0; t < OUT_TILES; t++)
            if (!all_one(rescales[t])) scale_rows(out[t], rescales[t]);
        const uint32_t first = chunk(v_tile, this->lane % 16, this->first_column() / 16 + this->lane / 16);
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            uint32_t all[OUT_TILES][4];
            if (TEAM) {
                const uint4 x = load_16(from + i * 1024);
                all[OUT_TILES - 1][0] = x.x, all[OUT_TILES - 1][1] = x.y, all[OUT_TILES - 1][2] = x.z, all[OUT_TILES - 1][3] = x.w;
            }
#pragma unroll
            for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
                for (int j = 0; j < 4; j++) all[t][j] = a[i][t][j];
#pragma unroll
            for (int d = 0; d < OUT_DIM; d += 32) {
                // Columns d to d + 15 of eight keys and of eight more, then the same of columns d + 16 to d + 31.
                uint32_t v[4];
                load_matrix_transposed(v, advance_chunks(first, d / 16, KEYS * 128) + 16 * i * ROW_BYTES);
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    uint32_t even[2], odd[2];
#pragma unroll
                    for (int j = 0; j < 2; j++) widen(even[j], odd[j], __byte_perm(v[2 * half + j], 0, 0x3120));
#pragma unroll
                    for (int t = 0; t < OUT_TILES; t++) {
                        multiply<__half>(out[t][d / 8 + 2 * half], all[t], even[0], even[1]);
                        multiply<__half>(out[t][d / 8 + 2 * half + 1], all[t], odd[0], odd[1]);
                    }
                }
            }
        }
    }
};
