// A block's entry of the work list, and addresses: of folded query rows in global memory, of chunks of rows in shared memory.
#pragma once
#include <string.h>

#include "../abi.h"

// Entry `at` of the host's list, in two loads; the compiler would make eight, one for each number. Lists are written by copies
// in the order of the stream, which no launch overlaps: they may be read before the wait for the launches before.
template <typename Entry>
__device__ __forceinline__ Entry entry_of(const Entry* list, int at) {
    static_assert(sizeof(Entry) == 2 * sizeof(int4), "32 bytes, from a multiple of as many on");
    const int4* from = reinterpret_cast<const int4*>(list + at);
    const int4 both[2] = {from[0], from[1]};
    Entry entry;
    memcpy(&entry, both, sizeof(Entry));
    return entry;
}

// Offset, in elements, of a folded row: query row row_base + folded / group of head kv_head * group + folded % group.
template <typename Part>
__device__ __forceinline__ int64_t row_offset(const OnekvAttention& p, const Part& part, int folded, const OnekvStrides& strides) {
    const int64_t query = part.row_base + folded / p.group, head = part.kv_head * p.group + folded % p.group;
    return query * strides.row + head * strides.head;
}

// Shared address of a 16-byte chunk of a row. Chunks are permuted within their row so that the same chunk of eight rows covers
// all 32 banks. Rows of a multiple of 8 chunks all begin in the same bank: each has a permutation of its own. Of rows of 4 or
// 12 chunks every second one does, so that two neighbours share a permutation.
template <int CHUNKS>
__device__ __forceinline__ uint32_t chunk_at(uint32_t tile, int row, int chunk) {
    constexpr int PLACES = CHUNKS % 8 == 0 ? 8 : 4;
    static_assert(CHUNKS % PLACES == 0, "chunks change places within a row");
    return tile + (row * CHUNKS + (chunk ^ (row / (8 / PLACES) & (PLACES - 1)))) * 16;
}

// The same in tiles that the copy engine writes: panels of eight chunks (128 bytes) a row, swizzled by 128 bytes.
template <int TILE_ROWS>
__device__ __forceinline__ uint32_t panel_chunk(uint32_t tile, int row, int chunk) {
    return tile + (chunk / 8 * TILE_ROWS + row) * 128 + ((chunk & 7) ^ (row & 7)) * 16;
}
