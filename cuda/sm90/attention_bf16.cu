#include "kernels.cuh"
ONEKV_SM90_ATTENTION_BF16
