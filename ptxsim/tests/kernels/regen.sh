#!/bin/sh
# Remakes the checked-in PTX with nvcc 13.0. Usage: NVCC=path/to/nvcc ./regen.sh
set -eu
cd "$(dirname "$0")"
NVCC=${NVCC:-nvcc}
"$NVCC" -ptx -arch=compute_80 basic.cu -o basic.ptx
"$NVCC" -ptx -arch=compute_80 tensor80.cu -o tensor80.ptx
"$NVCC" -ptx -arch=compute_80 wmma.cu -o wmma.ptx
"$NVCC" -ptx -arch=compute_90a tensor90.cu -o tensor90.ptx
