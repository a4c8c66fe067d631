// A row that is being decoded; RowState in examples/t5/backend/cuda/rows.rs is the same.
#pragma once

struct T5Row {
    int next;      // id of the token that comes next
    int length;    // tokens in the cache
    int finished;  // 1 behind its EOS
    int produced;  // new tokens so far
};
static_assert(sizeof(T5Row) == 16, "the host reads an array of these");
