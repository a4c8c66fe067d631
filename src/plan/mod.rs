//! From a problem and a card to a launch: which kernel, which tiles, how the keys are split, what each
//! block does. Pure: no driver is touched, the same inputs give the same plan.
//!
//! All query rows that read one K/V head of one input, of every prompt, beam, token and grouped query head,
//! are folded into the rows of tiles: that is the method, in one sentence.

// Public for xtask's `fit` alone, which refits the constants and takes the estimate from here: they change with every fit.
#[doc(hidden)]
pub mod cost;
mod facts;
mod lists;
mod search;
pub mod variants;

use cost::Constants;
use lists::Lists;

pub use crate::architecture::Architecture;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::problem::Problem;
use crate::span::span;
pub use facts::DeviceFacts;
pub use variants::Variant;

/// What a caller fixes of a plan; the cost model chooses the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Keys of one split, rounded up to whole K/V tiles; `None` lets the cost model choose. With this and
    /// `tile_rows` fixed an input's result has the same bits whatever else is in the batch, on every card of one
    /// [`Architecture`]; clusters change no bit.
    pub split_keys: Option<usize>,
    /// Folded rows of a tile; `None` lets the cost model choose.
    pub tile_rows: Option<usize>,
    /// Blocks of a cluster, 1 or 2; `None` lets the cost model choose.
    pub cluster: Option<usize>,
    /// Blocks of a cluster that share out the keys of a tile and join their states through each other's shared memory: 2, 4 or
    /// 8, on cards from 9.0 on and in tiles of 16 or 32 rows. 1: states of splits go through memory, and a second launch
    /// combines them. `None` takes a cluster where at most a fifth of the blocks would have no keys. It changes no bit, except
    /// where an input has more splits than the cluster has blocks: it is then split into as many as there are blocks.
    pub split_cluster: Option<usize>,
    /// Kernels to choose from; `None` takes those that the card runs best.
    pub architecture: Option<Architecture>,
}

impl PlanOptions {
    /// This kernel and no other; its splits are left to the cost model.
    pub fn of(variant: &Variant) -> Self {
        let Variant { architecture, tile_rows, cluster, .. } = *variant;
        let (tile_rows, cluster) = (Some(tile_rows), Some(cluster));
        Self { split_keys: None, tile_rows, cluster, split_cluster: None, architecture: Some(architecture) }
    }

    /// With `split_keys`.
    pub fn with_split_keys(self, keys: usize) -> Self {
        Self { split_keys: Some(keys), ..self }
    }

    /// With `tile_rows`.
    pub fn with_tile_rows(self, rows: usize) -> Self {
        Self { tile_rows: Some(rows), ..self }
    }

    /// With `cluster`.
    pub fn with_cluster(self, blocks: usize) -> Self {
        Self { cluster: Some(blocks), ..self }
    }

    /// With `split_cluster`.
    pub fn with_split_cluster(self, blocks: usize) -> Self {
        Self { split_cluster: Some(blocks), ..self }
    }

    /// With `architecture`.
    pub fn with_architecture(self, architecture: Architecture) -> Self {
        Self { architecture: Some(architecture), ..self }
    }

    /// The kernel and the split of `plan`, for [`Plan::new`] on other lengths that the same prepared launch is to run:
    /// nothing is left to choose, and the search is skipped.
    pub fn like(plan: &Plan) -> Self {
        Self::of(plan.variant).with_split_keys(plan.split_keys).with_split_cluster(plan.split_cluster)
    }
}

/// One block's share: a tile of folded rows of one input and K/V head, and a range of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Work {
    /// The input's first query row.
    pub row_base: usize,
    /// Folded rows of the input: query rows x heads per K/V head.
    pub rows: usize,
    /// First folded row of the tile. Past the input's rows in a block that only completes a cluster.
    pub tile_start: usize,
    /// K/V head.
    pub kv_head: usize,
    /// The input's slot of K and V.
    pub kv_slot: usize,
    /// Positions in that slot.
    pub keys: std::ops::Range<usize>,
    /// Number of the partial state to write; `None`: the result itself.
    pub state: Option<usize>,
}

/// One combination of a tile's partial states, which stand one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Combine {
    /// As in [`Work`].
    pub row_base: usize,
    /// As in [`Work`].
    pub rows: usize,
    /// As in [`Work`].
    pub tile_start: usize,
    /// As in [`Work`].
    pub kv_head: usize,
    /// Numbers of the partial states.
    pub states: std::ops::Range<usize>,
}

/// The most rows and keys: the kernels count them in 32 bits, and round up to tiles.
const MAX_COUNT: usize = i32::MAX as usize - 1024;
/// The most blocks of a plan: its lists, which are made in whole, then take 300 MB. A larger batch is as fast in parts, each of
/// which fills a card thousands of times over.
const MAX_BLOCKS: usize = 1 << 22;

