#include "../sm90/kernels.cuh"
ONEKV_SM120_ATTENTION_F16
