#include "kernels.cuh"
ONEKV_KERNELS(__nv_bfloat16, bf16)
