#!/usr/bin/env bash
# __launch_bounds__(128) without a second number: ptxas 13.5 spills at 48 registers, of the 255 that the kernel may have.
#
# Versions: nvcc and ptxas 13.0.88 and 13.5.37, nvdisasm 13.5.37 (wheels, x86-64 Linux), sm_100. No GPU is needed.
# One would expect: the second number is the least count of blocks per multiprocessor. Who leaves it out asks for none, so
#   that ptxas, with 255 registers to give to each of 128 threads, spills nothing; (128, 1) is the same, as one block
#   always fits.
# What happens: without the number ptxas stays at 48 registers, as many as (128, 10) allows, and in 13.5 spills for it.
#   With a number that leaves enough of them it takes what it needs. nvcc says nothing unless asked by -Xptxas -v (or
#   -warn-spills). Seen on 2026-11-27:
#     13.0.88 (128): 48 registers, spills 0 bytes
#     13.0.88 (128, 1): 67 registers, spills 0 bytes
#     13.5.37 (128): 48 registers, spills 12 bytes
#     13.5.37 (128, 1): 71 registers, spills 0 bytes
#     13.5.37 (128, 8): 64 registers, spills 0 bytes
#     13.5.37 (128), the machine code: 7 loads and stores of local memory; nvcc: silent
# Who is hit: who writes the threads only and looked for spills with an older toolkit. Write the blocks that you count on,
#   or 1, and read -Xptxas -v with each toolkit anew.
#
# CUDA130, CUDA135: folders of ready toolkits (13.5 with nvdisasm) to use instead of an installation.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export PIP_CACHE_DIR="$tmp/cache"
unset NVCC_APPEND_FLAGS NVCC_PREPEND_FLAGS
install() {
    [[ -d $tmp/venv ]] || python3 -m venv "$tmp/venv"
    "$tmp/venv/bin/pip" install -q --disable-pip-version-check --no-deps --target "$tmp/$1" "${@:2}"
}
[[ -n ${CUDA130:-} ]] || { install 130 nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85; CUDA130=$tmp/130/nvidia/cu13; }
[[ -n ${CUDA135:-} ]] || { install 135 nvidia-cuda-nvcc==13.5.37 nvidia-cuda-crt==13.5.37 nvidia-nvvm==13.5.37 \
    nvidia-cuda-runtime==13.5.37 nvidia-cuda-cccl==13.3.5.0.6 nvidia-cuda-nvdisasm==13.5.37; CUDA135=$tmp/135/nvidia/cu13; }

cat > "$tmp/weigh.cu" <<'CU'
__global__ void __launch_bounds__(BOUNDS) weigh(const float *q, const float *k, const float *v, float *to, int n,
                                                        long stride) {
    extern __shared__ float4 shared[];
    float *tile = reinterpret_cast<float *>(shared), *rows = tile + 32 * 68;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = threadIdx.x; i < 16 * 64; i += 128) rows[i] = q[i];
    float out[4][2] = {}, sum[4] = {}, highest[4] = {};
    for (int first = 0; first < n; first += 32) {
        const int count = min(32, n - first);
        __syncthreads();
        for (int i = threadIdx.x; i < 32 * 64; i += 128)
            tile[i / 64 * 68 + i % 64] = i / 64 < count ? k[(first + i / 64) * stride + i % 64] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float dot = 0;
#pragma unroll 8
            for (int d = 0; d < 64; d += 4) {
                const float4 a = *reinterpret_cast<float4 *>(&rows[(warp * 4 + r) * 64 + d]);
                const float4 b = *reinterpret_cast<float4 *>(&tile[lane * 68 + d]);
                dot = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, dot))));
            }
            const float top = fmaxf(highest[r], dot), rescale = exp2f(highest[r] - top), weight = exp2f(dot - top);
            highest[r] = top;
            sum[r] = sum[r] * rescale + weight;
            for (int c = 0; c < 2; c++) out[r][c] *= rescale;
            for (int j = 0; j < count; j++) {
                const float w = __shfl_sync(~0u, weight, j);
                for (int c = 0; c < 2; c++) out[r][c] = fmaf(w, v[(first + j) * stride + 32 * c + lane], out[r][c]);
            }
        }
    }
    for (int r = 0; r < 4; r++)
        for (int c = 0; c < 2; c++) to[(r * 2 + c) * 128 + threadIdx.x] = out[r][c] / sum[r];
}
CU
failed=0
tell() { # what, what was seen, what must be seen
    echo "$1: $2"
    [[ $2 == "$3" ]] || { echo "CHANGED: expected $3"; failed=1; }
}
see() { # version, toolkit, bounds, what must be printed
    local said
    said=$("$2/bin/nvcc" -cubin -arch=sm_100 -Xptxas -v "-DBOUNDS=${3/, /\\,}" "$tmp/weigh.cu" -o "$tmp/cubin" 2>&1)
    tell "$1 ($3)" "$(sed -nE 's/.*Used ([0-9]+) registers.*/\1/p' <<< "$said") registers, spills $(
        sed -nE 's/.* ([0-9]+) bytes spill stores.*/\1/p' <<< "$said") bytes" "$4"
}
see 13.0.88 "$CUDA130" "128" "48 registers, spills 0 bytes"
see 13.0.88 "$CUDA130" "128, 1" "67 registers, spills 0 bytes"
see 13.5.37 "$CUDA135" "128" "48 registers, spills 12 bytes"
see 13.5.37 "$CUDA135" "128, 1" "71 registers, spills 0 bytes"
see 13.5.37 "$CUDA135" "128, 8" "64 registers, spills 0 bytes"
said=$("$CUDA135/bin/nvcc" -cubin -arch=sm_100 -DBOUNDS=128 "$tmp/weigh.cu" -o "$tmp/cubin" 2>&1)
local=$("$CUDA135/bin/nvdisasm" "$tmp/cubin" | grep -cE 'STL|LDL')
tell "13.5.37 (128), the machine code" "$local loads and stores of local memory; nvcc: ${said:-silent}" \
    "7 loads and stores of local memory; nvcc: silent"
exit $failed
