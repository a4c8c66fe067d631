#!/usr/bin/env bash
# A forgotten wgmma.fence: ptxas 13.0 says that it puts one in, 13.5 puts one in and says nothing.
#
# Versions: nvcc and ptxas 13.0.88 and 13.5.37, nvdisasm 13.5.37 (wheels, x86-64 Linux), sm_90a. No GPU is needed.
# One would expect: the newer ptxas tells at least what the older one does: PTX wants wgmma.fence before the first wgmma
#   and wherever registers that wgmma uses were touched, and leaves undefined what happens without it.
# What happens: both give WARPGROUP.ARRIVE (the fence) to the kernel that lacks it, and machine code of as
#   many instructions as with it. 13.0 says so (C7519), 13.5 is silent, with -Xptxas -v too. Seen on 2026-11-27:
#     13.0.88 with fence: 4 HGMMA, 1 ARRIVE, silent
#     13.0.88 without: 4 HGMMA, 1 ARRIVE, C7519
#     13.5.37 with fence: 4 HGMMA, 1 ARRIVE, silent
#     13.5.37 without: 4 HGMMA, 1 ARRIVE, silent
#     both: as many instructions with it as without
# Who is hit: who moves a build that looks for C7519 to the newer toolkit: the check passes for ever. And whose PTX is
#   compiled by a driver: whether that one mends it is not known then. Look for the fence in the source, or in the PTX.
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

cat > "$tmp/products.cu" <<'CU'
__global__ void __launch_bounds__(128, 1) products(float *out, unsigned long long a, unsigned long long b) {
    float d[4];
    for (int i = 0; i < 4; i++) d[i] = out[4 * threadIdx.x + i];
#ifdef FENCE
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
    for (int k = 0; k < 4; k++)
        asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a + 2 * k), "l"(b + 2 * k));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = d[i];
}
CU
failed=0
see() { # version, toolkit, what, what must be printed, options
    local got
    "$2/bin/nvcc" -cubin -arch=sm_90a "${@:5}" "$tmp/products.cu" -o "$tmp/cubin" 2> "$tmp/said"
    "$CUDA135/bin/nvdisasm" "$tmp/cubin" > "$tmp/$1 $3"
    got="$(grep -c HGMMA "$tmp/$1 $3") HGMMA, $(grep -c WARPGROUP.ARRIVE "$tmp/$1 $3") ARRIVE"
    got+=", $(grep -oE 'C7[0-9]+' "$tmp/said" || { [[ -s $tmp/said ]] && cat "$tmp/said"; } || echo silent)"
    echo "$1 $3: $got"
    [[ $got == "$4" ]] || { echo "CHANGED: expected $4"; failed=1; }
}
see 13.0.88 "$CUDA130" "with fence" "4 HGMMA, 1 ARRIVE, silent" -DFENCE
see 13.0.88 "$CUDA130" "without" "4 HGMMA, 1 ARRIVE, C7519"
see 13.5.37 "$CUDA135" "with fence" "4 HGMMA, 1 ARRIVE, silent" -DFENCE
see 13.5.37 "$CUDA135" "without" "4 HGMMA, 1 ARRIVE, silent"
for version in 13.0.88 13.5.37; do
    # A line of an instruction starts with its address.
    count() { grep -cE '^ +/\*[0-9a-f]{4,}\*/' "$tmp/$version $1"; }
    (($(count "with fence") == $(count without))) ||
        { echo "CHANGED: $version has another number of instructions without the fence"; failed=1; }
done
((failed)) || echo "both: as many instructions with it as without"
"$CUDA135/bin/nvcc" -cubin -arch=sm_90a -Xptxas -v "$tmp/products.cu" -o "$tmp/cubin" 2> "$tmp/said"
! grep C75 "$tmp/said" || { echo "CHANGED: 13.5.37 says it with -v"; failed=1; }
exit $failed
