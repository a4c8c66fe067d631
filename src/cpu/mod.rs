//! The CPU backend: fused attention with online softmax; no `rows x keys` matrix in memory.
//!
//! The picture, for one K/V head (query rows of the whole group folded together):
//!
//! ```text
//!               rows ->  lanes of SIMD registers
//!            +-----------+
//!            |    Q^T    | head_dim            packed once per row tile
//!            +-----------+
//!   +-----+  +-----------+
//!   |  K  |  | S^T = K Q^T   64 keys           K elements are broadcast, never packed
//!   +-----+  +-----------+
//!            | max, exp2, sum: lane by lane, no shuffles
//!   +-----+  +-----------+
//!   | V^T |  | O^T += V^T P^T  head_dim        V elements are broadcast, never packed
//!   +-----+  +-----------+
//! ```
//!
//! Each K/V tile of 64 keys is read once and serves every query row while it is in the cache
//! (`lanes.rs`). Below a handful of rows the lanes would idle: there `head_dim` goes to the lanes
//! instead (`single.rs`). Work is split over (input, K/V head, row tile), and over keys where that
//! leaves threads without work; the parts are then joined by their LSE ([`merge_states`]).

mod lanes;
mod math;
mod merge;
mod single;
mod state;

use rayon::prelude::*;

use crate::dtype::Element;
use crate::error::Result;
use crate::problem::{Input, Lse, Output, Problem, Queries, SharedKv, Strides};
pub use merge::{PartialState, StateShape, merge_states};
use state::RowState;

/// Keys per tile: K and V tiles of 64 keys x 64 f32 fill a 32 KiB L1 cache between them.
const TILE_KEYS: usize = 64;
/// Query rows (group folded in) per task: bounds the f32 state that has to stay in the L2 cache.
const TILE_ROWS: usize = 256;
/// Fewest tiles worth a split of its own.
const MIN_SPLIT_TILES: usize = 2;

/// Shared cross-attention on the CPU, on the threads of the current rayon pool.
///
/// Shapes: `q`, `out` `[total_rows, heads, head_dim]`, `k`, `v`
/// `[key_positions, kv_heads, head_dim]`, `lse` `[total_rows, heads]` (f32, natural log).
/// dtypes: f32, f16, bf16; arithmetic and partial results are f32, rounded once at the end.
/// The formula is [`Problem`]'s; the online softmax follows Milakov and Gimelshein
/// (arXiv 1805.02867).
///
/// # Errors
/// What [`Problem::check`] refuses; nothing is written then.
pub fn attend<E: Element>(
    problem: &Problem,
    q: Queries<'_, E>,
    kv: SharedKv<'_, E>,
    out: Output<'_, E>,
    lse: Option<Lse<'_>>,
) -> Result<()> {
    let threads = rayon::current_num_threads();
    attend_split(problem, q, kv, out, lse, |tasks, tiles| auto_splits(threads, tasks, tiles))
}

/// [`attend`] with the number of key splits per task chosen by `splits(tasks, key_tiles)`.
fn attend_split<E: Element>(
    problem: &Problem,
    q: Queries<'_, E>,
    kv: SharedKv<'_, E>,
    out: Output<'_, E>,
    mut lse: Option<Lse<'_>>,
    splits: impl Fn(usize, usize) -> usize,
) -> Result<()> {
    problem.check(&q, &kv, &out, lse.as_ref())?;
    let tiles = row_tiles(problem);
    let parts: Vec<Task<'_>> = tiles
        .iter()
        .enumerate()
        .flat_map(|(index, tile)| {
            let key_tiles = tile.input.keys.len().div_ceil(TILE_KEYS);
            let splits = splits(tiles.len(), key_tiles).clamp(1, key_tiles.max(1));
            let keys_per_split = key_tiles.div_ceil(splits) * TILE_KEYS;
            let keys = tile.input.keys.clone();
            (0..splits).map(move |split| {
                let start = (keys.start + split * keys_per_split).min(keys.end);
                Task { tile, index, keys: start..(start + keys_per_split).min(keys.end) }
            })
        })
        .collect();
    let states: Vec<(usize, RowState)> =
        parts.par_iter().map(|task| (task.index, task.run(problem, q, kv))).collect();

    // Tasks of one tile are neighbours: join them, then scatter the finished rows.
    for group in states.chunk_by(|a, b| a.0 == b.0) {
        let tile = &tiles[group[0].0];
        let merged;
        let state = match group {
            [(_, only)] => only,
            several => {
                merged = RowState::merge(several.iter().map(|(_, state)| state));
                &merged
            }
        };
        for (r, row) in tile.rows.clone().enumerate() {
            let (row, head) = tile.row_and_head(problem, row);
            let at = row * out.strides.row + head * out.strides.head;
            state.write_row(r, &mut out.data[at..][..problem.head_dim()]);
            if let Some(lse) = &mut lse {
                lse.data[row * lse.strides.row + head * lse.strides.head] = state.lse(r);
            }
        }
    }
    Ok(())
}

