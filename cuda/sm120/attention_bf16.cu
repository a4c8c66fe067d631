#include "../sm90/kernels.cuh"
ONEKV_SM120_ATTENTION_BF16
