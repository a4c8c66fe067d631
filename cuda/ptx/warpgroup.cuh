// Tensor-core products of a warpgroup (wgmma, 9.0a): D [64, N] += A [64, 16] B [16, N], f32 accumulators.
//
// Tiles in shared memory consist of panels of 64 elements (128 bytes) a row, swizzled by 128 bytes as the copy
// engine writes them; a panel begins at a multiple of 1024 bytes. Q and K are contiguous along k, the columns that are summed
// over. V is contiguous along N: its rows are keys, the k of P V.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// Descriptor of a swizzled tile from `address` on. `panel`: bytes from one panel to the next where the panels
// follow N (V); of no meaning for Q and K, whose k stays within a panel. Groups of eight rows are 1024 bytes.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, uint32_t panel) {
    return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(panel >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

// The descriptor of what stands 16 times `sixteens` bytes further on. Only the low word changes: shared memory ends before a carry.
__device__ __forceinline__ uint64_t further(uint64_t descriptor, uint32_t sixteens) {
    return descriptor & 0xffffffffull << 32 | static_cast<uint32_t>(descriptor) + sixteens;
}

__device__ __forceinline__ void warpgroup_arrive() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Keeps the compiler from moving uses of accumulators across a wait, or a fence.
__device__ __forceinline__ void settle(float (&d)[4]) { asm volatile("" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory"); }
template <int N>
__device__ __forceinline__ void settle(float (&d)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++) settle(d[i]);
}

// Keeps the computation of `positive` before the wait that follows. ptxas moves arithmetic across a wait as it likes, and behind
// it the exponentials would no longer run beside the products. It never stores: `positive` is at least 0, or NaN.
__device__ __forceinline__ void stay_before(float positive, uint32_t shared) {
    asm volatile("{\n.reg .pred below;\nsetp.lt.f32 below, %0, 0f00000000;\n@below st.shared.f32 [%1], %0;\n}" ::"f"(positive), "r"(shared)
                 : "memory");
}

#define ONEKV_D4(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define ONEKV_D8(d, i) ONEKV_D4(d, i), ONEKV_D4(d, i + 1)
#define ONEKV_D32(d, i) ONEKV_D8(d, i), ONEKV_D8(d, i + 2), ONEKV_D8(d, i + 4), ONEKV_D8(d, i + 6)

// D = (add ? D : 0) + A B, A and B in shared memory, both with k contiguous.
template <typename T, int N>
struct SharedProduct;
// D += A B, A in registers (as mma.sync's A, 16 rows a warp), B in shared memory, contiguous along N.
template <typename T, int N>
struct RegisterProduct;

// The accumulators in the text of a product, by their number.
#define ONEKV_SUMS_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ONEKV_SUMS_40 ONEKV_SUMS_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define ONEKV_SUMS_64 ONEKV_SUMS_40 ", %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ONEKV_SUMS_128 ONEKV_SUMS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// SUMS accumulators, and the numbers of the operands that follow them.
#define ONEKV_SHARED_PRODUCT(T, TYPE, N, SUMS, A, B, ADD, ...) \
    template <> \
    struct SharedProduct<T, N> { \
        __device__ __forceinline__ static void run(float (&d)[N / 8][4], uint64_t a, uint64_t b, int add) { \
            asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #ADD ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" ONEKV_SUMS_##SUMS "}, %" #A ", %" #B ", add, 1, 1, 0, 0;\n}" \
                         : __VA_ARGS__ \
                         : "l"(a), "l"(b), "r"(add)); \
        } \
    };
#define ONEKV_REGISTER_PRODUCT(T, TYPE, N, SUMS, A0, A1, A2, A3, B, ...) \
    template <> \
    struct RegisterProduct<T, N> { \
        __device__ __forceinline__ static void run(float (&d)[N / 8][4], const uint32_t (&a)[4], uint64_t b) { \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" ONEKV_SUMS_##SUMS "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", 1, 1, 1, 1;" \
                         : __VA_ARGS__ \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)); \
        } \
    };
#define ONEKV_PRODUCTS(T, TYPE) \
    ONEKV_SHARED_PRODUCT(T, TYPE, 64, 32, 32, 33, 34, ONEKV_D32(d, 0)) \
    ONEKV_SHARED_PRODUCT(T, TYPE, 80, 40, 40, 41, 42, ONEKV_D32(d, 0), ONEKV_D8(d, 8)) \
    ONEKV_SHARED_PRODUCT(T, TYPE, 128, 64, 64, 65, 66, ONEKV_D32(d, 0), ONEKV_D32(d, 8)) \
    ONEKV_REGISTER_PRODUCT(T, TYPE, 64, 32, 32, 33, 34, 35, 36, ONEKV_D32(d, 0)) \
    ONEKV_REGISTER_PRODUCT(T, TYPE, 128, 64, 64, 65, 66, 67, 68, ONEKV_D32(d, 0), ONEKV_D32(d, 8)) \
    ONEKV_REGISTER_PRODUCT(T, TYPE, 256, 128, 128, 129, 130, 131, 132, ONEKV_D32(d, 0), ONEKV_D32(d, 8), ONEKV_D32(d, 16), ONEKV_D32(d, 24))
ONEKV_PRODUCTS(__nv_bfloat16, "bf16")
ONEKV_PRODUCTS(__half, "f16")