/// A problem made ready for a card.
#[derive(Clone, PartialEq)]
pub struct Plan {
    problem: Problem,
    variant: &'static Variant,
    split_keys: usize,
    split_cluster: usize,
    work: Vec<Work>,
    combines: Vec<Combine>,
    partial_states: usize,
    facts: DeviceFacts,
}

/// As [`Plan::explain`]: the lists of work are too long to print.
impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({})", self.explain())
    }
}

impl Plan {
    /// Plans `problem` on operands of type `dtype` for a card.
    ///
    /// # Errors
    /// [`Error::UnsupportedHeadDim`], [`Error::NoKernel`] where no variant fits the card or the options,
    /// [`Error::Zero`] for a split of no keys, [`Error::TooLarge`] past 2^31 rows or keys, or 2^22 blocks.
    pub fn new(problem: &Problem, dtype: DType, facts: &DeviceFacts, options: &PlanOptions) -> Result<Self> {
        Self::with_kv_bytes(problem, dtype, dtype.size_bytes(), facts, options)
    }

    /// Plans `problem` on Q and an output of type `dtype`, bf16 or f16, and K and V in [`e4m3`](crate::e4m3): half of the
    /// bytes that few query rows wait for. For `cuda::Prepared::run_e4m3`.
    ///
    /// Tiles have 16 or 32 folded rows and serve any number of them, but each reads all of its keys: with many rows per K/V
    /// head the larger tiles of a 16-bit plan read no more.
    ///
    /// # Errors
    /// As [`Plan::new`]; cards of compute capability 9.0 and newer have such kernels.
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
        span!("plan", rows = problem.total_rows(), keys = problem.key_positions(), %dtype);
        if options.split_keys == Some(0) {
            return Err(Error::Zero { field: "split_keys" });
        }
        let folded = problem.total_rows().saturating_mul(problem.group());
        for (field, value) in
            [("rows x heads / kv_heads", folded), ("key positions", problem.kv_shape().tokens)]
        {
            if value > MAX_COUNT {
                return Err(Error::TooLarge { field, value, max: MAX_COUNT });
            }
        }
        let allowed = match kv_bytes {
            1 => &variants::E4M3_HEAD_DIMS[..],
            _ => &variants::HEAD_DIMS,
        };
        if !allowed.contains(&problem.head_dim()) {
            return Err(Error::UnsupportedHeadDim { value: problem.head_dim(), allowed });
        }
        let Some((variant, split_keys, split_cluster)) =
            search::choice(problem, dtype, kv_bytes, facts, options)
        else {
            return Err(Error::NoKernel {
                dtype,
                e4m3_kv: kv_bytes == 1,
                head_dim: problem.head_dim(),
                capability: facts.compute_capability,
                shared_bytes: facts.shared_bytes_per_block,
                tile_rows: options.tile_rows,
                cluster: options.cluster,
                split_cluster: options.split_cluster,
                architecture: options.architecture,
            });
        };
        let Lists { work, combines, states: partial_states } =
            Lists::new(problem, variant, split_keys, split_cluster)?;
        Ok(Self {
            problem: problem.clone(),
            variant,
            split_keys,
            split_cluster,
            work,
            combines,
            partial_states,
            facts: *facts,
        })
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

    /// Blocks of a cluster that share out the keys of a tile; 1: there are no such clusters.
    pub fn split_cluster(&self) -> usize {
        self.split_cluster
    }

    /// What each block does.
    pub fn work(&self) -> &[Work] {
        &self.work
    }

    /// What is combined afterwards; empty where no input is split, or clusters join the splits.
    pub fn combines(&self) -> &[Combine] {
        &self.combines
    }

    /// How many partial states a run leaves in memory, each `[tile_rows, head_dim]` and its LSE.
    pub fn partial_states(&self) -> usize {
        self.partial_states
    }

    /// Elements of f32 that a run needs as workspace: partial outputs, then their LSE.
    pub fn workspace_len(&self) -> usize {
        self.partial_states * self.variant.tile_rows * (self.variant.head_dim + 1)
    }

    /// Bytes of that workspace.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_len() * size_of::<f32>()
    }

    /// What was chosen and why, in one line.
    pub fn explain(&self) -> String {
        let Self { problem, variant, split_keys, split_cluster, facts, .. } = self;
        let constants = Constants::of(facts.compute_capability);
        format!(
            "{}: tiles of {} rows x {} keys, splits of {split_keys} keys in clusters of {split_cluster}; {} blocks, {} combines, \
             about {} at once on {} multiprocessors; relative cost {:.1}; other tiles or splits may give other bits",
            variant.kernel(),
            variant.tile_rows,
            variant.tile_keys,
            self.work.len(),
            self.combines.len(),
            variant.resident(facts).saturating_mul(facts.multiprocessors),
            facts.multiprocessors,
            cost::estimate(problem, variant, (*split_keys, *split_cluster), facts, constants),
        )
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
