// Kernels of ours, one primitive of CCCL's each. Blocks have 128 threads with 4 items each.
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cub/block/block_shuffle.cuh>
#include <cub/cub.cuh>
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/pipeline>
#include <cuda/std/complex>
#include <cuda/std/cmath>

namespace cg = cooperative_groups;
constexpr int kThreads = 128, kItems = 4, kTile = kThreads * kItems;

template <typename T>
__device__ void load(const T* in, T (&items)[kItems]) {
    for (int i = 0; i < kItems; i++) items[i] = in[blockIdx.x * kTile + threadIdx.x * kItems + i];
}

template <typename T>
__device__ void store(T* out, T (&items)[kItems]) {
    for (int i = 0; i < kItems; i++) out[blockIdx.x * kTile + threadIdx.x * kItems + i] = items[i];
}

#define BLOCK(name, primitive, body)                                    \
    extern "C" __global__ void name(const int* in, int* out) {          \
        using Primitive = primitive;                                    \
        __shared__ typename Primitive::TempStorage storage;             \
        int items[kItems];                                              \
        load(in, items);                                                \
        body;                                                           \
    }

#define SHARED(...) __VA_ARGS__

BLOCK(block_reduce_raking, SHARED(cub::BlockReduce<int, kThreads, cub::BLOCK_REDUCE_RAKING>),
      int sum = Primitive(storage).Sum(items); if (threadIdx.x == 0) out[blockIdx.x] = sum)
BLOCK(block_reduce_warp, SHARED(cub::BlockReduce<int, kThreads, cub::BLOCK_REDUCE_WARP_REDUCTIONS>),
      int most = Primitive(storage).Reduce(items, cuda::maximum<>{}); if (threadIdx.x == 0) out[blockIdx.x] = most)
BLOCK(block_scan_raking, SHARED(cub::BlockScan<int, kThreads, cub::BLOCK_SCAN_RAKING>), Primitive(storage).InclusiveSum(items, items);
      store(out, items))
BLOCK(block_scan_warp, SHARED(cub::BlockScan<int, kThreads, cub::BLOCK_SCAN_WARP_SCANS>), Primitive(storage).ExclusiveSum(items, items);
      store(out, items))
BLOCK(block_radix_sort, SHARED(cub::BlockRadixSort<int, kThreads, kItems>), Primitive(storage).Sort(items); store(out, items))
BLOCK(block_merge_sort, SHARED(cub::BlockMergeSort<int, kThreads, kItems>),
      Primitive(storage).Sort(items, [](int a, int b) { return a > b; }); store(out, items))
BLOCK(block_exchange, SHARED(cub::BlockExchange<int, kThreads, kItems>), Primitive(storage).BlockedToStriped(items, items);
      store(out, items))
BLOCK(block_shuffle, SHARED(cub::BlockShuffle<int, kThreads>), Primitive(storage).Up(items, items); store(out, items))
BLOCK(block_adjacent_difference, SHARED(cub::BlockAdjacentDifference<int, kThreads>),
      Primitive(storage).SubtractLeft(items, items, [](int a, int b) { return a - b; }); store(out, items))
BLOCK(block_discontinuity, SHARED(cub::BlockDiscontinuity<int, kThreads>),
      int flags[kItems]; Primitive(storage).FlagHeads(flags, items, [](int a, int b) { return a / 100 != b / 100; });
      store(out, flags))

extern "C" __global__ void block_histogram(const unsigned char* in, int* out) {
    using Primitive = cub::BlockHistogram<unsigned char, kThreads, kItems, 256>;
    __shared__ typename Primitive::TempStorage storage;
    __shared__ int counts[256];
    unsigned char items[kItems];
    load(in, items);
    Primitive(storage).Histogram(items, counts);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += kThreads) out[blockIdx.x * 256 + i] = counts[i];
}

extern "C" __global__ void block_load_store(const int* in, int* out, int count) {
    using Load = cub::BlockLoad<int, kThreads, kItems, cub::BLOCK_LOAD_WARP_TRANSPOSE>;
    using Store = cub::BlockStore<int, kThreads, kItems, cub::BLOCK_STORE_TRANSPOSE>;
    __shared__ union {
        typename Load::TempStorage load;
        typename Store::TempStorage store;
    } storage;
    int items[kItems], left = count - blockIdx.x * kTile;
    Load(storage.load).Load(in + blockIdx.x * kTile, items, left, 0);
    __syncthreads();
    for (int& item : items) item *= 2;
    Store(storage.store).Store(out + blockIdx.x * kTile, items, left);
}

extern "C" __global__ void block_run_length_decode(const int* values, const int* lengths, int* out) {
    using Primitive = cub::BlockRunLengthDecode<int, kThreads, 1, kItems>;
    __shared__ typename Primitive::TempStorage storage;
    int value[1] = {values[threadIdx.x]}, length[1] = {lengths[threadIdx.x]}, items[kItems];
    int total = 0;
    Primitive decode(storage, value, length, total);
    decode.RunLengthDecode(items, 0);
    store(out, items);
}

#define WARP(name, primitive, body)                                               \
    extern "C" __global__ void name(const int* in, int* out) {                    \
        using Primitive = primitive;                                              \
        __shared__ typename Primitive::TempStorage storage[kThreads / 32];        \
        int at = blockIdx.x * kThreads + threadIdx.x, x = in[at];                 \
        auto& own = storage[threadIdx.x / 32];                                    \
        body;                                                                     \
    }

