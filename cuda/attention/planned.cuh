// A kernel is what the host plans with: both are made of a row of src/plan/variants.rs.
#pragma once
#include "variants.h"

#define ONEKV_PLANNED(Shape, name, rows, tile_keys, threads, stages, shared_bytes)                   \
    static_assert(Shape::ROWS == rows, "src/plan/variants.rs: tile_rows of " #name);                 \
    static_assert(Shape::TILE_KEYS == tile_keys, "src/plan/variants.rs: tile_keys of " #name);       \
    static_assert(Shape::THREADS == threads, "src/plan/variants.rs: threads of " #name);             \
    static_assert(Shape::STAGES == stages, "src/plan/variants.rs: stages of " #name);                \
    static_assert(Shape::SHARED_BYTES == shared_bytes, "src/plan/variants.rs: shared_bytes of " #name)
