//! From a problem and a card to a launch: which kernel, which tiles, how the keys are split, what each
//! block does. Pure: no driver is touched, the same inputs give the same plan.
//!
//! All query rows that read one K/V head of one input, of every prompt, beam, token and grouped query head,
//! are folded into the rows of tiles: that is the method, in one sentence.

pub mod cost;
pub mod variants;

use cost::{Constants, estimate_split, longest};

pub use crate::architecture::Architecture;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::problem::Problem;
pub use variants::Variant;

/// What a plan needs to know of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Compute capability: major, minor.
    pub compute_capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory that a block can be given, in bytes.
    pub shared_bytes_per_block: usize,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_bytes_per_multiprocessor: usize,
    /// Threads that a multiprocessor holds at once.
    pub threads_per_multiprocessor: usize,
}

/// Wishes about a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Keys of one split, rounded up to whole K/V tiles; `None` lets the cost model choose. With this and
    /// `tile_rows` fixed an input's result has the same bits whatever else is in the batch, on every card of one
    /// [`Architecture`]; clusters change no bit.
    pub split_keys: Option<usize>,
    /// Folded rows of a tile; `None` lets the cost model choose.
    pub tile_rows: Option<usize>,
    /// Blocks of a cluster, 1 or 2; `None` lets the cost model choose.
    pub cluster: Option<usize>,
    /// Kernels to choose from; `None` takes those that the card runs best.
    pub architecture: Option<Architecture>,
}

/// One block's share: a tile of folded rows of one input and K/V head, and a range of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The input's first query row.
    pub row_base: usize,
    /// Folded rows of the input: query rows x heads per K/V head.
    pub rows: usize,
    /// First folded row of the tile. Past the input's rows in a block that only completes a cluster.
    pub tile: usize,
    /// K/V head.
    pub kv_head: usize,
    /// Positions in K and V.
    pub keys: std::ops::Range<usize>,
    /// Partial state to write; `None`: the result itself.
    pub slot: Option<usize>,
}

/// One merge of a tile's partial states, which stand one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// As in [`Work`].
    pub row_base: usize,
    /// As in [`Work`].
    pub rows: usize,
    /// As in [`Work`].
    pub tile: usize,
    /// As in [`Work`].
    pub kv_head: usize,
    /// First partial state, and how many.
    pub slots: std::ops::Range<usize>,
}

/// A problem made ready for a card.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    problem: Problem,
    variant: &'static Variant,
    split_keys: usize,
    work: Vec<Work>,
    merges: Vec<Merge>,
    slots: usize,
    why: String,
}

impl Plan {
    /// Plans `problem` on operands of type `dtype` for a card.
    ///
    /// # Errors
    /// [`Error::UnsupportedHeadDim`], [`Error::NoKernel`] where no variant fits the card or the options,
    /// [`Error::Zero`] for a split of no keys, [`Error::TooLarge`] past 2^31 rows or keys.
    pub fn new(problem: &Problem, dtype: DType, facts: &DeviceFacts, options: &PlanOptions) -> Result<Self> {
        Self::with_kv_bytes(problem, dtype, dtype.size_bytes(), facts, options)
    }

    /// Plans `problem` on Q and an output of type `dtype`, bf16 or f16, and K and V in [`e4m3`](crate::e4m3): half of the
    /// bytes that few query rows wait for. For `cuda::Launch::run_e4m3`.
    ///
    /// Tiles have 16 or 32 folded rows and serve any number of them, but each reads all of its keys: with many rows per K/V
    /// head the larger tiles of a 16-bit plan read no more.
    ///
    /// # Errors
    /// As [`Plan::new`]; only compute capability 9.0 has such kernels.
    pub fn with_e4m3_kv(
        problem: &Problem,
        dtype: DType,
        facts: &DeviceFacts,
        options: &PlanOptions,
    ) -> Result<Self> {
        Self::with_kv_bytes(problem, dtype, 1, facts, options)
    }

