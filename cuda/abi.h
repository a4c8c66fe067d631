// Structures that the host hands to kernels. Rust's side, src/cuda/abi.rs, is generated from this file.
#ifndef ONEKV_ABI_H
#define ONEKV_ABI_H
#include <stdint.h>

// Strides are in elements: from a row (of K and V: a key) to the next, from a head to the next.
typedef struct OnekvStrides {
    int64_t row;
    int64_t head;
} OnekvStrides;

// One block's share: a tile of folded query rows of one input and K/V head, and a range of its keys.
// Folded row i of an input is query row row_base + i / group of query head kv_head * group + i % group.
typedef struct OnekvWork {
    int32_t row_base;   // first query row of the input
    int32_t rows;       // folded rows of the input: query rows x group; 0: nothing to do, as behind the end of a list
    int32_t tile_start; // first folded row of the tile
    int32_t kv_head;
    int32_t key_begin;  // positions in the input's slot of K and V
    int32_t key_end;
    int32_t state;      // partial state to write, or -1: the result itself
    int32_t kv_slot;    // the input's slot of K and V
} OnekvWork;

// One combination: the partial states of a tile of folded rows, which stand one after the other.
typedef struct OnekvCombine {
    int32_t row_base;
    int32_t rows;       // as in OnekvWork, 0 too
    int32_t tile_start;
    int32_t kv_head;
    int32_t first_state;
    int32_t states;
    int32_t reserved[2];
} OnekvCombine;

typedef struct OnekvAttention {
    const void* q;      // [rows, heads, head_dim]
    const void* k;      // [slots, key positions, kv_heads, head_dim]
    const void* v;
    void* out;          // [rows, heads, head_dim]
    float* lse;         // [rows, heads], natural log; null: not wanted
    float* partial_out; // [states, tile rows, head_dim], normalised
    float* partial_lse; // [states, tile rows], natural log
    const OnekvWork* work;
    const OnekvCombine* combines;
    OnekvStrides q_strides;
    OnekvStrides k_strides;
    OnekvStrides v_strides;
    OnekvStrides out_strides;
    OnekvStrides lse_strides;
    int64_t k_slot_stride; // from an input's slot of K to the next, in elements
    int64_t v_slot_stride;
    int32_t group;      // query heads per K/V head
    int32_t tile_rows;
    float score_scale;  // scores are q.k times this, before the softcap: scale / softcap, or scale
    float softcap;      // 0: none
    const float* k_scale; // [kv_heads], of e4m3 K/V: k and v are these times the codes' values; else null
    const float* v_scale;
    int32_t kv_settled; // K and V were written before anything that may still run: they can be read before the wait
    int32_t work_count; // entries of `work`, empty ones too
} OnekvAttention;

// States that one launch merges.
#define ONEKV_MAX_STATES 8

// Attention over a part of the keys.
typedef struct OnekvState {
    const void* out;    // [rows, heads, head_dim], normalised
    const float* lse;   // [rows, heads], natural log
    OnekvStrides out_strides;
    OnekvStrides lse_strides;
} OnekvState;

typedef struct OnekvMergeStates {
    OnekvState states[ONEKV_MAX_STATES];
    void* out;          // [rows, heads, head_dim]
    float* lse;         // [rows, heads], natural log; null: not wanted
    OnekvStrides out_strides;
    OnekvStrides lse_strides;
    int64_t rows;
    int32_t heads;
    int32_t head_dim;
    int32_t count;      // states in use
    int32_t reserved;
} OnekvMergeStates;

#endif
