//! The kernels there are, as one table. `cuda/attention/kernels.cuh` instantiates the same.

use crate::dtype::DType;

/// A compiled kernel: what it computes with, and what it needs of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// Element type of Q, K, V and the output.
    pub dtype: DType,
    /// Elements per head.
    pub head_dim: usize,
    /// Folded query rows of a block's tile.
    pub tile_rows: usize,
    /// Keys of one K/V tile.
    pub tile_keys: usize,
    /// Threads of a block.
    pub threads: usize,
    /// K/V tiles in flight.
    pub stages: usize,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: usize,
    /// The least compute capability, times ten.
    pub least_capability: u32,
}

/// A 16-bit kernel on tensor cores: `row_warps` warps of 16 rows, `key_warps` groups of them.
const fn tensor(
    dtype: DType,
    head_dim: usize,
    row_warps: usize,
    key_warps: usize,
    tile_keys: usize,
    stages: usize,
) -> Variant {
    let tile_rows = 16 * row_warps;
    // As `TileShape` in cuda/attention/tile.cuh: the tiles of the loop, or the outputs that meet after it.
    let in_loop = tile_rows * head_dim * 2 + 2 * stages * tile_keys * head_dim * 2;
    let after = key_warps * tile_rows * (head_dim + 8) * 4 + 2 * key_warps * tile_rows * 4;
    let shared_bytes = if in_loop > after { in_loop } else { after };
    let threads = 32 * row_warps * key_warps;
    Variant { dtype, head_dim, tile_rows, tile_keys, threads, stages, shared_bytes, least_capability: 80 }
}

/// An f32 kernel on plain FMA.
const fn plain(head_dim: usize) -> Variant {
    Variant {
        dtype: DType::F32,
        head_dim,
        tile_rows: 16,
        tile_keys: 32,
        threads: 128,
        stages: 1,
        shared_bytes: (32 * (head_dim + 4) + 16 * head_dim) * 4,
        least_capability: 80,
    }
}

const fn of_type(dtype: DType) -> [Variant; 11] {
    [
        tensor(dtype, 64, 1, 4, 64, 3),
        tensor(dtype, 64, 2, 2, 64, 3),
        tensor(dtype, 64, 4, 1, 64, 3),
        tensor(dtype, 64, 8, 1, 32, 4),
        tensor(dtype, 128, 1, 4, 64, 2),
        tensor(dtype, 128, 2, 2, 64, 2),
        tensor(dtype, 128, 4, 1, 64, 2),
        tensor(dtype, 128, 8, 1, 32, 2),
        tensor(dtype, 256, 1, 2, 32, 2),
        tensor(dtype, 256, 2, 2, 32, 2),
        tensor(dtype, 256, 4, 1, 16, 4),
    ]
}

const BF16: [Variant; 11] = of_type(DType::Bf16);
const F16: [Variant; 11] = of_type(DType::F16);
const F32: [Variant; 3] = [plain(64), plain(128), plain(256)];

/// Head dimensions that kernels exist for.
pub const HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Every variant, smallest tile first within a type and head_dim.
pub fn all() -> impl Iterator<Item = &'static Variant> {
    BF16.iter().chain(&F16).chain(&F32)
}

impl Variant {
    /// Name of the kernel: `onekv_<dtype>_<head_dim>_<tile rows>`.
    pub fn kernel(&self) -> String {
        format!("onekv_{}_{}_{}", self.dtype, self.head_dim, self.tile_rows)
    }

    /// Source that the kernel is compiled from, without its extension.
    pub fn module(&self) -> String {
        format!("attention_{}", self.dtype)
    }

    /// Name of the kernel that merges its partial states.
    pub fn combine_kernel(&self) -> String {
        format!("onekv_combine_{}_{}", self.dtype, self.head_dim)
    }
}