/// Splits of the keys such that every thread has work, without splits of less than
/// [`MIN_SPLIT_TILES`] tiles.
fn auto_splits(threads: usize, tasks: usize, key_tiles: usize) -> usize {
    if tasks >= threads { 1 } else { threads.div_ceil(tasks).min(key_tiles / MIN_SPLIT_TILES) }
}

/// Up to [`TILE_ROWS`] query rows of one input that read one K/V head.
struct RowTile<'p> {
    input: &'p Input,
    kv_head: usize,
    /// Folded rows: `row within the input * group + head within the group`.
    rows: std::ops::Range<usize>,
}

impl RowTile<'_> {
    /// The tensor row and query head of a folded row.
    fn row_and_head(&self, problem: &Problem, folded: usize) -> (usize, usize) {
        let group = problem.group();
        (self.input.rows.start + folded / group, self.kv_head * group + folded % group)
    }
}

fn row_tiles(problem: &Problem) -> Vec<RowTile<'_>> {
    let mut tiles = Vec::new();
    for input in problem.inputs() {
        let folded = input.rows.len() * problem.group();
        for kv_head in 0..problem.kv_heads() {
            for start in (0..folded).step_by(TILE_ROWS) {
                let rows = start..(start + TILE_ROWS).min(folded);
                tiles.push(RowTile { input, kv_head, rows });
            }
        }
    }
    tiles
}

/// One row tile against one range of keys.
struct Task<'p> {
    tile: &'p RowTile<'p>,
    /// Position of the tile in the list of tiles.
    index: usize,
    keys: std::ops::Range<usize>,
}

impl Task<'_> {
    fn run<E: Element>(&self, problem: &Problem, q: Queries<'_, E>, kv: SharedKv<'_, E>) -> RowState {
        let dim = problem.head_dim();
        let rows: Vec<&[E]> = (self.tile.rows.clone())
            .map(|folded| {
                let (row, head) = self.tile.row_and_head(problem, folded);
                &q.data[row * q.strides.row + head * q.strides.head..][..dim]
            })
            .collect();
        let keys = KeyTiles {
            k: HeadOf::new(kv.k, kv.k_strides, self.tile.kv_head, dim),
            v: HeadOf::new(kv.v, kv.v_strides, self.tile.kv_head, dim),
            keys: self.keys.clone(),
        };
        let score = math::Score::new(problem.scale(), problem.softcap());
        if rows.len() <= single::MAX_ROWS {
            single::attend(&rows, &keys, score, dim)
        } else {
            lanes::attend(&rows, &keys, score, dim)
        }
    }
}

/// One head of K or V: vectors of `dim` elements, `stride` apart.
struct HeadOf<'a, E> {
    data: &'a [E],
    stride: usize,
    dim: usize,
}

impl<'a, E: Element> HeadOf<'a, E> {
    fn new(data: &'a [E], strides: Strides, head: usize, dim: usize) -> Self {
        Self { data: data.get(head * strides.head..).unwrap_or_default(), stride: strides.row, dim }
    }

    /// The keys `range` as f32 vectors and the distance between them: a view of the operand where
    /// it is f32, else the vectors converted into `buffer`.
    fn tile<'t>(&'t self, range: std::ops::Range<usize>, buffer: &'t mut Vec<f32>) -> (&'t [f32], usize) {
        let end = (range.end - 1) * self.stride + self.dim;
        let src = &self.data[range.start * self.stride..end];
        if let Some(src) = E::as_f32(src) {
            return (src, self.stride);
        }
        buffer.resize(range.len() * self.dim, 0.0);
        for (i, dst) in buffer.chunks_exact_mut(self.dim).enumerate() {
            E::widen(&src[i * self.stride..][..self.dim], dst);
        }
        (buffer, self.dim)
    }
}

/// The K and V of one task.
struct KeyTiles<'a, E> {
    k: HeadOf<'a, E>,
    v: HeadOf<'a, E>,
    keys: std::ops::Range<usize>,
}

impl<E: Element> KeyTiles<'_, E> {
    /// The keys, [`TILE_KEYS`] at a time.
    fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let end = self.keys.end;
        self.keys.clone().step_by(TILE_KEYS).map(move |start| start..(start + TILE_KEYS).min(end))
    }
}

#[cfg(test)]
mod tests;
