//! The kernels there are, as one table. xtask's `bindings` writes it into cuda/attention/variants.h, which kernels are
//! compiled from and checked against.

use super::facts::DeviceFacts;
use crate::architecture::Architecture;
use crate::dtype::DType;

/// The most rows and keys: the kernels count them in 32 bits, and round up to tiles.
pub(super) const MAX_COUNT: usize = i32::MAX as usize - 1024;

/// A compiled kernel: what it computes with, and what it needs of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Variant {
    /// What it is compiled for.
    pub architecture: Architecture,
    /// Element type of Q and the output.
    pub dtype: DType,
    /// Bytes of an element of K and V: those of `dtype`, or 1 where K and V are e4m3.
    pub kv_bytes: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Folded query rows of a block's tile.
    pub tile_rows: usize,
    /// Blocks of a cluster: they have neighbouring tiles of rows, and read K and V once between them. 1: no cluster.
    pub cluster: usize,
    /// Keys of one K/V tile.
    pub tile_keys: usize,
    /// Groups of warps that share out the keys; the outputs of more than one meet at the end.
    pub key_warps: usize,
    /// Threads of a block.
    pub threads: usize,
    /// K/V tiles in flight.
    pub stages: usize,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: usize,
    /// Blocks of a multiprocessor that registers suffice for: the kernel's launch bounds. cuda/codegen.md is checked for it.
    pub blocks: usize,
    /// Whether whole warpgroups multiply (`wgmma`); else warps do (`mma.sync`), or there are no tensor cores (f32).
    pub warpgroups: bool,
}