WARP(warp_reduce, cub::WarpReduce<int>, int sum = Primitive(own).Sum(x); if (threadIdx.x % 32 == 0) out[at / 32] = sum)
WARP(warp_reduce_head_segmented, cub::WarpReduce<int>, out[at] = Primitive(own).HeadSegmentedSum(x, threadIdx.x % 8 == 0))
WARP(warp_scan, cub::WarpScan<int>, int y; Primitive(own).InclusiveScan(x, y, cuda::minimum<>{}); out[at] = y)
WARP(warp_merge_sort, SHARED(cub::WarpMergeSort<int, 1>),
     int items[1] = {x}; Primitive(own).Sort(items, [](int a, int b) { return a < b; }); out[at] = items[0])

extern "C" __global__ void groups_reduce(const int* in, int* out) {
    auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    out[at] = cg::reduce(tile, in[at], cg::plus<int>());
}

extern "C" __global__ void groups_scan(const int* in, int* out) {
    auto tile = cg::tiled_partition<32>(cg::this_thread_block());
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    out[at] = cg::inclusive_scan(tile, in[at]);
}

extern "C" __global__ void groups_labelled(const int* in, int* out) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    auto alike = cg::labeled_partition(warp, in[at] & 3);
    out[at] = cg::reduce(alike, in[at], cg::plus<int>());
}

extern "C" __global__ void groups_coalesced(const int* in, int* out) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    out[at] = -1;
    if (in[at] % 3 == 0) {
        auto active = cg::coalesced_threads();
        out[at] = active.thread_rank() + 100 * active.size();
    }
}

extern "C" __global__ void groups_memcpy_async(const int* in, int* out) {
    __shared__ alignas(16) int tile[kTile];
    auto block = cg::this_thread_block();
    cg::memcpy_async(block, tile, in + blockIdx.x * kTile, cuda::aligned_size_t<16>(sizeof(tile)));
    cg::wait(block);
    for (int i = threadIdx.x; i < kTile; i += kThreads) out[blockIdx.x * kTile + i] = tile[kTile - 1 - i];
}

// A grid-wide barrier: all blocks must be resident.
extern "C" __global__ void groups_grid_sync(const int* in, int* sums, int* out) {
    auto grid = cg::this_grid();
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(sums + blockIdx.x, in[at]);
    grid.sync();
    out[at] = sums[(blockIdx.x + 1) % gridDim.x];
}

extern "C" __global__ void pipeline_stages(const int* in, int* out) {
    constexpr int kStages = 2, kSteps = 6;
    __shared__ alignas(16) int tile[kStages][kThreads * 4];
    auto pipeline = cuda::make_pipeline();
    auto fetch = [&](int step) {
        pipeline.producer_acquire();
        const int* from = in + (blockIdx.x * kSteps + step) * kThreads * 4 + threadIdx.x * 4;
        cuda::memcpy_async(&tile[step % kStages][threadIdx.x * 4], from, cuda::aligned_size_t<16>(16), pipeline);
        pipeline.producer_commit();
    };
    int sum = 0;
    fetch(0);
    for (int step = 0; step < kSteps; step++) {
        if (step + 1 < kSteps) fetch(step + 1);
        if (step + 1 < kSteps) cuda::pipeline_consumer_wait_prior<1>(pipeline);
        else cuda::pipeline_consumer_wait_prior<0>(pipeline);
        __syncthreads();
        // What another thread brought.
        sum += tile[step % kStages][(kThreads - 1 - threadIdx.x) * 4];
        __syncthreads();
        pipeline.consumer_release();
    }
    out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

extern "C" __global__ void barrier_split(const int* in, int* out) {
    __shared__ cuda::barrier<cuda::thread_scope_block> bar;
    __shared__ int tile[kThreads];
    if (threadIdx.x == 0) init(&bar, kThreads);
    __syncthreads();
    int at = blockIdx.x * kThreads + threadIdx.x;
    tile[threadIdx.x] = in[at];
    auto token = bar.arrive();
    int own = in[at] * 2;
    bar.wait(std::move(token));
    out[at] = own + tile[(threadIdx.x + 37) % kThreads];
}

extern "C" __global__ void atomic_ref_max(const int* in, int* out) {
    cuda::atomic_ref<int, cuda::thread_scope_device> most(out[threadIdx.x % 4]);
    most.fetch_max(in[blockIdx.x * kThreads + threadIdx.x], cuda::std::memory_order_relaxed);
}

extern "C" __global__ void atomic_compare_exchange(const int* in, int* out) {
    cuda::atomic_ref<int, cuda::thread_scope_device> sum(out[0]);
    int old = sum.load(), x = in[blockIdx.x * kThreads + threadIdx.x];
    while (!sum.compare_exchange_weak(old, old + x)) {
    }
}

extern "C" __global__ void complex_exp(const float2* in, float2* out) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    auto z = cuda::std::exp(cuda::std::complex<float>(in[at].x, in[at].y));
    out[at] = make_float2(z.real(), z.imag());
}

extern "C" __global__ void special_functions(const float* in, float* out) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    out[at] = tgammaf(in[at]) + lgammaf(in[at]) + cbrtf(in[at]) + j0f(in[at]) + erfcinvf(0.5f / in[at]) + cyl_bessel_i0f(in[at]);
}
