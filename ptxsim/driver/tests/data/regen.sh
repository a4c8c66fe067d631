#!/bin/sh
# Remakes the checked-in PTX and fatbins with nvcc 13.0. Usage: NVCC=path/to/nvcc ./regen.sh
set -eu
cd "$(dirname "$0")"
NVCC=${NVCC:-nvcc}
"$NVCC" -ptx -arch=compute_80 scale.cu -o scale.ptx
codes="-gencode arch=compute_80,code=sm_80 -gencode arch=compute_80,code=compute_80 -gencode arch=compute_90a,code=compute_90a"
# shellcheck disable=SC2086 # the list of codes is meant to be split
"$NVCC" --fatbin $codes --no-compress scale.cu -o scale.plain.fatbin
for mode in speed balance size; do
    # shellcheck disable=SC2086
    "$NVCC" --fatbin $codes --compress-mode=$mode scale.cu -o scale.$mode.fatbin
done
