#!/usr/bin/env bash
# nvcc -c -arch=sm_90a compiles for plain compute_90 as well and fails there on every wgmma; -cubin of the same does not.
#
# Versions: nvcc 13.0.88 and 13.5.37 (wheels, x86-64 Linux). No GPU is needed.
# One would expect: nvcc --help: -arch=sm_100 stands for -arch=compute_100 -code=sm_100,compute_100, the real architecture
#   and "its closest virtual" one. So sm_90a stands for compute_90a and sm_90a,compute_90a, both of which know wgmma.
# What happens: where an object or a fat binary is made, the source is compiled for compute_90 too, its PTX put in, and
#   ptxas, which is run on it for a check, refuses what only 90a has. -cubin and -ptx make one thing and are spared; so is
#   -gencode. A kernel that is empty but under __CUDA_ARCH_FEAT_SM90_ALL compiles, and the object holds the empty one too.
#   So for 100a, 100f and others of a and f. Seen on 2026-11-27, the same by 13.0.88 and 13.5.37:
#     fence, -arch=sm_90a -cubin: compiled for 90a
#     fence, -arch=sm_90a -ptx: compiled for 90a
#     fence, -arch=sm_90a -c: compiled for 90 90a, Instruction 'wgmma.fence' not supported on .target 'sm_90'
#     fence, -arch=sm_90a -c -DGUARDED: compiled for 90 90a, in it ptx 90, elf 90a, ptx 90a
#     fence, -arch=compute_90a -code=sm_90a,compute_90a -c: compiled for 90a, in it ptx 90a, elf 90a
#     fence, -gencode arch=compute_90a,code=sm_90a -c: compiled for 90a, in it elf 90a
#     twice, -arch=sm_90 -c: compiled for 90, in it elf 90, ptx 90
#     twice, -arch=sm_100f -c: compiled for 100 100f, in it ptx 100, elf 100f, ptx 100f
# Who is hit: who tries a kernel by -cubin and then builds it by -c, reads "target 'sm_90'" and looks for a missing a that
#   is there. Who guards instead ships empty kernels as PTX that GPUs to come can take. Write -gencode, or -code beside
#   -arch.
#
# CUDA130, CUDA135: folders of ready toolkits to use instead of an installation.
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

cat > "$tmp/fence.cu" <<'CU'
__global__ void fence() {
#if !defined(GUARDED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
CU
echo '__global__ void twice(float *x) { x[threadIdx.x] *= 2.0f; }' > "$tmp/twice.cu"
failed=0
see() { # version, what must be printed, source, options
    local got plan images
    plan=$("$cuda/bin/nvcc" -dryrun "${@:4}" "$tmp/$3.cu" -o "$tmp/made" 2>&1)
    images=$(grep -oE 'kind=[a-z]+,sm=[0-9a-z]+' <<< "$plan" | sed 's/kind=//; s/,sm=/ /; s/$/,/' | paste -sd ' ' || true)
    got="compiled for $(grep -oE 'cicc.* -arch compute_[0-9a-z]+' <<< "$plan" | grep -oE '[0-9]+[a-z]*$' | paste -sd ' ')"
    if ! "$cuda/bin/nvcc" "${@:4}" "$tmp/$3.cu" -o "$tmp/made" > "$tmp/said" 2>&1; then
        got+=", $(grep -oE -m1 'Instruction .*' "$tmp/said")"
    else
        got+="${images:+, in it ${images%,}}$(cat "$tmp/said")"
    fi
    echo "$1 $3, ${*:4}: $got"
    [[ $got == "$2" ]] || { echo "CHANGED: expected $2"; failed=1; }
}
for version in 13.0.88 13.5.37; do
    cuda=$CUDA130
    [[ $version == 13.0.88 ]] || cuda=$CUDA135
    see $version "compiled for 90a" fence -arch=sm_90a -cubin
    see $version "compiled for 90a" fence -arch=sm_90a -ptx
    see $version "compiled for 90 90a, Instruction 'wgmma.fence' not supported on .target 'sm_90'" fence -arch=sm_90a -c
    see $version "compiled for 90 90a, in it ptx 90, elf 90a, ptx 90a" fence -arch=sm_90a -c -DGUARDED
    see $version "compiled for 90a, in it ptx 90a, elf 90a" fence -arch=compute_90a -code=sm_90a,compute_90a -c
    see $version "compiled for 90a, in it elf 90a" fence -gencode arch=compute_90a,code=sm_90a -c
    see $version "compiled for 90, in it elf 90, ptx 90" twice -arch=sm_90 -c
    see $version "compiled for 100 100f, in it ptx 100, elf 100f, ptx 100f" twice -arch=sm_100f -c
done
exit $failed
