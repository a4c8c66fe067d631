//! Many rows: query rows in the lanes of the registers (picture in the parent module).

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::math::Score;
use super::state::RowState;
use super::{KeyTiles, TILE_KEYS, key_ranges};
use crate::dtype::Element;

/// Attention of `rows` (each `[dim]`) over the keys of one task.
pub(super) fn attend<E: Element>(
    rows: &[&[E]],
    tiles: &KeyTiles<'_, E>,
    keys: Range<usize>,
    score: Score,
    dim: usize,
) -> RowState {
    pulp::Arch::new().dispatch(Attend { rows, tiles, keys, score, dim })
}

struct Attend<'a, E> {
    rows: &'a [&'a [E]],
    tiles: &'a KeyTiles<'a, E>,
    keys: Range<usize>,
    score: Score,
    dim: usize,
}

impl<E: Element> WithSimd for Attend<'_, E> {
    type Output = RowState;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> RowState {
        let Self { rows, tiles, keys, score, dim } = self;
        // Two registers of rows per block: 2 x 4 accumulators hide the latency of the FMAs. A
        // last block of up to one register takes 1 x 8.
        let wide = 2 * S::F32_LANES;
        let narrow_tail = matches!(rows.len() % wide, 1.. if rows.len() % wide <= S::F32_LANES);
        let wide_rows = if narrow_tail { rows.len() / wide * wide } else { rows.len() };
        let (wide_rows, tail_rows) = rows.split_at(wide_rows);
        let mut blocks: Vec<Block<S, 2>> =
            wide_rows.chunks(wide).map(|rows| Block::new(simd, rows, dim)).collect();
        let mut tail: Option<Block<S, 1>> = narrow_tail.then(|| Block::new(simd, tail_rows, dim));

        let (mut k_buffer, mut v_buffer) = (Vec::new(), Vec::new());
        for range in key_ranges(keys) {
            let count = range.len();
            let k = tiles.k.packed_tile(range.clone(), &mut k_buffer);
            let v = tiles.v.packed_tile(range, &mut v_buffer);
            for block in &mut blocks {
                block.step::<4>(simd, count, k, v, score);
            }
            if let Some(tail) = &mut tail {
                tail.step::<8>(simd, count, k, v, score);
            }
        }

        let mut state = RowState::empty(rows.len(), dim);
        for (i, block) in blocks.iter().enumerate() {
            block.finish(simd, score, &mut state, i * wide);
        }
        if let Some(tail) = &tail {
            tail.finish(simd, score, &mut state, wide_rows.len());
        }
        state
    }
}

/// `V` registers of query rows and their running softmax.
struct Block<S: Simd, const V: usize> {
    rows: usize,
    /// Q^T `[dim][V x lanes]`; lanes without a row are 0.
    q: Vec<[S::f32s; V]>,
    /// O^T `[dim][V x lanes]`, not yet divided by `sum`.
    out: Vec<[S::f32s; V]>,
    /// Maximum of the capped dot products so far.
    max: [S::f32s; V],
    /// Sum of the weights so far.
    sum: [S::f32s; V],
    /// S^T, then P^T: `[TILE_KEYS][V x lanes]`.
    weights: Vec<[S::f32s; V]>,
}

impl<S: Simd, const V: usize> Block<S, V> {
    #[inline(always)]
    fn new<E: Element>(simd: S, rows: &[&[E]], dim: usize) -> Self {
        let zero = [simd.splat_f32s(0.0); V];
        let mut q = vec![zero; dim];
        for (d, q) in q.iter_mut().enumerate() {
            let lanes: &mut [f32] = bytemuck::cast_slice_mut(q.as_mut_slice());
            for (lane, row) in lanes.iter_mut().zip(rows) {
                *lane = row[d].to_f32();
            }
        }
        Self {
            rows: rows.len(),
            q,
            out: vec![zero; dim],
            max: [simd.splat_f32s(f32::NEG_INFINITY); V],
            sum: zero,
            weights: vec![zero; TILE_KEYS],
        }
    }

