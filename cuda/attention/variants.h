// The kernels there are, by source. Generated from src/plan/variants.rs by xtask's `bindings`; do not edit.
//
// KIND(element, name, head_dim, tile_rows, cluster, tile_keys, key_warps, threads, stages, shared_bytes, blocks)
#pragma once

#define ONEKV_ATTENTION_BF16 \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_32_16, 32, 16, 1, 64, 4, 128, 4, 33792, 4) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_32_32, 32, 32, 1, 64, 2, 128, 4, 34816, 4) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_32_64, 32, 64, 1, 64, 1, 128, 4, 36864, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_32_128, 32, 128, 1, 32, 1, 256, 4, 24576, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_64_16, 64, 16, 1, 64, 4, 128, 3, 51200, 4) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_64_32, 64, 32, 1, 64, 2, 128, 3, 53248, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_64_64, 64, 64, 1, 64, 1, 128, 3, 57344, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_64_128, 64, 128, 1, 32, 1, 256, 4, 49152, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_96_16, 96, 16, 1, 64, 4, 128, 2, 52224, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_96_32, 96, 32, 1, 64, 2, 128, 2, 55296, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_96_64, 96, 64, 1, 64, 1, 128, 2, 61440, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_96_128, 96, 128, 1, 32, 1, 256, 3, 61440, 1) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_128_16, 128, 16, 1, 64, 4, 128, 2, 69632, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_128_32, 128, 32, 1, 64, 2, 128, 2, 73728, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_128_64, 128, 64, 1, 64, 1, 128, 2, 81920, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_128_128, 128, 128, 1, 32, 1, 256, 2, 70656, 1) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_256_16, 256, 16, 1, 32, 2, 64, 2, 73728, 3) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_256_32, 256, 32, 1, 32, 2, 128, 2, 81920, 2) \
    ONEKV_TILE(__nv_bfloat16, onekv_bf16_256_64, 256, 64, 1, 16, 1, 128, 4, 98304, 2)

#define ONEKV_SM90_ATTENTION_BF16 \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_64_16, 64, 16, 1, 32, 4, 128, 8, 67656, 3) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_64_32, 64, 32, 1, 32, 4, 128, 12, 102504, 2) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_128_16, 128, 16, 1, 16, 4, 128, 12, 102504, 2) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_128_32, 128, 32, 1, 16, 4, 128, 12, 106600, 2) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_256_16, 256, 16, 1, 16, 4, 128, 12, 204904, 1) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm90_bf16_256_32, 256, 32, 1, 16, 2, 128, 12, 213096, 1)

#define ONEKV_SM90A_ATTENTION_BF16 \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_64_64, 64, 64, 1, 128, 1, 256, 3, 106592, 2) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_64_128, 64, 128, 1, 128, 1, 384, 4, 163968, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_64_128x2, 64, 128, 2, 128, 1, 384, 4, 163968, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_64_192, 64, 192, 1, 128, 1, 512, 4, 180352, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_128_64, 128, 64, 1, 64, 1, 256, 3, 114784, 2) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_128_128, 128, 128, 1, 128, 1, 384, 2, 196672, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_128_128x2, 128, 128, 2, 128, 1, 384, 2, 196672, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_256_64, 256, 64, 1, 64, 1, 256, 2, 163904, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_256_128, 256, 128, 1, 80, 1, 384, 2, 229440, 1) \
    ONEKV_WARPGROUPS(__nv_bfloat16, onekv_sm90a_bf16_256_128x2, 256, 128, 2, 80, 1, 384, 2, 229440, 1)

#define ONEKV_SM120_ATTENTION_BF16 \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm120_bf16_64_16, 64, 16, 1, 32, 4, 128, 8, 67656, 1) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm120_bf16_64_32, 64, 32, 1, 32, 4, 128, 8, 69704, 1) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm120_bf16_128_16, 128, 16, 1, 16, 4, 128, 8, 69704, 1) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm120_bf16_128_32, 128, 32, 1, 16, 4, 128, 8, 73800, 1) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm120_bf16_256_16, 256, 16, 1, 16, 4, 128, 4, 73768, 1) \
    ONEKV_STREAM(__nv_bfloat16, onekv_sm120_bf16_256_32, 256, 32, 1, 16, 2, 128, 4, 81960, 1)

