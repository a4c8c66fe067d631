// The kernels there are, by source. Generated from src/plan/variants.rs by xtask's `bindings`; do not edit.
//
// KIND(element, name, head_dim, tile_rows, cluster, tile_keys, key_warps, threads, stages, shared_bytes, blocks)
#pragma once

#define ONEKV_ATTENTION_BF16 \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_64_16, 64, 16, 1, 64, 4, 128, 3, 51200, 4) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_64_32, 64, 32, 1, 64, 2, 128, 3, 53248, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_64_64, 64, 64, 1, 64, 1, 128, 3, 57344, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_64_128, 64, 128, 1, 32, 1, 256, 4, 49152, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_128_16, 128, 16, 1, 64, 4, 128, 2, 69632, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_128_32, 128, 32, 1, 64, 2, 128, 2, 73728, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_128_64, 128, 64, 1, 64, 1, 128, 2, 81920, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_128_128, 128, 128, 1, 32, 1, 256, 2, 70656, 1) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_256_16, 256, 16, 1, 32, 2, 64, 2, 73728, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_256_32, 256, 32, 1, 32, 2, 128, 2, 81920, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_256_64, 256, 64, 1, 16, 1, 128, 4, 98304, 2)

#define ONEKV_SM90_ATTENTION_BF16 \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_64_16, 64, 16, 1, 32, 4, 128, 8, 67776, 3) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_64_32, 64, 32, 1, 32, 4, 128, 12, 102624, 2) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_64_64, 64, 64, 1, 128, 1, 256, 3, 106592, 2) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_64_128, 64, 128, 1, 128, 1, 384, 4, 147584, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_64_128x2, 64, 128, 2, 128, 1, 384, 4, 147584, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_64_192, 64, 192, 1, 128, 1, 512, 4, 155776, 1) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_128_16, 128, 16, 1, 16, 4, 128, 12, 102624, 2) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_128_32, 128, 32, 1, 16, 4, 128, 12, 106720, 2) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_128_64, 128, 64, 1, 64, 1, 256, 3, 114784, 2) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_128_128, 128, 128, 1, 128, 1, 384, 2, 163904, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_128_128x2, 128, 128, 2, 128, 1, 384, 2, 163904, 1) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_256_16, 256, 16, 1, 16, 4, 128, 12, 205024, 1) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_256_32, 256, 32, 1, 16, 2, 128, 12, 213216, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_256_64, 256, 64, 1, 64, 1, 256, 2, 163904, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_256_128, 256, 128, 1, 64, 1, 384, 2, 196672, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90_bf16_256_128x2, 256, 128, 2, 64, 1, 384, 2, 196672, 1)

#define ONEKV_ATTENTION_F16 \
    ONEKV_TILE(__half, onekv_f16_64_16, 64, 16, 1, 64, 4, 128, 3, 51200, 4) \
    ONEKV_TILE(__half, onekv_f16_64_32, 64, 32, 1, 64, 2, 128, 3, 53248, 3) \
    ONEKV_TILE(__half, onekv_f16_64_64, 64, 64, 1, 64, 1, 128, 3, 57344, 3) \
    ONEKV_TILE(__half, onekv_f16_64_128, 64, 128, 1, 32, 1, 256, 4, 49152, 2) \
    ONEKV_TILE(__half, onekv_f16_128_16, 128, 16, 1, 64, 4, 128, 2, 69632, 3) \
    ONEKV_TILE(__half, onekv_f16_128_32, 128, 32, 1, 64, 2, 128, 2, 73728, 2) \
    ONEKV_TILE(__half, onekv_f16_128_64, 128, 64, 1, 64, 1, 128, 2, 81920, 2) \
    ONEKV_TILE(__half, onekv_f16_128_128, 128, 128, 1, 32, 1, 256, 2, 70656, 1) \
    ONEKV_TILE(__half, onekv_f16_256_16, 256, 16, 1, 32, 2, 64, 2, 73728, 3) \
    ONEKV_TILE(__half, onekv_f16_256_32, 256, 32, 1, 32, 2, 128, 2, 81920, 2) \
    ONEKV_TILE(__half, onekv_f16_256_64, 256, 64, 1, 16, 1, 128, 4, 98304, 2)

#define ONEKV_SM90_ATTENTION_F16 \
    ONEKV_STREAM(__half, onekv_sm90_f16_64_16, 64, 16, 1, 32, 4, 128, 8, 67776, 3) \
    ONEKV_STREAM(__half, onekv_sm90_f16_64_32, 64, 32, 1, 32, 4, 128, 12, 102624, 2) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_64_64, 64, 64, 1, 128, 1, 256, 3, 106592, 2) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_64_128, 64, 128, 1, 128, 1, 384, 4, 147584, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_64_128x2, 64, 128, 2, 128, 1, 384, 4, 147584, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_64_192, 64, 192, 1, 128, 1, 512, 4, 155776, 1) \
    ONEKV_STREAM(__half, onekv_sm90_f16_128_16, 128, 16, 1, 16, 4, 128, 12, 102624, 2) \
    ONEKV_STREAM(__half, onekv_sm90_f16_128_32, 128, 32, 1, 16, 4, 128, 12, 106720, 2) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_128_64, 128, 64, 1, 64, 1, 256, 3, 114784, 2) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_128_128, 128, 128, 1, 128, 1, 384, 2, 163904, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_128_128x2, 128, 128, 2, 128, 1, 384, 2, 163904, 1) \
    ONEKV_STREAM(__half, onekv_sm90_f16_256_16, 256, 16, 1, 16, 4, 128, 12, 205024, 1) \
    ONEKV_STREAM(__half, onekv_sm90_f16_256_32, 256, 32, 1, 16, 2, 128, 12, 213216, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_256_64, 256, 64, 1, 64, 1, 256, 2, 163904, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_256_128, 256, 128, 1, 64, 1, 384, 2, 196672, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90_f16_256_128x2, 256, 128, 2, 64, 1, 384, 2, 196672, 1)

#define ONEKV_ATTENTION_F32 \
    ONEKV_PLAIN(float, onekv_f32_64_16, 64, 16, 1, 32, 1, 128, 1, 12800, 5) \
    ONEKV_PLAIN(float, onekv_f32_128_16, 128, 16, 1, 32, 1, 128, 1, 25088, 5) \
    ONEKV_PLAIN(float, onekv_f32_256_16, 256, 16, 1, 32, 1, 128, 1, 49664, 4)

#define ONEKV_SM90_ATTENTION_E4M3 \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_64_16, 64, 16, 1, 64, 4, 128, 8, 67840, 3) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_64_32, 64, 32, 1, 32, 4, 128, 24, 102848, 2) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_128_16, 128, 16, 1, 32, 4, 128, 12, 102688, 2) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_128_32, 128, 32, 1, 32, 4, 128, 12, 106848, 2) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_256_16, 256, 16, 1, 32, 4, 128, 12, 205088, 1) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_256_32, 256, 32, 1, 32, 2, 128, 12, 213344, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_64_16, 64, 16, 1, 64, 4, 128, 8, 67840, 3) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_64_32, 64, 32, 1, 32, 4, 128, 24, 102848, 2) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_128_16, 128, 16, 1, 32, 4, 128, 12, 102688, 2) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_128_32, 128, 32, 1, 32, 4, 128, 12, 106848, 2) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_256_16, 256, 16, 1, 32, 4, 128, 12, 205088, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_256_32, 256, 32, 1, 32, 2, 128, 12, 213344, 1)
