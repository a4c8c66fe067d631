// Rows that are being decoded; RowState and RowRules in src/backend/cuda/rows.rs are the same.
#pragma once

struct T5Row {
    int next;      // id of the token that comes next
    int length;    // tokens in the cache
    int finished;  // 0, or why it takes no more
    int produced;  // new tokens so far
};
static_assert(sizeof(T5Row) == 16, "the host reads an array of these");

enum Finished {
    ENDED = 1,
    OVERFLOWED = 2,  // its logits were all NaN or infinite
};

// What rows may take and must take, and where they end. Most models have one end and nothing else: it is here. The rest
// is in a list of ids: further ends, then those that are never taken, then those that are not taken first.
struct T5Rules {
    int end;  // -1: none
    int more_ends, suppressed, suppressed_first;
    int forced_first, forced_last;  // -1: none
    int max_new;
};
static_assert(sizeof(T5Rules) == 28, "the host passes one");
