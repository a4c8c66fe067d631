#!/usr/bin/env bash
# nvcc's dependency file escapes a blank in the source's name but not in the target's, which make reads as two targets.
#
# Versions: nvcc 13.0.88 and 13.5.37 (wheels, x86-64 Linux), the host's cc and GNU make. No GPU is needed.
# One would expect: -MMD -MF writes a rule that make can read, as gcc's options of the same names do: a backslash before
#   each blank of a name.
# What happens: the prerequisites have it, the target, which is taken from -o, has not. make includes the file without a
#   word, has rules for two files that are not there, and never rebuilds the real one when a header changes. Seen on
#   2026-11-27, the same by 13.0.88 and 13.5.37:
#     cc: my\ out.o: my\ source.c my\ header.h
#     nvcc: my out.cubin : my\ source.cu
#     make -q after my header.h changed, by cc's file: to be built
#     make -q after my header.h changed, by nvcc's file: up to date
# Who is hit: who builds in a folder whose name has a blank and hands nvcc whole paths, by make or whatever reads its
#   syntax: stale kernels, no error. Write to a relative name without blanks.
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

cd "$tmp"
touch "my header.h"
echo '#include "my header.h"' | tee "my source.c" > "my source.cu"
failed=0
see() { # what, what was seen, what must be seen
    echo "$1: $2"
    [[ $2 == "$3" ]] || { echo "CHANGED: expected $3"; failed=1; }
}
rebuilt() { # target, its dependency file: whether make would build it for a header that is newer
    printf '%s:\n\ttouch "$@"\ninclude %s\n' "${1// /\\ }" "$2" > Makefile
    touch "$1"
    make -q "$1" || { echo "to be built before"; return; }
    sleep 1.1
    touch "my header.h"
    if make -q "$1"; then echo "up to date"; else echo "to be built"; fi
}
rule() { sed -n '1{s/ *\\$//;p}' "$1"; }
after="make -q after my header.h changed, by"
cc -c -MMD -MF cc.d "my source.c" -o "my out.o"
see cc "$(rule cc.d)" 'my\ out.o: my\ source.c my\ header.h'
see "$after cc's file" "$(rebuilt "my out.o" cc.d)" "to be built"
for version in 13.0.88 13.5.37; do
    cuda=$CUDA130
    [[ $version == 13.0.88 ]] || cuda=$CUDA135
    "$cuda/bin/nvcc" -cubin -arch=sm_80 -MMD -MF nvcc.d "my source.cu" -o "my out.cubin"
    see "nvcc $version" "$(rule nvcc.d)" 'my out.cubin : my\ source.cu'
    grep -q 'my\\ header.h' nvcc.d || { echo "CHANGED: the header is not in nvcc's file"; failed=1; }
    see "$after nvcc $version's file" "$(rebuilt "my out.cubin" nvcc.d)" "up to date"
done
exit $failed
