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
mod widen;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use pulp::{Arch, Simd};
use rayon::prelude::*;

use crate::dtype::Element;
use crate::error::Result;
use crate::problem::{Input, Problem};
use crate::span::span;
use crate::view::{SharedKv, View};
pub use merge::merge_states;
use state::RowState;

/// Keys per tile: K and V tiles of 64 keys x 64 f32 fill a 32 KiB L1 cache between them.
const TILE_KEYS: usize = 64;
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
    let threads = rayon::current_num_threads();
    E::attend_on_cpu(problem, q, kv, out, lse, threads, &|tasks, tiles| auto_splits(threads, tasks, tiles))
}

/// [`attend`] with the number of key splits per task chosen by `splits(tasks, key_tiles)`.
pub(crate) fn attend_split<E: Element>(
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

/// Where the result of a row and head belongs.
struct Target<'a, E> {
    out: &'a mut [E],
    lse: Option<&'a mut f32>,
}

impl<E: Element> Target<'_, E> {
    fn write(&mut self, lse: f32, out: &[f32]) {
        E::narrow(out, self.out);
        if let Some(target) = &mut self.lse {
            **target = lse;
        }
    }
}

/// `[rows, heads]`, each to be taken once.
fn targets<'a, E: Element>(
    out: View<&'a mut [E]>,
    lse: Option<View<&'a mut [f32]>>,
) -> Vec<Option<Target<'a, E>>> {
    let mut lse =
        lse.map(|lse| lse.into_vectors().into_iter().filter_map(<[f32]>::first_mut)).into_iter().flatten();
    (out.into_vectors().into_iter()).map(|out| Some(Target { out, lse: lse.next() })).collect()
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

/// One head of K or V: vectors of `dim` elements, `stride` apart.
struct HeadOf<'a, E> {
    data: &'a [E],
    stride: usize,
    dim: usize,
}

impl<'a, E: Element> HeadOf<'a, E> {
    fn new(of: View<&'a [E]>, slot: usize, head: usize) -> Self {
        // Without keys there is no memory, and the strides may be anything.
        let at = (slot.checked_mul(of.strides.input).zip(head.checked_mul(of.strides.head)))
            .and_then(|(slot, head)| slot.checked_add(head));
        let data = at.and_then(|at| of.data.get(at..)).unwrap_or_default();
        Self { data, stride: of.strides.row, dim: of.shape.vector }
    }

    /// Whether the elements can be read in whole registers where they are.
    #[inline(always)]
    fn in_place<S: Simd>(&self) -> bool {
        self.dim.is_multiple_of(S::F32_LANES) && self.stride >= self.dim
    }

    /// The keys `range`, which are `in_place`.
    #[inline(always)]
    fn as_they_lie(&self, range: &Range<usize>) -> Vectors<'_, E> {
        Vectors { data: self.span(range), stride: self.stride }
    }

    /// The keys `range` as f32: a view of the operand where it serves as it is, else a copy in `buffer`, in whole registers
    /// whose elements past the vector are left as they are.
    ///
    /// `again`: they are read several times, and should not fight for the few cache sets that a large stride, often a
    /// multiple of the page size, leaves them.
    #[inline(always)]
    fn tile<'t, S: Simd>(
        &'t self,
        simd: S,
        range: &Range<usize>,
        again: bool,
        buffer: &'t mut [Line],
    ) -> Vectors<'t, f32> {
        let src = self.span(range);
        let serves = self.in_place::<S>() && (self.stride == self.dim || !again);
        if let Some(data) = E::as_f32(src).filter(|_| serves) {
            return Vectors { data, stride: self.stride };
        }
        let width = self.dim.next_multiple_of(S::F32_LANES);
        let vectors: &mut [f32] = &mut bytemuck::cast_slice_mut(buffer)[..range.len() * width];
        for (i, dst) in vectors.chunks_exact_mut(width).enumerate() {
            let src = &src[i * self.stride..][..self.dim];
            widen::widen(simd, src, &mut dst[..self.dim]);
        }
        Vectors { data: vectors, stride: width }
    }

    /// Memory from the first of the keys to the end of the last.
    #[inline(always)]
    fn span(&self, range: &Range<usize>) -> &[E] {
        &self.data[range.start * self.stride..(range.end - 1) * self.stride + self.dim]
    }
}

/// A cache line. A register's memory that is aligned to one never straddles two.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Vectors that begin `stride` elements apart, no less than their length.
#[derive(Clone, Copy)]
struct Vectors<'a, E> {
    data: &'a [E],
    stride: usize,
}

impl<'a, E> Vectors<'a, E> {
    #[inline(always)]
    fn iter(self) -> impl Iterator<Item = &'a [E]> {
        self.data.chunks(self.stride)
    }
}

/// K and V of one K/V head.
struct KeyTiles<'a, E> {
    k: HeadOf<'a, E>,
    v: HeadOf<'a, E>,
}

#[cfg(test)]
mod tests;
