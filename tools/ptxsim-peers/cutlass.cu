// A CUTLASS GEMM, D = A B^T + C / 2, of the shape that macros choose. As PTX it is the kernel; as a program it prints how the
// kernel is launched on operands at given addresses: grid, block, shared memory and parameters, made by CUTLASS.
#include <cstdio>
#include <cstdlib>
#include <cuda.h>
#include <cute/tensor.hpp>
#include <cutlass/cutlass.h>
#include <cutlass/device_kernel.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/thread/linear_combination.h>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

using cute::_1, cute::_64, cute::Int, cute::Shape;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;

#ifdef HOPPER
using GemmTile = Shape<Int<TILE_M>, Int<TILE_N>, _64>;
using GemmCluster = Shape<Int<CLUSTER_M>, Int<CLUSTER_N>, _1>;
using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, GemmTile, GemmCluster, cutlass::epilogue::collective::EpilogueTileAuto, float, float,
    float, Row, 4, float, Row, 4, cutlass::epilogue::EPILOGUE>::CollectiveOp;
using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, ELEMENT, Row, 16 / sizeof(ELEMENT), ELEMENT, Column, 16 / sizeof(ELEMENT), float,
    GemmTile, GemmCluster, cutlass::gemm::collective::StageCountAutoCarveout<sizeof(typename Epilogue::SharedStorage)>,
    cutlass::gemm::SCHEDULE>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue>;
template __global__ void cutlass::device_kernel<Kernel>(CUTLASS_GRID_CONSTANT typename Kernel::Params const);
#else
using Gemm = cutlass::gemm::device::GemmUniversal<
    ELEMENT, Row, ELEMENT, Column, float, Row, float, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80,
    cutlass::gemm::GemmShape<TILE_M, TILE_N, 32>, cutlass::gemm::GemmShape<TILE_M / 2, TILE_N / 2, 32>, cutlass::gemm::GemmShape<16, 8, 16>,
    cutlass::epilogue::thread::LinearCombination<float, 4, float, float>, cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>,
    STAGES>;
using Kernel = Gemm::GemmKernel;
template __global__ void cutlass::Kernel2<Kernel>(Kernel::Params);
#endif

static void print(dim3 grid, dim3 block, size_t shared, const void* params, size_t bytes) {
    printf("%u %u %u %u %zu ", grid.x, grid.y, grid.z, block.x, shared);
    for (size_t i = 0; i < bytes; i++) printf("%02x", static_cast<const unsigned char*>(params)[i]);
}

int main(int count, char** words) {
    // Tensor maps are made by the driver.
    if (count != 8 || cuInit(0)) return 1;
    int m = atoi(words[1]), n = atoi(words[2]), k = atoi(words[3]);
    void* at[4];
    for (int i = 0; i < 4; i++) at[i] = reinterpret_cast<void*>(strtoull(words[4 + i], nullptr, 0));
#ifdef HOPPER
    using namespace cutlass;
    auto stride_a = make_cute_packed_stride(typename Kernel::StrideA{}, {m, k, 1});
    auto stride_b = make_cute_packed_stride(typename Kernel::StrideB{}, {n, k, 1});
    auto stride_d = make_cute_packed_stride(typename Kernel::StrideD{}, {m, n, 1});
    auto a = static_cast<ELEMENT*>(at[0]), b = static_cast<ELEMENT*>(at[1]);
    auto c = static_cast<float*>(at[2]), d = static_cast<float*>(at[3]);
    KernelHardwareInfo hardware;
    hardware.sm_count = 4;
    typename Kernel::Arguments arguments{
        gemm::GemmUniversalMode::kGemm, {m, n, k, 1}, {a, stride_a, b, stride_b}, {{1.f, 0.5f}, c, stride_d, d, stride_d}, hardware};
    auto params = Kernel::to_underlying_arguments(arguments, nullptr);
    print(Kernel::get_grid_shape(params), Kernel::get_block_shape(), Kernel::SharedStorageSize, &params, sizeof(params));
#else
    typename Gemm::Arguments arguments(cutlass::gemm::GemmUniversalMode::kGemm, {m, n, k}, 1, {1.f, 0.5f}, at[0], at[1], at[2], at[3],
                                       m * k, n * k, m * n, m * n, k, k, n, n);
    typename Kernel::Params params(arguments, 4, 1);
    print(params.get_grid_dims(), dim3(Kernel::kThreadCount), sizeof(typename Kernel::SharedStorage), &params, sizeof(params));
#endif
}
