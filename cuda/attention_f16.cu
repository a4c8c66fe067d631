#include "attention/kernels.cuh"
ONEKV_ATTENTION_F16
