// Small known kernels, and the same with a bug planted: BUG is a template parameter.
#include <cassert>
#include <cuda_runtime.h>

extern "C" __global__ void vector_add(const float* a, const float* b, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}

// Bug: one thread too many passes the test.
extern "C" __global__ void vector_add_off_by_one(const float* a, const float* b, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) out[i] = a[i] + b[i];
}

// Sum of a block: shuffles, then shared memory, then one atomic.
template <bool BARRIER>
__device__ void reduce_body(const float* in, float* out, int n) {
    __shared__ float partial[32];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += in[i];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    if (BARRIER) __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0;
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (threadIdx.x == 0) atomicAdd(out, sum);
    }
}
extern "C" __global__ void reduce(const float* in, float* out, int n) { reduce_body<true>(in, out, n); }
extern "C" __global__ void reduce_missing_barrier(const float* in, float* out, int n) { reduce_body<false>(in, out, n); }

// Transposes 32x32 tiles; the padding of a row avoids bank conflicts.
template <int PAD>
__device__ void transpose_body(const float* in, float* out, int n) {
    __shared__ float tile[32][32 + PAD];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * n + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x, y = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8) out[(y + j) * n + x] = tile[threadIdx.x][threadIdx.y + j];
}
extern "C" __global__ void transpose(const float* in, float* out, int n) { transpose_body<1>(in, out, n); }
extern "C" __global__ void transpose_conflicts(const float* in, float* out, int n) { transpose_body<0>(in, out, n); }

// Threads of a warp take branches of their own, and a loop of unlike lengths.
extern "C" __global__ void collatz(const int* in, int* steps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned x = in[i];
    int count = 0;
    while (x != 1) {
        if (x % 2) x = 3 * x + 1;
        else x /= 2;
        count++;
    }
    steps[i] = count;
}

// Half of the threads never come to the second barrier.
extern "C" __global__ void deadlock(int* out) {
    if (threadIdx.x < 64) __syncthreads();
    if (threadIdx.x >= 64) asm volatile("bar.sync 1, 128;");
    out[threadIdx.x] = 1;
}

// A shuffle that waits for lanes that have gone elsewhere.
extern "C" __global__ void absent(int* out) {
    int value = threadIdx.x;
    if (threadIdx.x < 16) value = __shfl_xor_sync(~0u, value, 1);
    else asm volatile("bar.sync 1, 64;");
    out[threadIdx.x] = value;
}

// The last block to finish adds up what all wrote: a flag in global memory.
extern "C" __global__ void last_block(const float* in, float* partial, unsigned* done, float* out) {
    __shared__ bool last;
    float sum = in[blockIdx.x * 32 + threadIdx.x];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(done, 1) == gridDim.x - 1;
    }
    __syncwarp();
    if (last && threadIdx.x == 0) {
        float total = 0;
        for (int i = 0; i < gridDim.x; i++) total += ((volatile float*)partial)[i];
        *out = total;
    }
}

// Every block waits for all others, through global memory.
extern "C" __global__ void grid_barrier(unsigned* arrived, int* out) {
    if (threadIdx.x == 0) {
        atomicAdd(arrived, 1);
        while (*(volatile unsigned*)arrived < gridDim.x) {}
        out[blockIdx.x] = 1;
    }
}

extern "C" __global__ void says(int n) {
    if (threadIdx.x == 0) printf("n is %d, half of it %5.2f, %s\n", n, n * 0.5, "done");
}

extern "C" __global__ void formats(int n, double x) {
    printf("%d|%5d|%-5d|%05d|%+d|%u|%x|%X|%o|%c|%s|%-6s|%lld|%llx|%%\n", n, n, n, n, -n, n, n, n, n, 'a' + n, "word", "left",
           1234567890123LL * n, 0xfedcba9876543210ull);
    printf("%f|%.0f|%8.3f|%-9.1f|%08.2f|%e|%.2E|%g|%g|%g|%.3g|%f\n", x, x, x, x, x, x * 1000, x, x, x * 1e9, x * 1e-6, 100 * x,
           1 / (x - x));
}

extern "C" __global__ void checked(int n) { assert(n == 3 && "three it must be"); }

extern "C" __global__ void asserts(int n) {
    if (n != 3) __trap();
}

__device__ __noinline__ int add_called(int a, int b) { return a * 2 + b; }
extern "C" __global__ void calls(int* out) { out[threadIdx.x] = add_called(threadIdx.x, 5) + add_called(1, threadIdx.x); }

// Local memory with an index known at run time only.
extern "C" __global__ void locals(const int* in, int* out) {
    int table[16];
    for (int i = 0; i < 16; i++) table[i] = in[i] + threadIdx.x;
    out[threadIdx.x] = table[in[threadIdx.x % 16] & 15];
}

// One lane writes shared memory, the others read it, with and without a warp sync.
extern "C" __global__ void warp_exchange(int* out) {
    __shared__ int box[32];
    box[threadIdx.x] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = box[31 - threadIdx.x];
}
extern "C" __global__ void warp_exchange_missing_sync(int* out) {
    __shared__ volatile int other;
    __shared__ int box[32];
    box[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = box[31 - threadIdx.x];
}