    /// One K/V tile of `count` keys: scores, softmax, values.
    ///
    /// `k` and `v` are vectors and the distance between them; `N` is how many of their elements
    /// are in flight against the `V` registers of rows.
    #[inline(always)]
    fn step<const N: usize>(
        &mut self,
        simd: S,
        count: usize,
        k: (&[f32], usize),
        v: (&[f32], usize),
        score: Score,
    ) {
        let dim = self.q.len();
        let mut j = 0;
        while j + N <= count {
            self.scores::<N>(simd, &k.0[j * k.1..], k.1, j);
            j += N;
        }
        while j < count {
            self.scores::<1>(simd, &k.0[j * k.1..], k.1, j);
            j += 1;
        }
        self.softmax(simd, count, score);
        let mut d = 0;
        while d + N <= dim {
            self.values::<N>(simd, v.0, v.1, d, count);
            d += N;
        }
        while d < dim {
            self.values::<1>(simd, v.0, v.1, d, count);
            d += 1;
        }
    }

    /// Rows `j .. j + N` of S^T: `N` keys of distance `stride`.
    #[inline(always)]
    fn scores<const N: usize>(&mut self, simd: S, k: &[f32], stride: usize, j: usize) {
        let dim = self.q.len();
        let mut keys = [&k[..0]; N];
        for (i, key) in keys.iter_mut().enumerate() {
            *key = &k[i * stride..][..dim];
        }
        let mut acc = [[simd.splat_f32s(0.0); V]; N];
        for (d, q) in self.q.iter().enumerate() {
            for i in 0..N {
                let element = simd.splat_f32s(keys[i][d]);
                for r in 0..V {
                    acc[i][r] = simd.mul_add_e_f32s(q[r], element, acc[i][r]);
                }
            }
        }
        self.weights[j..j + N].copy_from_slice(&acc);
    }

    /// Turns the first `count` rows of S^T into P^T and rescales what was summed before.
    #[inline(always)]
    fn softmax(&mut self, simd: S, count: usize, score: Score) {
        let weights = &mut self.weights[..count];
        let mut max = self.max;
        for s in weights.iter_mut() {
            score.cap(simd, s);
            for r in 0..V {
                max[r] = simd.max_f32s(max[r], s[r]);
            }
        }
        let mut shift = max;
        let mut rescale = max;
        for r in 0..V {
            shift[r] = score.shift(simd, max[r]);
            rescale[r] = score.weight(simd, self.max[r], shift[r]);
            self.sum[r] = simd.mul_f32s(self.sum[r], rescale[r]);
        }
        for s in weights.iter_mut() {
            for r in 0..V {
                s[r] = score.weight(simd, s[r], shift[r]);
                self.sum[r] = simd.add_f32s(self.sum[r], s[r]);
            }
        }
        for out in &mut self.out {
            for r in 0..V {
                out[r] = simd.mul_f32s(out[r], rescale[r]);
            }
        }
        self.max = max;
    }

    /// Rows `d .. d + N` of O^T += V^T P^T.
    #[inline(always)]
    fn values<const N: usize>(&mut self, simd: S, v: &[f32], stride: usize, d: usize, count: usize) {
        let mut acc = [[simd.splat_f32s(0.0); V]; N];
        acc.copy_from_slice(&self.out[d..d + N]);
        for (j, weight) in self.weights[..count].iter().enumerate() {
            let elements = &v[j * stride + d..][..N];
            for i in 0..N {
                let element = simd.splat_f32s(elements[i]);
                for r in 0..V {
                    acc[i][r] = simd.mul_add_e_f32s(weight[r], element, acc[i][r]);
                }
            }
        }
        self.out[d..d + N].copy_from_slice(&acc);
    }

    /// Divides by the sums and writes the rows from `first` on into `state`.
    #[inline(always)]
    fn finish(&self, simd: S, score: Score, state: &mut RowState, first: usize) {
        let dim = self.q.len();
        let mut shift = self.max;
        for max in &mut shift {
            *max = score.shift(simd, *max);
        }
        let shift: &[f32] = bytemuck::cast_slice(&shift);
        let sum: &[f32] = bytemuck::cast_slice(&self.sum);
        let out: &[f32] = bytemuck::cast_slice(&self.out);
        let lanes = V * S::F32_LANES;
        for r in 0..self.rows {
            let row = first + r;
            let out_row = &mut state.out[row * dim..][..dim];
            state.lse[row] =
                super::state::finish_row(score, sum[r], shift[r], out_row, |d| out[d * lanes + r]);
        }
    }
}
