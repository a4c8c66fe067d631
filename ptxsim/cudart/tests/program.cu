// What a plain program does with the runtime: its own exit code says what went wrong.
#include <cstdio>
#include <cuda_runtime.h>

#define CHECK(call)                                                                              \
    do {                                                                                         \
        cudaError_t error = (call);                                                              \
        if (error != cudaSuccess) {                                                              \
            printf("line %d: %s: %s\n", __LINE__, cudaGetErrorName(error), cudaGetErrorString(error)); \
            return 1;                                                                            \
        }                                                                                        \
    } while (0)
#define REQUIRE(what)                                  \
    do {                                               \
        if (!(what)) {                                 \
            printf("line %d: not " #what "\n", __LINE__); \
            return 1;                                  \
        }                                              \
    } while (0)

constexpr int kCount = 1000;
__device__ int launches = 5;
__constant__ float factors[2] = {2.0f, 2.0f};

__global__ void add_scaled(const float* a, const float* b, float* c, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) c[i] = a[i] + factors[1] * b[i];
    if (i == 0) atomicAdd(&launches, 1);
}

template <typename T>
__global__ void reverse(T* data) {
    extern __shared__ char bytes[];
    T* own = reinterpret_cast<T*>(bytes);
    own[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = own[blockDim.x - 1 - threadIdx.x];
}

int main() {
    int count = 0, device = -1;
    CHECK(cudaGetDeviceCount(&count));
    REQUIRE(count == 2);
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    printf("%s %d.%d %d %zu %d\n", properties.name, properties.major, properties.minor, properties.multiProcessorCount,
           properties.sharedMemPerBlockOptin, properties.maxThreadsDim[2]);

    for (int turn = 0; turn < 2; ++turn) {
        CHECK(cudaSetDevice(turn));
        CHECK(cudaGetDevice(&device));
        REQUIRE(device == turn);
        float host[kCount], *a, *b, *c;
        for (int i = 0; i < kCount; ++i) host[i] = float(i);
        CHECK(cudaMalloc(&a, sizeof host));
        CHECK(cudaMalloc(&b, sizeof host));
        CHECK(cudaMallocManaged(&c, sizeof host));
        CHECK(cudaMemcpy(a, host, sizeof host, cudaMemcpyHostToDevice));
        CHECK(cudaMemcpy(b, a, sizeof host, cudaMemcpyDefault));
        float three = 3.0f;
        CHECK(cudaMemcpyToSymbol(factors, &three, sizeof three, sizeof three));
        add_scaled<<<8, 128>>>(a, b, c, kCount);
        CHECK(cudaGetLastError());
        CHECK(cudaDeviceSynchronize());
        for (int i = 0; i < kCount; ++i) REQUIRE(c[i] == 4.0f * i);
        int launched = 0;
        CHECK(cudaMemcpyFromSymbol(&launched, launches, sizeof launched));
        REQUIRE(launched == 6);

        // Streams, events, a graph: each device anew.
        cudaStream_t stream;
        cudaEvent_t start, end;
        CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        CHECK(cudaEventCreate(&start));
        CHECK(cudaEventCreate(&end));
        CHECK(cudaEventRecord(start, stream));
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        reverse<float><<<1, 256, 256 * sizeof(float), stream>>>(a);
        cudaGraph_t graph;
        cudaGraphExec_t executable;
        CHECK(cudaStreamEndCapture(stream, &graph));
        CHECK(cudaGraphInstantiate(&executable, graph, 0));
        for (int i = 0; i < 3; ++i) CHECK(cudaGraphLaunch(executable, stream));
        CHECK(cudaEventRecord(end, stream));
        REQUIRE(cudaEventQuery(end) == cudaErrorNotReady);
        CHECK(cudaMemcpyAsync(host, a, sizeof host, cudaMemcpyDeviceToHost, stream));
        CHECK(cudaStreamSynchronize(stream));
        REQUIRE(host[0] == 255.0f && host[255] == 0.0f && host[256] == 256.0f);
        float milliseconds = -1;
        CHECK(cudaEventElapsedTime(&milliseconds, start, end));
        REQUIRE(milliseconds >= 0);

        cudaFuncAttributes attributes;
        CHECK(cudaFuncGetAttributes(&attributes, add_scaled));
        REQUIRE(attributes.maxThreadsPerBlock == 1024 && attributes.ptxVersion == 80);
        CHECK(cudaFuncSetAttribute(reverse<float>, cudaFuncAttributeMaxDynamicSharedMemorySize, 100000));
        CHECK(cudaFuncGetAttributes(&attributes, reverse<float>));
        REQUIRE(attributes.maxDynamicSharedSizeBytes == 100000);
        int blocks = 0;
        CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, add_scaled, 128, 0));
        REQUIRE(blocks == 16);

        // What is wrong is told, once.
        add_scaled<<<1, 2048>>>(a, b, c, kCount);
        REQUIRE(cudaPeekAtLastError() == cudaErrorInvalidConfiguration);
        REQUIRE(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess);
        REQUIRE(cudaMemcpyToSymbol(factors, &three, sizeof three, 2 * sizeof three) == cudaErrorInvalidValue);
        REQUIRE(cudaMemcpyToSymbol(host, &three, sizeof three) == cudaErrorInvalidSymbol);
        REQUIRE(cudaFree(host) == cudaErrorInvalidValue);
        REQUIRE(cudaSetDevice(7) == cudaErrorInvalidDevice);
        REQUIRE(cudaGetLastError() == cudaErrorInvalidDevice);
        CHECK(cudaGetDevice(&device));
        REQUIRE(device == turn);
        CHECK(cudaGraphExecDestroy(executable));
        CHECK(cudaGraphDestroy(graph));
        CHECK(cudaEventDestroy(start));
        CHECK(cudaEventDestroy(end));
        CHECK(cudaStreamDestroy(stream));
        CHECK(cudaFree(a));
        CHECK(cudaFree(b));
        CHECK(cudaFree(c));
    }
    // A kernel's fault comes with the next wait.
    reverse<float><<<1, 32, 128>>>(nullptr);
    REQUIRE(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    printf("done\n");
    return 0;
}
