#!/usr/bin/env bash
# nvcc -rdc=true: a float division anywhere in a kernel serialises all its wgmma, and setmaxnreg is ignored in any kernel.
#
# Versions: nvcc and ptxas 13.0.88 and 13.5.37, nvdisasm 13.5.37 (wheels, x86-64 Linux), sm_90a. No GPU is needed.
# One would expect: relocatable code costs something where a function of another file is called; this kernel calls none,
#   and without -rdc=true its four wgmma run as one group.
# What happens: the slow path of a / b (of __frcp_rn and sqrtf too) is a function. Without -rdc=true it is of the kernel's
#   own file; with it, it becomes an extern one, and a kernel with an extern call gets a wait after each wgmma, though the
#   division comes after the last of them. Linking does not mend it. setmaxnreg is left out of any kernel, division or
#   not. nvcc ends with 0; what it says is "ptxas info: Potential Performance Loss" (C7504, C7509). Seen on 2026-11-27,
#   the same by 13.0.88 and 13.5.37 (waits are WARPGROUP.DEPBAR):
#     d / s: HGMMA 4, waits 1, USETMAXREG 2, silent
#     d / s, -rdc=true: HGMMA 4, waits 4, USETMAXREG 0, C7504 C7509
#     d / s, -rdc=true and linked: HGMMA 4, waits 4, USETMAXREG 0, silent
#     __fdividef(d, s), -rdc=true: HGMMA 4, waits 1, USETMAXREG 0, C7504
#     d * s, -rdc=true: HGMMA 4, waits 1, USETMAXREG 0, C7504
# Who is hit: whose build system sets -rdc=true or -dc for all of CUDA (CMake's CUDA_SEPARABLE_COMPILATION): attention's
#   softmax ends in a division. Compile Hopper's kernels without it, or fail on (C75 in nvcc's output.
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
#if QUOTIENT == 0
#define SCALED(d, s) ((d) / (s))
#elif QUOTIENT == 1
#define SCALED(d, s) __fdividef(d, s)
#else
#define SCALED(d, s) ((d) * (s))
#endif
__global__ void __launch_bounds__(256, 1) products(float *out, unsigned long long a, unsigned long long b, float s) {
    if (threadIdx.x >= 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float d[4];
    for (int i = 0; i < 4; i++) d[i] = out[4 * threadIdx.x + i];
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int k = 0; k < 4; k++)
        asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a + 2 * k), "l"(b + 2 * k));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = SCALED(d[i], s);
}
CU
failed=0
hopper=(-gencode "arch=compute_90a,code=sm_90a")
see() { # version, what, what must be printed, command, which writes $tmp/cubin
    local got
    "${@:4}" -o "$tmp/cubin" 2> "$tmp/said"
    "$CUDA135/bin/nvdisasm" "$tmp/cubin" > "$tmp/code"
    got="HGMMA $(grep -c HGMMA "$tmp/code"), waits $(grep -c WARPGROUP.DEPBAR "$tmp/code")"
    got+=", USETMAXREG $(grep -c USETMAXREG "$tmp/code" || true)"
    got+=", $(grep -oE 'C7[0-9]+' "$tmp/said" | sort -u | paste -sd ' ' | grep . || echo silent)"
    echo "$1 $2: $got"
    [[ $got == "$3" ]] || { echo "CHANGED: expected $3"; failed=1; }
}
for version in 13.0.88 13.5.37; do
    cuda=$CUDA130
    [[ $version == 13.0.88 ]] || cuda=$CUDA135
    nvcc=$cuda/bin/nvcc cubin=("$cuda/bin/nvcc" -cubin "${hopper[@]}" "$tmp/products.cu")
    see $version "d / s" "HGMMA 4, waits 1, USETMAXREG 2, silent" "${cubin[@]}" -DQUOTIENT=0
    see $version "d / s, -rdc=true" "HGMMA 4, waits 4, USETMAXREG 0, C7504 C7509" "${cubin[@]}" -DQUOTIENT=0 -rdc=true
    "$nvcc" -dc "${hopper[@]}" -DQUOTIENT=0 "$tmp/products.cu" -o "$tmp/products.o" 2> "$tmp/said"
    see $version "d / s, -rdc=true and linked" "HGMMA 4, waits 4, USETMAXREG 0, silent" \
        "$nvcc" -dlink -cubin "${hopper[@]}" "$tmp/products.o"
    see $version "__fdividef(d, s), -rdc=true" "HGMMA 4, waits 1, USETMAXREG 0, C7504" "${cubin[@]}" -DQUOTIENT=1 -rdc=true
    see $version "d * s, -rdc=true" "HGMMA 4, waits 1, USETMAXREG 0, C7504" "${cubin[@]}" -DQUOTIENT=2 -rdc=true
done
exit $failed
