//! The CPU backend: fused attention with online softmax; no `rows x keys` matrix in memory.
//!
//! The picture, for one K/V head (query rows of the whole group folded together) and a block of rows:
//!
//! ```text
//!                rows, a lane each -> registers
//!                  +------------------+
//!                  | Q^T              | head_dim          transposed once per block
//!                  +------------------+
//!   +-----------+  +------------------+
//!   | K, element|  | S^T = K Q^T      | 64 keys           elements of K are broadcast to the lanes of every row
//!   +-----------+  +------------------+
//!                  | max, exp2, sum   |
//!                  +------------------+
//!   +-----------+  +------------------+
//!   | P, element|  | O += P V         | rows              elements of P are broadcast, V is read as it lies
//!   +-----------+  +------------------+ head_dim -> registers
//! ```
//!
//! Where an input's rows would leave many lanes empty, each has four: four elements of K are broadcast at once, four keys stand
//! side by side in a row's lanes, and four sums are added up at the end. One or two rows have whole registers of their own, as
//! many keys side by side as there are lanes, and K is read as it lies; so have a few more where K and V are of 16 bits, which
//! are then widened in those registers (`widen.rs`). K and V are never transposed.
//!
//! Each K/V tile of 64 keys is read once and serves every query row while it is in the cache (`block.rs`). Work is split over
//! (input, K/V head, row tile), and over keys where that leaves threads without work; the parts are then joined by their LSE
//! ([`merge_states`]). Up to four rows read little else than K and V: there a task reads several heads, in the order of memory.

mod block;
mod math;
mod merge;
mod state;
mod tile;
mod widen;

use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};
use half::{bf16, f16};
use pulp::Arch;
use rayon::prelude::*;

use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::problem::{Input, Problem};
use crate::span::span;
use crate::view::{SharedKv, View};
pub use merge::merge_states;
use state::{RowState, Target, targets};
use tile::{HeadOf, KeyTiles, TILE_KEYS};

/// Query rows (group folded in) per task: bounds the f32 state that has to stay in the L2 cache.
const TILE_ROWS: usize = 256;
/// Query rows (group folded in) up to which a task reads several heads.
const FEW_ROWS: usize = 4;
/// Fewest tiles worth a split of its own.
const MIN_SPLIT_TILES: usize = 2;

/// Shared cross-attention on the CPU, on the threads of the current rayon pool.
///
/// Shapes: `q`, `out` [`Problem::query_shape`], `k`, `v` [`Problem::kv_shape`], `lse` [`Problem::lse_shape`] (f32, natural log).
/// dtypes: f32, f16, bf16; arithmetic and partial results are f32, rounded once at the end.
/// The formula is [`Problem`]'s; the online softmax follows Milakov and Gimelshein
/// (arXiv 1805.02867).
///
/// # Errors
/// What [`Problem::check`] refuses; nothing is written then.
pub fn attend<E: Element>(
    problem: &Problem,
    q: View<&[E]>,
    kv: SharedKv<&[E]>,
    out: View<&mut [E]>,
    lse: Option<View<&mut [f32]>>,
) -> Result<()> {
    match E::DTYPE {
        DType::F32 => attend_by(OF_F32, problem, q, kv, out, lse),
        DType::F16 => attend_by(OF_F16, problem, q, kv, out, lse),
        DType::Bf16 => attend_by(OF_BF16, problem, q, kv, out, lse),
    }
}

/// [`attend_split`] of one type.
type AttendSplit<E> = fn(
    &Problem,
    View<&[E]>,
    SharedKv<&[E]>,
    View<&mut [E]>,
    Option<View<&mut [f32]>>,
    usize,
    &dyn Fn(usize, usize) -> usize,
) -> Result<()>;

// Of each type it is compiled once, here: called by its generic name, every crate that calls `attend` would compile it again, for
// registers of all machines, which takes ten seconds and more.
static OF_F32: AttendSplit<f32> = attend_split;
static OF_F16: AttendSplit<f16> = attend_split;
static OF_BF16: AttendSplit<bf16> = attend_split;

/// Operands of type `E`, which is `T` by another name.
fn attend_by<T: Element, E: Element>(
    split: AttendSplit<T>,
    problem: &Problem,
    q: View<&[E]>,
    kv: SharedKv<&[E]>,
    out: View<&mut [E]>,
    lse: Option<View<&mut [f32]>>,
) -> Result<()> {
    let threads = rayon::current_num_threads();
    let kv = SharedKv { k: kv.k.map(cast_slice), v: kv.v.map(cast_slice) };
    let (q, out) = (q.map(cast_slice), out.map(cast_slice_mut));
    split(problem, q, kv, out, lse, threads, &|tasks, tiles| auto_splits(threads, tasks, tiles))
}