#define ONEKV_ATTENTION_F16 \
    ONEKV_TILE(__half, onekv_f16_32_16, 32, 16, 1, 64, 4, 128, 4, 33792, 4) \
    ONEKV_TILE(__half, onekv_f16_32_32, 32, 32, 1, 64, 2, 128, 4, 34816, 4) \
    ONEKV_TILE(__half, onekv_f16_32_64, 32, 64, 1, 64, 1, 128, 4, 36864, 3) \
    ONEKV_TILE(__half, onekv_f16_32_128, 32, 128, 1, 32, 1, 256, 4, 24576, 2) \
    ONEKV_TILE(__half, onekv_f16_64_16, 64, 16, 1, 64, 4, 128, 3, 51200, 4) \
    ONEKV_TILE(__half, onekv_f16_64_32, 64, 32, 1, 64, 2, 128, 3, 53248, 3) \
    ONEKV_TILE(__half, onekv_f16_64_64, 64, 64, 1, 64, 1, 128, 3, 57344, 3) \
    ONEKV_TILE(__half, onekv_f16_64_128, 64, 128, 1, 32, 1, 256, 4, 49152, 2) \
    ONEKV_TILE(__half, onekv_f16_96_16, 96, 16, 1, 64, 4, 128, 2, 52224, 3) \
    ONEKV_TILE(__half, onekv_f16_96_32, 96, 32, 1, 64, 2, 128, 2, 55296, 3) \
    ONEKV_TILE(__half, onekv_f16_96_64, 96, 64, 1, 64, 1, 128, 2, 61440, 2) \
    ONEKV_TILE(__half, onekv_f16_96_128, 96, 128, 1, 32, 1, 256, 3, 61440, 1) \
    ONEKV_TILE(__half, onekv_f16_128_16, 128, 16, 1, 64, 4, 128, 2, 69632, 3) \
    ONEKV_TILE(__half, onekv_f16_128_32, 128, 32, 1, 64, 2, 128, 2, 73728, 2) \
    ONEKV_TILE(__half, onekv_f16_128_64, 128, 64, 1, 64, 1, 128, 2, 81920, 2) \
    ONEKV_TILE(__half, onekv_f16_128_128, 128, 128, 1, 32, 1, 256, 2, 70656, 1) \
    ONEKV_TILE(__half, onekv_f16_256_16, 256, 16, 1, 32, 2, 64, 2, 73728, 3) \
    ONEKV_TILE(__half, onekv_f16_256_32, 256, 32, 1, 32, 2, 128, 2, 81920, 2) \
    ONEKV_TILE(__half, onekv_f16_256_64, 256, 64, 1, 16, 1, 128, 4, 98304, 2)

#define ONEKV_SM90_ATTENTION_F16 \
    ONEKV_STREAM(__half, onekv_sm90_f16_64_16, 64, 16, 1, 32, 4, 128, 8, 67656, 3) \
    ONEKV_STREAM(__half, onekv_sm90_f16_64_32, 64, 32, 1, 32, 4, 128, 12, 102504, 2) \
    ONEKV_STREAM(__half, onekv_sm90_f16_128_16, 128, 16, 1, 16, 4, 128, 12, 102504, 2) \
    ONEKV_STREAM(__half, onekv_sm90_f16_128_32, 128, 32, 1, 16, 4, 128, 12, 106600, 2) \
    ONEKV_STREAM(__half, onekv_sm90_f16_256_16, 256, 16, 1, 16, 4, 128, 12, 204904, 1) \
    ONEKV_STREAM(__half, onekv_sm90_f16_256_32, 256, 32, 1, 16, 2, 128, 12, 213096, 1)

#define ONEKV_SM90A_ATTENTION_F16 \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_64_64, 64, 64, 1, 128, 1, 256, 3, 106592, 2) \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_64_128, 64, 128, 1, 128, 1, 384, 4, 163968, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_64_128x2, 64, 128, 2, 128, 1, 384, 4, 163968, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_64_192, 64, 192, 1, 128, 1, 512, 4, 180352, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_128_64, 128, 64, 1, 64, 1, 256, 3, 114784, 2) \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_128_128, 128, 128, 1, 128, 1, 384, 2, 196672, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_128_128x2, 128, 128, 2, 128, 1, 384, 2, 196672, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_256_64, 256, 64, 1, 64, 1, 256, 2, 163904, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_256_128, 256, 128, 1, 80, 1, 384, 2, 229440, 1) \
    ONEKV_WARPGROUPS(__half, onekv_sm90a_f16_256_128x2, 256, 128, 2, 80, 1, 384, 2, 229440, 1)