const fn largest(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Shared memory in which warps that shared out the keys join their outputs, in bytes: as in cuda/attention/join.cuh.
const fn join_bytes(head_dim: usize, tile_rows: usize, key_warps: usize, kv_bytes: usize) -> usize {
    key_warps * tile_rows * (head_dim + 16 / kv_bytes) * 4 + 2 * key_warps * tile_rows * 4
}

/// A 16-bit kernel on tensor cores: `row_warps` warps of 16 rows, `key_warps` groups of them. As `TileShape` in
/// cuda/attention/tile.cuh.
const fn tensor(
    dtype: DType,
    head_dim: usize,
    row_warps: usize,
    key_warps: usize,
    tile_keys: usize,
    stages: usize,
    blocks: usize,
) -> Variant {
    let tile_rows = 16 * row_warps;
    let in_loop = tile_rows * head_dim * 2 + 2 * stages * tile_keys * head_dim * 2;
    Variant {
        architecture: Architecture::Sm80,
        dtype,
        kv_bytes: 2,
        head_dim,
        tile_rows,
        cluster: 1,
        tile_keys,
        key_warps,
        threads: 32 * row_warps * key_warps,
        stages,
        shared_bytes: largest(in_loop, join_bytes(head_dim, tile_rows, key_warps, 2)),
        blocks,
        warpgroups: false,
    }
}

/// Blocks that fit the shared memory of a multiprocessor of the architecture's smallest card; registers suffice for as many.
const fn blocks_in_shared(architecture: Architecture, shared_bytes: usize) -> usize {
    let of_multiprocessor = match architecture {
        Architecture::Sm120 => 100 << 10,
        _ => 228 << 10,
    };
    of_multiprocessor / (shared_bytes + 1024)
}

/// Few rows from 9.0 on: four warps, of which `row_warps` share a K/V tile, each with `row_tiles` times 16 rows, and a ring of
/// `ring` tiles for every such team. As `StreamShape` in cuda/sm90/stream.cuh.
const fn stream(
    (architecture, dtype, kv_bytes): (Architecture, DType, usize),
    head_dim: usize,
    row_warps: usize,
    row_tiles: usize,
    tile_keys: usize,
    ring: usize,
) -> Variant {
    let (tile_rows, key_warps) = (16 * row_warps * row_tiles, 4 / row_warps);
    let exchanged = if kv_bytes == 1 && row_warps == 2 { 4 * (tile_keys / 8 * 512) } else { 0 };
    let in_loop =
        2 * key_warps * ring * tile_keys * head_dim * kv_bytes + tile_rows * head_dim * 2 + exchanged;
    let joined = join_bytes(head_dim, tile_rows, key_warps, kv_bytes);
    let shared_bytes = largest(in_loop, joined).next_multiple_of(128)
        + (key_warps * ring + 1) * 8
        + if kv_bytes == 1 { 4 * tile_rows } else { 0 };
    Variant {
        architecture,
        dtype,
        kv_bytes,
        head_dim,
        tile_rows,
        cluster: 1,
        tile_keys,
        key_warps,
        threads: 128,
        stages: key_warps * ring,
        shared_bytes,
        blocks: blocks_in_shared(architecture, shared_bytes),
        warpgroups: false,
    }
}

/// Tiles of Q that a block of warpgroups has room for. With two, the next entry's Q is fetched beside the products of the one
/// before it. As `Q_BUFFERS` in cuda/sm90a/warpgroups.cuh.
#[doc(hidden)]
pub const fn q_buffers(tile_rows: usize, head_dim: usize) -> usize {
    if tile_rows >= 128 && head_dim <= 128 { 2 } else { 1 }
}

/// Many rows on Hopper: `groups` consumer warpgroups of 64 rows and a producer. As `WarpgroupShape` in
/// cuda/sm90a/warpgroups.cuh.
const fn warpgroups(
    dtype: DType,
    head_dim: usize,
    groups: usize,
    tile_keys: usize,
    stages: usize,
) -> Variant {
    let q_bytes = 64 * groups * head_dim * 2 * q_buffers(64 * groups, head_dim);
    let shared_bytes = 2 * stages * tile_keys * head_dim * 2 + q_bytes + 4 * stages * 8;
    Variant {
        architecture: Architecture::Sm90a,
        dtype,
        kv_bytes: 2,
        head_dim,
        tile_rows: 64 * groups,
        cluster: 1,
        tile_keys,
        key_warps: 1,
        threads: 128 + 128 * groups,
        stages,
        shared_bytes,
        blocks: blocks_in_shared(Architecture::Sm90a, shared_bytes),
        warpgroups: true,
    }
}

/// [`warpgroups`] in clusters of two, which read K and V once between them. That pays at 128 rows: alone they would draw 32
/// bytes a clock from L2 at the tensor cores' full rate, and a multiprocessor gets about 24. 192 rows draw 21, and two blocks
/// of 64 rows are one of 128.
const fn pairs(dtype: DType, head_dim: usize, groups: usize, tile_keys: usize, stages: usize) -> Variant {
    Variant { cluster: 2, ..warpgroups(dtype, head_dim, groups, tile_keys, stages) }
}

/// An f32 kernel on plain FMA.
const fn plain(head_dim: usize, blocks: usize) -> Variant {
    Variant {
        architecture: Architecture::Sm80,
        dtype: DType::F32,
        kv_bytes: 4,
        head_dim,
        tile_rows: 16,
        cluster: 1,
        tile_keys: 32,
        key_warps: 1,
        threads: 128,
        stages: 1,
        shared_bytes: (32 * (head_dim + 4) + 16 * head_dim) * 4,
        blocks,
        warpgroups: false,
    }
}

const fn of_type(dtype: DType) -> [Variant; 41] {
    use Architecture::{Sm90, Sm120};
    [
        tensor(dtype, 32, 1, 4, 64, 4, 4),
        tensor(dtype, 32, 2, 2, 64, 4, 4),
        tensor(dtype, 32, 4, 1, 64, 4, 3),
        tensor(dtype, 32, 8, 1, 32, 4, 2),
        tensor(dtype, 64, 1, 4, 64, 3, 4),
        tensor(dtype, 64, 2, 2, 64, 3, 3),
        tensor(dtype, 64, 4, 1, 64, 3, 3),
        tensor(dtype, 64, 8, 1, 32, 4, 2),
        tensor(dtype, 96, 1, 4, 64, 2, 3),
        tensor(dtype, 96, 2, 2, 64, 2, 3),
        tensor(dtype, 96, 4, 1, 64, 2, 2),
        tensor(dtype, 96, 8, 1, 32, 3, 1),
        tensor(dtype, 128, 1, 4, 64, 2, 3),
        tensor(dtype, 128, 2, 2, 64, 2, 2),
        tensor(dtype, 128, 4, 1, 64, 2, 2),
        tensor(dtype, 128, 8, 1, 32, 2, 1),
        tensor(dtype, 256, 1, 2, 32, 2, 3),
        tensor(dtype, 256, 2, 2, 32, 2, 2),
        tensor(dtype, 256, 4, 1, 16, 4, 2),
        stream((Sm90, dtype, 2), 64, 1, 1, 32, 2),
        stream((Sm90, dtype, 2), 64, 1, 2, 32, 3),
        stream((Sm90, dtype, 2), 128, 1, 1, 16, 3),
        stream((Sm90, dtype, 2), 128, 1, 2, 16, 3),
        stream((Sm90, dtype, 2), 256, 1, 1, 16, 3),
        stream((Sm90, dtype, 2), 256, 2, 1, 16, 6),
        warpgroups(dtype, 64, 1, 128, 3),
        warpgroups(dtype, 64, 2, 128, 4),
        pairs(dtype, 64, 2, 128, 4),
        warpgroups(dtype, 64, 3, 128, 4),
        warpgroups(dtype, 128, 1, 64, 3),
        warpgroups(dtype, 128, 2, 128, 2),
        pairs(dtype, 128, 2, 128, 2),
        warpgroups(dtype, 256, 1, 64, 2),
        warpgroups(dtype, 256, 2, 80, 2),
        pairs(dtype, 256, 2, 80, 2),
        stream((Sm120, dtype, 2), 64, 1, 1, 32, 2),
        stream((Sm120, dtype, 2), 64, 1, 2, 32, 2),
        stream((Sm120, dtype, 2), 128, 1, 1, 16, 2),
        stream((Sm120, dtype, 2), 128, 1, 2, 16, 2),
        stream((Sm120, dtype, 2), 256, 1, 1, 16, 1),
        stream((Sm120, dtype, 2), 256, 2, 1, 16, 2),
    ]
}

/// K and V in e4m3, Q and the output of `dtype`.
const fn of_e4m3(dtype: DType, architecture: Architecture) -> [Variant; 6] {
    match architecture {
        Architecture::Sm120 => [
            stream((architecture, dtype, 1), 64, 1, 1, 64, 2),
            stream((architecture, dtype, 1), 64, 1, 2, 64, 2),
            stream((architecture, dtype, 1), 128, 1, 1, 32, 2),
            stream((architecture, dtype, 1), 128, 2, 1, 64, 2),
            stream((architecture, dtype, 1), 256, 1, 1, 32, 1),
            stream((architecture, dtype, 1), 256, 2, 1, 32, 2),
        ],
        _ => [
            stream((architecture, dtype, 1), 64, 1, 1, 64, 2),
            stream((architecture, dtype, 1), 64, 1, 2, 64, 3),
            stream((architecture, dtype, 1), 128, 1, 1, 32, 3),
            stream((architecture, dtype, 1), 128, 1, 2, 32, 3),
            stream((architecture, dtype, 1), 256, 1, 1, 32, 3),
            stream((architecture, dtype, 1), 256, 2, 1, 32, 6),
        ],
    }
}

const BF16: [Variant; 41] = of_type(DType::Bf16);
const F16: [Variant; 41] = of_type(DType::F16);
const E4M3: [[Variant; 6]; 4] = [
    of_e4m3(DType::Bf16, Architecture::Sm90),
    of_e4m3(DType::F16, Architecture::Sm90),
    of_e4m3(DType::Bf16, Architecture::Sm120),
    of_e4m3(DType::F16, Architecture::Sm120),
];
const F32: [Variant; 5] = [plain(32, 5), plain(64, 5), plain(96, 5), plain(128, 5), plain(256, 4)];

/// Head dimensions that kernels exist for. Any other, padded with zeros to the next one, gives the same result.
pub const HEAD_DIMS: [usize; 5] = [32, 64, 96, 128, 256];

/// Head dimensions of the kernels for K and V in e4m3. The 16-bit kernels made for 9.0 and newer have the same ones; with any
/// other head dimension every card runs the kernels for 8.0.
pub const E4M3_HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Every variant, by type and architecture, smallest tile first within a head_dim.
pub fn all() -> impl Iterator<Item = &'static Variant> {
    BF16.iter().chain(&F16).chain(&F32).chain(E4M3.as_flattened())
}

