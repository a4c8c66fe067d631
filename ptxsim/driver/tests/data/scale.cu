extern "C" __global__ void scale(float* out, const float* in, float factor, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i] * factor;
}
extern "C" __global__ void add_one(unsigned* data, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] += 1;
}
extern __shared__ unsigned pool[];
extern "C" __global__ void __launch_bounds__(128) reverse(unsigned* data) {
    pool[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = pool[blockDim.x - 1 - threadIdx.x];
}
__device__ unsigned table[4] = {1, 2, 3, 4};
extern "C" __global__ void read_table(unsigned* out) { out[threadIdx.x] = table[threadIdx.x & 3]; }
