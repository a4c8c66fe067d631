//! What each block does, in the order in which blocks start, and what is combined afterwards.

use std::cmp::Reverse;
use std::ops::Range;

use super::variants::Variant;
use crate::error::{Error, Result};
use crate::problem::{Input, Problem};

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
    pub keys: Range<usize>,
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
    pub states: Range<usize>,
}

/// The most blocks of a plan: its lists, which are made in whole, then take 300 MB. A larger batch is as fast in parts, each of
/// which fills a card thousands of times over.
pub(super) const MAX_BLOCKS: usize = 1 << 22;

pub(super) struct Lists {
    pub work: Vec<Work>,
    pub combines: Vec<Combine>,
    /// How many partial states there are.
    pub states: usize,
}

/// Parts of an input's keys that keep a block busy equally long: all but the last, or the last alone where it is shorter.
struct Parts<'a> {
    input: &'a Input,
    /// Folded rows, and tiles of them.
    rows: usize,
    tiles: usize,
    keys_per_part: usize,
    /// K/V tiles of the first part, which has the most.
    kv_tiles: usize,
    /// Which parts of the input these are.
    parts: Range<usize>,
    /// Partial states of a tile of rows; 1: none, its blocks write the result themselves, or join it in a cluster.
    states_per_tile: usize,
    /// The input's first partial state, where it has any.
    first_state: usize,
}

impl Lists {
    /// # Errors
    /// [`Error::TooLarge`], before memory is taken.
    pub(super) fn new(
        problem: &Problem,
        variant: &Variant,
        split_keys: usize,
        split_cluster: usize,
    ) -> Result<Self> {
        let kv_heads = problem.kv_heads();
        let mut all = Vec::with_capacity(2 * problem.inputs().len());
        let (mut blocks, mut combined, mut states) = (0usize, 0, 0usize);
        // Nobody reads the keys of an input without rows.
        for input in problem.inputs().iter().filter(|input| !input.rows.is_empty()) {
            let rows = input.rows.len() * problem.group();
            let tiles = rows.div_ceil(variant.tile_rows);
            let in_clusters = tiles.next_multiple_of(variant.cluster) * kv_heads;
            if split_cluster > 1 {
                // An input of more parts than the cluster has blocks gets longer parts.
                let evenly = input.keys.len().div_ceil(split_cluster).next_multiple_of(variant.tile_keys);
                let keys_per_part = split_keys.max(evenly);
                all.push(Parts {
                    input,
                    rows,
                    tiles,
                    keys_per_part,
                    kv_tiles: keys_per_part.min(input.keys.len()).div_ceil(variant.tile_keys),
                    parts: 0..split_cluster,
                    states_per_tile: 1,
                    first_state: states,
                });
                blocks = blocks.saturating_add(in_clusters.saturating_mul(split_cluster));
                continue;
            }
            let count = input.keys.len().div_ceil(split_keys).max(1);
            let whole = split_keys / variant.tile_keys;
            let last = (input.keys.len() - (count - 1) * split_keys).div_ceil(variant.tile_keys);
            let whole_parts = if last == whole { count } else { count - 1 };
            for (kv_tiles, parts) in [(whole, 0..whole_parts), (last, whole_parts..count)] {
                if !parts.is_empty() {
                    all.push(Parts {
                        input,
                        rows,
                        tiles,
                        keys_per_part: split_keys,
                        kv_tiles,
                        parts,
                        states_per_tile: count,
                        first_state: states,
                    });
                }
            }
            blocks = blocks.saturating_add(in_clusters.saturating_mul(count));
            if count > 1 {
                combined += tiles * kv_heads;
                states = states.saturating_add((tiles * kv_heads).saturating_mul(count));
            }
        }
        // There are no more partial states than blocks.
        if blocks > MAX_BLOCKS {
            return Err(Error::TooLarge { field: "blocks", value: blocks, max: MAX_BLOCKS });
        }
        let (mut work, mut combines) = (Vec::with_capacity(blocks), Vec::with_capacity(combined));
        for Parts { input, rows, tiles, states_per_tile, first_state, .. } in
            all.iter().filter(|parts| parts.states_per_tile > 1 && parts.parts.start == 0)
        {
            let (row_base, rows) = (input.rows.start, *rows);
            for kv_head in 0..kv_heads {
                for index in 0..*tiles {
                    let first = first_state + (kv_head * tiles + index) * states_per_tile;
                    let (tile_start, states) = (index * variant.tile_rows, first..first + states_per_tile);
                    combines.push(Combine { row_base, rows, tile_start, kv_head, states });
                }
            }
        }
        // The longest first, so that the last wave is not made of one long block. The order of equals stays.
        all.sort_by_key(|parts| Reverse(parts.kv_tiles));
        for Parts { input, rows, tiles, keys_per_part, parts, states_per_tile, first_state, .. } in all {
            for kv_head in 0..kv_heads {
                // Blocks of a cluster stand side by side: neighbouring tiles, the same keys; or all parts of a tile's keys,
                // of which there may be none for the last.
                for cluster in (0..tiles).step_by(variant.cluster) {
                    for part in parts.clone() {
                        let before = |part: usize| part.saturating_mul(keys_per_part).min(input.keys.len());
                        let keys = input.keys.start + before(part)..input.keys.start + before(part + 1);
                        for index in cluster..cluster + variant.cluster {
                            let state = (states_per_tile > 1 && index < tiles)
                                .then(|| first_state + (kv_head * tiles + index) * states_per_tile + part);
                            let tile_start = index * variant.tile_rows;
                            let keys = keys.clone();
                            let (row_base, kv_slot) = (input.rows.start, input.slot);
                            work.push(Work { row_base, rows, tile_start, kv_head, kv_slot, keys, state });
                        }
                    }
                }
            }
        }
        Ok(Self { work, combines, states })
    }
}