impl Variant {
    /// Whether K and V are e4m3 with a scale per head, whatever Q is.
    pub fn e4m3_kv(&self) -> bool {
        self.kv_bytes == 1
    }

    /// Whether a card runs it.
    pub fn fits(&self, facts: &DeviceFacts) -> bool {
        self.architecture.runs_on(facts.compute_capability)
            && self.shared_bytes <= facts.shared_bytes_per_block
    }

    /// Sizes of clusters whose blocks can share out the keys of a tile: [`PlanOptions::split_cluster`]. `[1]`: none can.
    ///
    /// [`PlanOptions::split_cluster`]: super::PlanOptions::split_cluster
    pub fn split_clusters(&self) -> &'static [usize] {
        match self.architecture.has_copy_engine() && !self.warpgroups {
            true => &[1, 2, 4, 8],
            false => &[1],
        }
    }

    /// Whether it does what `older` does, for a newer architecture: a plan never chooses `older` where both fit.
    pub fn supersedes(&self, older: &Variant) -> bool {
        let does = |v: &Variant| (v.dtype, v.kv_bytes, v.head_dim, v.tile_rows);
        does(self) == does(older) && self.architecture > older.architecture
    }

    /// Blocks that a multiprocessor of a card holds at once.
    pub fn resident(&self, facts: &DeviceFacts) -> usize {
        // The hardware keeps 1 KiB of shared memory per block for itself.
        let by_shared = facts.shared_bytes_per_multiprocessor / (self.shared_bytes + 1024);
        by_shared.min(facts.threads_per_multiprocessor / self.threads).min(self.blocks).max(1)
    }

    /// Blocks of a launch over so many entries of work; both come in whole clusters. Blocks of warpgroups are persistent: no
    /// more are launched than the card holds at once, and each goes on to further entries.
    #[cfg(feature = "cuda")]
    pub(crate) fn blocks_for(&self, entries: usize, facts: &DeviceFacts) -> usize {
        let at_once =
            self.resident(facts).saturating_mul(facts.multiprocessors) / self.cluster * self.cluster;
        if self.warpgroups { entries.min(at_once.max(self.cluster)) } else { entries }
    }

    /// Name of the kernel: `onekv_<dtype>_<head_dim>_<tile rows>`, with the architecture after `onekv_` but for the first
    /// (`sm90_`), `e4m3_` after the dtype where K and V are, and `x2` at the end for clusters of two.
    pub fn kernel(&self) -> String {
        let kv = if self.e4m3_kv() { "e4m3_" } else { "" };
        let cluster = if self.cluster > 1 { format!("x{}", self.cluster) } else { String::new() };
        let prefix = prefix(self.architecture);
        format!("onekv_{prefix}{}_{kv}{}_{}{cluster}", self.dtype, self.head_dim, self.tile_rows)
    }

    /// Source that the kernel is compiled from: its folder and stem under `cuda/`, joined by `_`.
    pub fn module(&self) -> String {
        let prefix = prefix(self.architecture);
        match self.e4m3_kv() {
            true => format!("{prefix}attention_e4m3"),
            false => format!("{prefix}attention_{}", self.dtype),
        }
    }

    /// Source and name of the kernel that combines its partial states.
    pub fn combine(&self) -> (String, String) {
        // sm120/combine.cu compiles that of sm90/ again, for its own cards, under the same name.
        let (module, kernel) = match self.architecture {
            Architecture::Sm80 => ("", ""),
            Architecture::Sm90 | Architecture::Sm90a => ("sm90_", "sm90_"),
            Architecture::Sm120 => ("sm120_", "sm90_"),
        };
        (format!("{module}combine"), format!("onekv_{kernel}combine_{}_{}", self.dtype, self.head_dim))
    }
}

fn prefix(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Sm80 => "",
        Architecture::Sm90 => "sm90_",
        Architecture::Sm90a => "sm90a_",
        Architecture::Sm120 => "sm120_",
    }
}
