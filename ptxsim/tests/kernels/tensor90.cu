// Hopper by hand: TMA, mbarriers, wgmma, clusters.
#include <cuda.h>
#include <cuda_bf16.h>
#include <cstdint>

using bf16 = __nv_bfloat16;

__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ void init(uint64_t* bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}
__device__ void fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ void expect(uint64_t* bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes) : "memory");
}
__device__ void arrive(uint64_t* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
__device__ void wait(uint64_t* bar, int parity) {
    asm volatile(
        "{\n .reg .pred done;\n again:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n @!done bra again;\n}"
        ::"r"(shared_address(bar)), "r"(parity) : "memory");
}
__device__ void tma_load(void* to, const CUtensorMap* map, int x, int y, uint64_t* bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(shared_address(to)), "l"(map), "r"(x), "r"(y), "r"(shared_address(bar)) : "memory");
}
__device__ void tma_load_multicast(void* to, const CUtensorMap* map, int x, int y, uint64_t* bar, uint16_t mask) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
                 ::"r"(shared_address(to)), "l"(map), "r"(x), "r"(y), "r"(shared_address(bar)), "h"(mask) : "memory");
}
__device__ void tma_store(const CUtensorMap* map, const void* from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];"
                 ::"l"(map), "r"(x), "r"(y), "r"(shared_address(from)) : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
__device__ void tma_store_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
__device__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Descriptor of a tile with rows of 64 bf16, swizzled by 128 bytes; groups of eight rows follow each other.
__device__ uint64_t descriptor(const void* tile, uint64_t leading, uint64_t stride) {
    uint64_t start = (shared_address(tile) & 0x3ffff) >> 4;
    return start | leading >> 4 << 16 | stride >> 4 << 32 | 1ull << 62;
}

#define ACCUMULATORS(d) \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
    "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
    "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
    "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define D32 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
    "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"

template <int TRANSPOSE_B>
__device__ void wgmma(float (&d)[32], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D32 ", %32, %33, 1, 1, 1, 0, %34;"
                 : ACCUMULATORS(d) : "l"(a), "l"(b), "n"(TRANSPOSE_B));
}
template <int TRANSPOSE_B>
__device__ void wgmma_registers(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D32 ", {%32, %33, %34, %35}, %36, 1, 1, 1, %37;"
                 : ACCUMULATORS(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(TRANSPOSE_B));
}
__device__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

__device__ void write_tile(float* c, const float (&d)[32]) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = 0; i < 32; i++)
        c[(warp % 4 * 16 + lane / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
}

enum Bug { NONE, MISSING_WAIT, MISSING_WGMMA_WAIT, EARLY_REFILL };

// C = A B^T (or A B): a producer warp copies tiles of 64 x 64 by TMA, a warpgroup multiplies.
// A [64, k]; B [64, k] (rows of N contiguous in K), or with TRANSPOSE [k, 64].
template <Bug BUG, int TRANSPOSE>
__device__ void matmul_body(const CUtensorMap* a, const CUtensorMap* b, float* c, int k) {
    __shared__ __align__(1024) bf16 sa[2][64 * 64];
    __shared__ __align__(1024) bf16 sb[2][64 * 64];
    __shared__ uint64_t full[2], empty[2];
    int steps = k / 64;
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; s++) init(&full[s], 1), init(&empty[s], 4);
        fence_init();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        if (threadIdx.x == 128)
            for (int i = 0; i < steps; i++) {
                int s = i % 2;
                if (i >= 2 && BUG != EARLY_REFILL) wait(&empty[s], (i / 2 - 1) % 2);
                expect(&full[s], 2 * 64 * 64 * 2);
                tma_load(sa[s], a, i * 64, 0, &full[s]);
                if (TRANSPOSE) tma_load(sb[s], b, 0, i * 64, &full[s]);
                else tma_load(sb[s], b, i * 64, 0, &full[s]);
            }
        return;
    }
    float d[32] = {};
    for (int i = 0; i < steps; i++) {
        int s = i % 2;
        if (BUG != MISSING_WAIT) wait(&full[s], i / 2 % 2);
        wgmma_fence();
        for (int kk = 0; kk < 4; kk++) {
            uint64_t da = descriptor(&sa[s][kk * 16], 1, 1024);
            if (TRANSPOSE) wgmma<1>(d, da, descriptor(&sb[s][kk * 16 * 64], 1, 1024));
            else wgmma<0>(d, da, descriptor(&sb[s][kk * 16], 1, 1024));
        }
        wgmma_commit();
        if (BUG != MISSING_WGMMA_WAIT) wgmma_wait();
        if (threadIdx.x % 32 == 0) arrive(&empty[s]);
    }
    write_tile(c, d);
}
#define MATMUL(name, bug, transpose) \
    extern "C" __global__ void name(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, float* c, int k) { \
        matmul_body<bug, transpose>(&a, &b, c, k); \
    }
