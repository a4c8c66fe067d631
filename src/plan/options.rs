//! What a caller may fix of a plan.

use super::variants::Variant;
use crate::architecture::Architecture;

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
}
