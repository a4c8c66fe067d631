#include "kernels.cuh"
ONEKV_SM90_ATTENTION_E4M3