#define ONEKV_SM120_ATTENTION_F16 \
    ONEKV_STREAM(__half, onekv_sm120_f16_64_16, 64, 16, 1, 32, 4, 128, 8, 67656, 1) \
    ONEKV_STREAM(__half, onekv_sm120_f16_64_32, 64, 32, 1, 32, 4, 128, 8, 69704, 1) \
    ONEKV_STREAM(__half, onekv_sm120_f16_128_16, 128, 16, 1, 16, 4, 128, 8, 69704, 1) \
    ONEKV_STREAM(__half, onekv_sm120_f16_128_32, 128, 32, 1, 16, 4, 128, 8, 73800, 1) \
    ONEKV_STREAM(__half, onekv_sm120_f16_256_16, 256, 16, 1, 16, 4, 128, 4, 73768, 1) \
    ONEKV_STREAM(__half, onekv_sm120_f16_256_32, 256, 32, 1, 16, 2, 128, 4, 81960, 1)

#define ONEKV_ATTENTION_F32 \
    ONEKV_PLAIN(float, onekv_f32_32_16, 32, 16, 1, 32, 1, 128, 1, 6656, 5) \
    ONEKV_PLAIN(float, onekv_f32_64_16, 64, 16, 1, 32, 1, 128, 1, 12800, 5) \
    ONEKV_PLAIN(float, onekv_f32_96_16, 96, 16, 1, 32, 1, 128, 1, 18944, 5) \
    ONEKV_PLAIN(float, onekv_f32_128_16, 128, 16, 1, 32, 1, 128, 1, 25088, 5) \
    ONEKV_PLAIN(float, onekv_f32_256_16, 256, 16, 1, 32, 1, 128, 1, 49664, 4)

#define ONEKV_SM90_ATTENTION_E4M3 \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_64_16, 64, 16, 1, 64, 4, 128, 8, 67720, 3) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_64_32, 64, 32, 1, 64, 4, 128, 12, 102632, 2) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_128_16, 128, 16, 1, 32, 4, 128, 12, 102568, 2) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_128_32, 128, 32, 1, 32, 4, 128, 12, 106728, 2) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_256_16, 256, 16, 1, 32, 4, 128, 12, 204968, 1) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm90_bf16_e4m3_256_32, 256, 32, 1, 32, 2, 128, 12, 221416, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_64_16, 64, 16, 1, 64, 4, 128, 8, 67720, 3) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_64_32, 64, 32, 1, 64, 4, 128, 12, 102632, 2) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_128_16, 128, 16, 1, 32, 4, 128, 12, 102568, 2) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_128_32, 128, 32, 1, 32, 4, 128, 12, 106728, 2) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_256_16, 256, 16, 1, 32, 4, 128, 12, 204968, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm90_f16_e4m3_256_32, 256, 32, 1, 32, 2, 128, 12, 221416, 1)

#define ONEKV_SM120_ATTENTION_E4M3 \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm120_bf16_e4m3_64_16, 64, 16, 1, 64, 4, 128, 8, 67720, 1) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm120_bf16_e4m3_64_32, 64, 32, 1, 64, 4, 128, 8, 69832, 1) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm120_bf16_e4m3_128_16, 128, 16, 1, 32, 4, 128, 8, 69768, 1) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm120_bf16_e4m3_128_32, 128, 32, 1, 64, 2, 128, 4, 90280, 1) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm120_bf16_e4m3_256_16, 256, 16, 1, 32, 4, 128, 4, 73832, 1) \
    ONEKV_STREAM_E4M3(__nv_bfloat16, onekv_sm120_bf16_e4m3_256_32, 256, 32, 1, 32, 2, 128, 4, 90280, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm120_f16_e4m3_64_16, 64, 16, 1, 64, 4, 128, 8, 67720, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm120_f16_e4m3_64_32, 64, 32, 1, 64, 4, 128, 8, 69832, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm120_f16_e4m3_128_16, 128, 16, 1, 32, 4, 128, 8, 69768, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm120_f16_e4m3_128_32, 128, 32, 1, 64, 2, 128, 4, 90280, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm120_f16_e4m3_256_16, 256, 16, 1, 32, 4, 128, 4, 73832, 1) \
    ONEKV_STREAM_E4M3(__half, onekv_sm120_f16_e4m3_256_32, 256, 32, 1, 32, 2, 128, 4, 90280, 1)
