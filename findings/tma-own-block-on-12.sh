#!/usr/bin/env bash
# For 12.x ptxas wraps a box by the copy engine in an address check with a call, if the destination is named shared::cluster.
#
# Versions: nvcc 13.0.88 and 13.5.37, nvdisasm 13.5.37 (wheels, x86-64 Linux). No GPU is needed.
# One would expect: cp.async.bulk.tensor into a block's own memory costs the same whether the destination is named
#   .shared::cluster, the only name before PTX 8.6 and the one in every older kernel, or .shared::cta, which the first one
#   contains. For sm_90, sm_100, sm_103 and sm_110 it does: the same instructions.
# What happens: for sm_120 and sm_121 the first name gives every such kernel a stack frame of 8 bytes and a call, and this
#   small one half as many instructions more. Nothing warns. Seen on 2026-11-28, the same by 13.0.88 and 13.5.37:
#     sm_90 sm_100 sm_103 sm_110: 48 instructions, 0 calls, frame 0, by either name
#     sm_120 sm_121: shared::cluster 72 instructions, 1 call, frame 8; shared::cta 48, 0, 0
# Who is hit: kernels for Hopper that are compiled for GeForce Blackwell: spills where registers were just enough, and a check in
#   the loop (in ours 55 to 68 instructions more for a tile of keys). Write .shared::cta under __CUDA_ARCH__ >= 1200.
#
# CUDA130, CUDA135: folders of ready toolkits to use instead of an installation; NVDISASM: the program.
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
    nvidia-cuda-runtime==13.5.37 nvidia-cuda-cccl==13.3.5.0.6; CUDA135=$tmp/135/nvidia/cu13; }
[[ -n ${NVDISASM:-} ]] || { install tools nvidia-cuda-nvdisasm==13.5.37; NVDISASM=$tmp/tools/nvidia/cu13/bin/nvdisasm; }

cat > "$tmp/box.cu" <<'CU'
#include <stdint.h>
extern "C" __global__ void box(const void* map, float* out) {
    extern __shared__ __align__(1024) char shared[];
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared)), barrier = to + 4096;
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n"
                     "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 4096;" ::"r"(barrier) : "memory");
        asm volatile("cp.async.bulk.tensor.2d." TO ".global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %2}], [%3];"
                     ::"r"(to), "l"(map), "r"(0), "r"(barrier) : "memory");
    }
    __syncthreads();
    out[threadIdx.x] = reinterpret_cast<volatile float*>(shared)[threadIdx.x];
}
CU
failed=0
for version in 13.0.88 13.5.37; do
    cuda=$CUDA130
    [[ $version == 13.0.88 ]] || cuda=$CUDA135
    for arch in 90 100 103 110 120 121; do
        for to in shared::cluster shared::cta; do
            "$cuda/bin/nvcc" -cubin -Xptxas -v "-DTO=\"$to\"" -arch="sm_$arch" "$tmp/box.cu" -o "$tmp/box.cubin" 2> "$tmp/log"
            code=$("$NVDISASM" -c "$tmp/box.cubin")
            frame=$(grep -o '[0-9]* bytes stack frame' "$tmp/log" | head -1)
            seen="$(grep -cE '^\s+/\*[0-9a-f]{4}\*/' <<< "$code") instructions, $(grep -c CALL <<< "$code" || true) calls, frame ${frame%% *}"
            expected="48 instructions, 0 calls, frame 0"
            [[ $arch != 12? || $to != shared::cluster ]] || expected="72 instructions, 1 calls, frame 8"
            echo "nvcc $version, sm_$arch, $to: $seen"
            [[ $seen == "$expected" ]] || { echo "CHANGED: expected $expected"; failed=1; }
        done
    done
done
exit $failed
