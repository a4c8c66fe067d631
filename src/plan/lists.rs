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
    pub tile: usize,
    /// K/V head.
    pub kv_head: usize,
    /// The input's slot of K and V.
    pub kv_slot: usize,
    /// Positions in that slot.
    pub keys: Range<usize>,
    /// Partial state to write; `None`: the result itself.
    pub slot: Option<usize>,
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
    pub tile: usize,
    /// As in [`Work`].
    pub kv_head: usize,
    /// First partial state, and how many.
    pub slots: Range<usize>,
}

/// The most blocks of a plan, whose lists are made in whole: 300 MB of them. A batch of more is as fast in parts, each of which
/// fills a card thousands of times over.
pub(super) const MOST_BLOCKS: usize = 1 << 22;

pub(super) struct Lists {
    pub work: Vec<Work>,
    pub combines: Vec<Combine>,
    /// Partial states.
    pub slots: usize,
}

/// Parts of an input's keys that take their blocks equally long.
struct Parts<'a> {
    input: &'a Input,
    /// Folded rows, and tiles of them.
    rows: usize,
    tiles: usize,
    /// Keys of a part, and K/V tiles of the first.
    keys: usize,
    length: usize,
    /// Which parts, and into how many states of its own a tile falls.
    parts: Range<usize>,
    of: usize,
    /// The input's first partial state, where there is more than one part.
    first_slot: usize,
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
        let (mut blocks, mut combined, mut slots) = (0usize, 0, 0usize);
        // Nobody reads the keys of an input without rows.
        for input in problem.inputs().iter().filter(|input| !input.rows.is_empty()) {
            let rows = input.rows.len() * problem.group();
            let tiles = rows.div_ceil(variant.tile_rows);
            let in_clusters = tiles.next_multiple_of(variant.cluster) * kv_heads;
            if split_cluster > 1 {
                // Of parts that come to more, each is longer.
                let evenly = input.keys.len().div_ceil(split_cluster).next_multiple_of(variant.tile_keys);
                let keys = split_keys.max(evenly);
                let (parts, length) =
                    (0..split_cluster, keys.min(input.keys.len()).div_ceil(variant.tile_keys));
                all.push(Parts { input, rows, tiles, keys, length, parts, of: 1, first_slot: slots });
                blocks = blocks.saturating_add(in_clusters.saturating_mul(split_cluster));
                continue;
            }
            let of = input.keys.len().div_ceil(split_keys).max(1);
            let longest = split_keys / variant.tile_keys;
            let last = (input.keys.len() - (of - 1) * split_keys).div_ceil(variant.tile_keys);
            let long = if last == longest { of } else { of - 1 };
            for (length, parts) in [(longest, 0..long), (last, long..of)] {
                if !parts.is_empty() {
                    let keys = split_keys;
                    all.push(Parts { input, rows, tiles, keys, length, parts, of, first_slot: slots });
                }
            }
            blocks = blocks.saturating_add(in_clusters.saturating_mul(of));
            if of > 1 {
                combined += tiles * kv_heads;
                slots = slots.saturating_add((tiles * kv_heads).saturating_mul(of));
            }
        }
        // No fewer than partial states.
        if blocks > MOST_BLOCKS {
            return Err(Error::TooLarge { field: "blocks", value: blocks, max: MOST_BLOCKS });
        }
        let (mut work, mut combines) = (Vec::with_capacity(blocks), Vec::with_capacity(combined));
        for Parts { input, rows, tiles, of, first_slot, .. } in
            all.iter().filter(|parts| parts.of > 1 && parts.parts.start == 0)
        {
            let (row_base, rows) = (input.rows.start, *rows);
            for kv_head in 0..kv_heads {
                for index in 0..*tiles {
                    let first = first_slot + (kv_head * tiles + index) * of;
                    let tile = index * variant.tile_rows;
                    combines.push(Combine { row_base, rows, tile, kv_head, slots: first..first + of });
                }
            }
        }
        // The longest first, so that the last wave is not made of one long block. The order of equals stays.
        all.sort_by_key(|parts| Reverse(parts.length));
        for Parts { input, rows, tiles, keys: of_part, parts, of, first_slot, .. } in all {
            for kv_head in 0..kv_heads {
                // Blocks of a cluster stand side by side: neighbouring tiles, the same keys; or all parts of a tile's keys,
                // of which there may be none for the last.
                for cluster in (0..tiles).step_by(variant.cluster) {
                    for part in parts.clone() {
                        let keys_of = |parts: usize| parts.saturating_mul(of_part).min(input.keys.len());
                        let keys = input.keys.start + keys_of(part)..input.keys.start + keys_of(part + 1);
                        for index in cluster..cluster + variant.cluster {
                            let slot = (of > 1 && index < tiles)
                                .then(|| first_slot + (kv_head * tiles + index) * of + part);
                            let tile = index * variant.tile_rows;
                            let keys = keys.clone();
                            let (row_base, kv_slot) = (input.rows.start, input.slot);
                            work.push(Work { row_base, rows, tile, kv_head, kv_slot, keys, slot });
                        }
                    }
                }
            }
        }
        Ok(Self { work, combines, slots })
    }
}
