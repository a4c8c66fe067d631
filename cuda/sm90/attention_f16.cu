#include "kernels.cuh"
ONEKV_SM90_ATTENTION_F16