/// [`attend`] with the number of key splits per task chosen by `splits(tasks, key_tiles)`.
fn attend_split<E: Element>(
    problem: &Problem,
    q: View<&[E]>,
    kv: SharedKv<&[E]>,
    out: View<&mut [E]>,
    lse: Option<View<&mut [f32]>>,
    threads: usize,
    splits: &dyn Fn(usize, usize) -> usize,
) -> Result<()> {
    span!("attend on the CPU", rows = problem.total_rows(), keys = problem.key_positions(), dtype = %E::DTYPE);
    problem.check(&q, &kv, &out, lse.as_ref())?;
    let tiles = row_tiles(problem, threads);
    let mut targets = targets(out, lse);
    let (mut tasks, mut shared) = (Vec::new(), Vec::new());
    for tile in &tiles {
        let places = tile.rows_and_heads(problem).map(|(row, head)| row * problem.heads() + head);
        let of_tile = places.filter_map(|place| targets[place].take()).collect();
        let (keys, key_tiles) = (&tile.input.keys, tile.input.keys.len().div_ceil(TILE_KEYS));
        let splits = splits(tiles.len(), key_tiles).clamp(1, key_tiles.max(1));
        if splits == 1 {
            tasks.push(Task { tile, keys: keys.clone(), targets: Some(of_tile) });
            continue;
        }
        let keys_per_split = key_tiles.div_ceil(splits) * TILE_KEYS;
        tasks.extend((0..splits).map(|split| {
            let start = (keys.start + split * keys_per_split).min(keys.end);
            Task { tile, keys: start..(start + keys_per_split).min(keys.end), targets: None }
        }));
        shared.push((splits, of_tile));
    }
    let states: Vec<Option<RowState>> = tasks.into_par_iter().map(|task| task.run(problem, q, kv)).collect();

    let mut states = states.into_iter().flatten();
    for (splits, mut targets) in shared {
        let parts: Vec<RowState> = states.by_ref().take(splits).collect();
        RowState::merge(&parts).write(&mut targets);
    }
    Ok(())
}

/// Splits of the keys such that every thread has work, without splits of less than
/// [`MIN_SPLIT_TILES`] tiles.
fn auto_splits(threads: usize, tasks: usize, key_tiles: usize) -> usize {
    if tasks >= threads { 1 } else { threads.div_ceil(tasks).min(key_tiles / MIN_SPLIT_TILES) }
}

/// Query rows of one input: up to [`TILE_ROWS`] of one K/V head, or, where each head has but a few,
/// those of several heads. In the usual layout the heads of a key are neighbours: a few rows read
/// little else than K and V, so they read them in the order of memory.
struct RowTile<'p> {
    input: &'p Input,
    kv_heads: Range<usize>,
    /// Folded rows of each K/V head: `row within the input * group + head within the group`.
    rows: Range<usize>,
}

impl RowTile<'_> {
    /// Tensor row and query head of every row, K/V head by K/V head.
    fn rows_and_heads(&self, problem: &Problem) -> impl Iterator<Item = (usize, usize)> {
        let (group, first) = (problem.group(), self.input.rows.start);
        let rows = self.rows.clone();
        self.kv_heads.clone().flat_map(move |kv_head| {
            rows.clone().map(move |folded| (first + folded / group, kv_head * group + folded % group))
        })
    }
}

fn row_tiles(problem: &Problem, threads: usize) -> Vec<RowTile<'_>> {
    let mut tiles = Vec::new();
    for input in problem.inputs() {
        let folded = input.rows.len() * problem.group();
        let heads = problem.kv_heads();
        let heads_per_tile = if folded <= FEW_ROWS { heads.div_ceil(threads) } else { 1 };
        for first in (0..heads).step_by(heads_per_tile) {
            for start in (0..folded).step_by(TILE_ROWS) {
                tiles.push(RowTile {
                    input,
                    kv_heads: first..(first + heads_per_tile).min(heads),
                    rows: start..(start + TILE_ROWS).min(folded),
                });
            }
        }
    }
    tiles
}

/// One row tile against one range of keys.
struct Task<'p, 'o, E> {
    tile: &'p RowTile<'p>,
    keys: Range<usize>,
    /// Where the rows' results go; `None` where this is only a part of their keys.
    targets: Option<Vec<Target<'o, E>>>,
}

impl<E: Element> Task<'_, '_, E> {
    /// Writes the results, or returns the state that is to be joined with those of the other keys.
    fn run(self, problem: &Problem, q: View<&[E]>, kv: SharedKv<&[E]>) -> Option<RowState> {
        let dim = problem.head_dim();
        let rows: Vec<&[E]> = (self.tile.rows_and_heads(problem))
            .map(|(row, head)| &q.data[q.strides.at(0, row, head)..][..dim])
            .collect();
        let heads: Vec<_> = (self.tile.kv_heads.clone())
            .map(|kv_head| KeyTiles {
                k: HeadOf::new(kv.k, self.tile.input.slot, kv_head),
                v: HeadOf::new(kv.v, self.tile.input.slot, kv_head),
            })
            .collect();
        let score = math::Score::new(problem.scale(), problem.softcap());
        let attend = |done: &mut dyn FnMut(usize, f32, &[f32])| {
            let of_input = self.tile.input.rows.len() * problem.group();
            block::attend(Arch::new(), &rows, of_input, &heads, self.keys, score, done);
        };
        if let Some(mut targets) = self.targets {
            attend(&mut |r, lse, out| targets[r].write(lse, out));
            return None;
        }
        let mut state = RowState::empty(rows.len(), dim);
        attend(&mut |r, lse, out| state.set(r, lse, out));
        Some(state)
    }
}

#[cfg(test)]
mod tests;
