#include "attention/kernels.cuh"
ONEKV_ATTENTION_BF16
