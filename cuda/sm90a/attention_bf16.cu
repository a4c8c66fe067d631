#include "kernels.cuh"
ONEKV_SM90A_ATTENTION_BF16