    /// With K and V of this many bytes per element.
    fn with_kv_bytes(
        problem: &Problem,
        dtype: DType,
        kv_bytes: usize,
        facts: &DeviceFacts,
        options: &PlanOptions,
    ) -> Result<Self> {
        if options.split_keys == Some(0) {
            return Err(Error::Zero { field: "split_keys" });
        }
        let limit = i32::MAX as usize;
        let folded = problem.total_rows().saturating_mul(problem.group());
        for (field, value) in
            [("rows x heads / kv_heads", folded), ("key positions", problem.key_positions())]
        {
            if value > limit {
                return Err(Error::TooLarge { field, value, max: limit });
            }
        }
        if !variants::HEAD_DIMS.contains(&problem.head_dim()) {
            return Err(Error::UnsupportedHeadDim {
                value: problem.head_dim(),
                allowed: &variants::HEAD_DIMS,
            });
        }
        let fits = |v: &&Variant| {
            (v.dtype, v.kv_bytes) == (dtype, kv_bytes)
                && v.head_dim == problem.head_dim()
                && v.architecture.runs_on(facts.compute_capability)
                && v.shared_bytes <= facts.shared_bytes_per_block
                && options.tile_rows.is_none_or(|rows| rows == v.tile_rows)
                && options.cluster.map_or(v.cluster == 1 || fills_clusters(problem, v), |c| c == v.cluster)
                && options.architecture.is_none_or(|architecture| architecture == v.architecture)
        };
        // Where the card has kernels of its own, the others only cost time to consider.
        let newest = variants::all().filter(fits).map(|v| v.architecture).max();
        let fits = |v: &&Variant| fits(v) && Some(v.architecture) == newest;
        let mut best: Option<(f64, &'static Variant, usize)> = None;
        for variant in variants::all().filter(fits) {
            for split_keys in splits(problem, variant, facts, options) {
                let constants = Constants::of(variant.architecture);
                let cost = estimate_split(problem, variant, facts, split_keys, constants);
                if best.is_none_or(|(least, ..)| cost < least) {
                    best = Some((cost, variant, split_keys));
                }
            }
        }
        let Some((cost, variant, split_keys)) = best else {
            return Err(Error::NoKernel {
                dtype,
                e4m3_kv: kv_bytes == 1,
                head_dim: problem.head_dim(),
                capability: facts.compute_capability,
                shared_bytes: facts.shared_bytes_per_block,
                tile_rows: options.tile_rows,
                cluster: options.cluster,
                architecture: options.architecture,
            });
        };
        let (mut work, mut merges, mut slots) = (Vec::new(), Vec::new(), 0);
        for input in problem.inputs() {
            for kv_head in 0..problem.kv_heads() {
                let rows = input.rows.len() * problem.group();
                let parts = input.keys.len().div_ceil(split_keys).max(1);
                // Blocks of a cluster stand side by side: neighbouring tiles, the same keys.
                for cluster in (0..rows).step_by(variant.cluster * variant.tile_rows) {
                    let tiles = (0..variant.cluster).map(|block| cluster + block * variant.tile_rows);
                    for part in 0..parts {
                        let begin = input.keys.start + part * split_keys;
                        let keys = begin..(begin + split_keys).min(input.keys.end);
                        for (block, tile) in tiles.clone().enumerate() {
                            let slot = (parts > 1 && tile < rows).then_some(slots + block * parts + part);
                            let keys = keys.clone();
                            work.push(Work { row_base: input.rows.start, rows, tile, kv_head, keys, slot });
                        }
                    }
                    if parts > 1 {
                        for tile in tiles.filter(|tile| *tile < rows) {
                            let of_tile = slots..slots + parts;
                            slots += parts;
                            let row_base = input.rows.start;
                            merges.push(Merge { row_base, rows, tile, kv_head, slots: of_tile });
                        }
                    }
                }
            }
        }
        // The longest first, so that the last wave is not made of one long block. The order of equals stays, and with
        // it clusters.
        work.sort_by_key(|w| std::cmp::Reverse(w.keys.len().div_ceil(variant.tile_keys)));
        for (field, value) in [("blocks", work.len()), ("partial states", slots)] {
            if value > limit {
                return Err(Error::TooLarge { field, value, max: limit });
            }
        }
        let why = format!(
            "{}: tiles of {} rows x {} keys, splits of {split_keys} keys; {} blocks, {} merges, about {} at once on \
             {} multiprocessors; relative cost {cost:.1}",
            variant.kernel(),
            variant.tile_rows,
            variant.tile_keys,
            work.len(),
            merges.len(),
            variant.resident(facts) * facts.multiprocessors,
            facts.multiprocessors,
        );
        Ok(Self { problem: problem.clone(), variant, split_keys, work, merges, slots, why })
    }

    /// The problem.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The kernel that was chosen.
    pub fn variant(&self) -> &'static Variant {
        self.variant
    }

    /// Keys of one split, whole K/V tiles.
    pub fn split_keys(&self) -> usize {
        self.split_keys
    }

    /// What each block does.
    pub fn work(&self) -> &[Work] {
        &self.work
    }

    /// What is merged afterwards; empty where no input is split.
    pub fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// Partial states `[slots, tile_rows, head_dim]`.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Elements of f32 that a run needs as workspace: partial outputs, then their LSE.
    pub fn workspace_len(&self) -> usize {
        self.slots * self.variant.tile_rows * (self.variant.head_dim + 1)
    }

    /// Bytes of that workspace.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_len() * size_of::<f32>()
    }

    /// What was chosen and why, in one line.
    pub fn explain(&self) -> &str {
        &self.why
    }
}

/// Whether some input has two row tiles or more, so that a cluster has something to share.
fn fills_clusters(problem: &Problem, variant: &Variant) -> bool {
    problem.inputs().iter().any(|input| input.rows.len() * problem.group() > variant.tile_rows)
}

/// Sizes of a split to compare: the fixed one, or those that divide the longest input evenly.
fn splits(problem: &Problem, variant: &Variant, facts: &DeviceFacts, options: &PlanOptions) -> Vec<usize> {
    if let Some(keys) = options.split_keys {
        return vec![keys.next_multiple_of(variant.tile_keys)];
    }
    let tiles = longest(problem).div_ceil(variant.tile_keys).max(1);
    // More parts than fit at once only add merges.
    let most = tiles.min(4 * facts.multiprocessors).min(128);
    let mut sizes: Vec<usize> = (1..=most).map(|parts| tiles.div_ceil(parts) * variant.tile_keys).collect();
    sizes.dedup();
    sizes
}

#[cfg(test)]
mod tests;
