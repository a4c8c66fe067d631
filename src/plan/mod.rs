//! From a problem and a card to a launch: which kernel, which tiles, how the keys are split, what each
//! block does. Pure: no driver is touched, the same inputs give the same plan.
//!
//! All query rows that read one K/V head of one input, of every prompt, beam, token and grouped query head,
//! are folded into the rows of tiles: that is the method, in one sentence.

// Public for tools/model's `fit` alone, which refits the constants and takes the estimate from here: they change with every fit.
#[doc(hidden)]
pub mod cost;
mod facts;
mod lists;
mod options;
mod search;
pub mod variants;

use cost::Constants;
use lists::Lists;
use variants::MAX_COUNT;

pub use crate::architecture::Architecture;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::problem::Problem;
use crate::span::span;
pub use facts::DeviceFacts;
pub use lists::{Combine, Work};
pub use options::PlanOptions;
pub use variants::Variant;

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

impl PlanOptions {
    /// The kernel and the split of `plan`, for [`Plan::new`] on other lengths that the same prepared launch is to run:
    /// nothing is left to choose, and the search is skipped.
    pub fn like(plan: &Plan) -> Self {
        Self::of(plan.variant).with_split_keys(plan.split_keys).with_split_cluster(plan.split_cluster)
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