MATMUL(matmul, NONE, 0)
MATMUL(matmul_transposed, NONE, 1)
MATMUL(matmul_missing_wait, MISSING_WAIT, 0)
MATMUL(matmul_missing_wgmma_wait, MISSING_WGMMA_WAIT, 0)
MATMUL(matmul_early_refill, EARLY_REFILL, 0)

// C = A B with A from registers and B [64 x 64] written by threads, swizzled by hand.
template <bool FENCE>
__device__ void registers_body(const bf16* a, const bf16* b, float* c) {
    __shared__ __align__(1024) bf16 sb[64 * 64];
    // Element (k, n) of an MN-major tile: rows of 64 n, 128 bytes, 16-byte chunks XOR k % 8.
    for (int i = threadIdx.x; i < 64 * 8; i += 128) {
        int row = i / 8, chunk = i % 8;
        *reinterpret_cast<uint4*>(&sb[row * 64 + (chunk ^ row % 8) * 8]) = *reinterpret_cast<const uint4*>(&b[row * 64 + chunk * 8]);
    }
    if (FENCE) fence_async();
    __syncthreads();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float d[32] = {};
    uint32_t f[4][4];
    for (int kk = 0; kk < 4; kk++)
        for (int r = 0; r < 4; r++)
            f[kk][r] = *reinterpret_cast<const uint32_t*>(&a[(warp * 16 + lane / 4 + r % 2 * 8) * 64 + kk * 16 + lane % 4 * 2 + r / 2 * 8]);
    wgmma_fence();
    for (int kk = 0; kk < 4; kk++) wgmma_registers<1>(d, f[kk], descriptor(&sb[kk * 16 * 64], 1, 1024));
    wgmma_commit();
    wgmma_wait();
    write_tile(c, d);
}
extern "C" __global__ void registers(const bf16* a, const bf16* b, float* c) { registers_body<true>(a, b, c); }
extern "C" __global__ void registers_missing_fence(const bf16* a, const bf16* b, float* c) { registers_body<false>(a, b, c); }

// Copies a box of 64 x 8 floats in and out by TMA, doubled in between.
template <bool FENCE>
__device__ void through_body(const CUtensorMap* in, const CUtensorMap* out, int x, int y) {
    __shared__ __align__(128) float box[8][64];
    __shared__ uint64_t bar;
    if (threadIdx.x == 0) init(&bar, 1), fence_init();
    __syncthreads();
    if (threadIdx.x == 0) {
        expect(&bar, sizeof(box));
        tma_load(box, in, x, y, &bar);
    }
    wait(&bar, 0);
    for (int i = threadIdx.x; i < 512; i += 32) box[i / 64][i % 64] *= 2;
    if (FENCE) fence_async();
    __syncwarp();
    if (threadIdx.x == 0) {
        tma_store(out, box, x, y);
        tma_store_wait();
    }
}
extern "C" __global__ void through(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out, int x, int y) { through_body<true>(&in, &out, x, y); }
extern "C" __global__ void through_missing_fence(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out, int x, int y) { through_body<false>(&in, &out, x, y); }

// A cluster of two: each block fetches one half of a row and multicasts it; then each reads the other's
// own number through distributed shared memory.
extern "C" __global__ void __cluster_dims__(2, 1, 1) cluster_pair(const __grid_constant__ CUtensorMap in, float* out, int* ranks) {
    __shared__ __align__(128) float row[2][32];
    __shared__ uint64_t bar;
    __shared__ int own;
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x == 0) {
        init(&bar, 1), fence_init();
        own = 100 + rank;
        expect(&bar, sizeof(row));
    }
    cluster_sync();
    if (threadIdx.x == 0) tma_load_multicast(row[rank], &in, rank * 32, blockIdx.x / 2, &bar, 3);
    wait(&bar, 0);
    for (int i = threadIdx.x; i < 64; i += 32) out[blockIdx.x * 64 + i] = row[i / 32][i % 32];
    uint32_t remote, value;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(&own)), "r"(rank ^ 1));
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(remote));
    if (threadIdx.x == 0) ranks[blockIdx.x] = value;
    cluster_sync();
}
