#include "kernels.cuh"
ONEKV_KERNELS(__half, f16)
