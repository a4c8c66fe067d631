//! A few rows: `head_dim` in the lanes of the registers, row after row over each K/V tile.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::math::Score;
use super::state::{RowState, finish_row};
use super::{KeyTiles, TILE_KEYS, key_ranges};
use crate::dtype::Element;

/// Rows up to which this beats rows in the lanes: there a register of rows costs the same
/// whether it is full or not.
pub(super) const MAX_ROWS: usize = 4;

/// Attention of `rows` (each `[dim]`), as many for each of `heads`, over the keys of one task.
pub(super) fn attend<E: Element>(
    rows: &[&[E]],
    heads: &[KeyTiles<'_, E>],
    keys: Range<usize>,
    score: Score,
    dim: usize,
) -> RowState {
    pulp::Arch::new().dispatch(Attend { rows, heads, keys, score, dim })
}

struct Attend<'a, E> {
    rows: &'a [&'a [E]],
    heads: &'a [KeyTiles<'a, E>],
    keys: Range<usize>,
    score: Score,
    dim: usize,
}

/// Running softmax of one row.
struct Row {
    q: Vec<f32>,
    /// Not yet divided by `sum`.
    out: Vec<f32>,
    max: f32,
    sum: f32,
}

impl<E: Element> WithSimd for Attend<'_, E> {
    type Output = RowState;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> RowState {
        let Self { rows, heads, keys, score, dim } = self;
        let mut states: Vec<Row> = rows
            .iter()
            .map(|row| Row {
                q: row.iter().map(|x| x.to_f32()).collect(),
                out: vec![0.0; dim],
                max: f32::NEG_INFINITY,
                sum: 0.0,
            })
            .collect();
        let mut weights = vec![simd.splat_f32s(0.0); TILE_KEYS.div_ceil(S::F32_LANES)];

        let rows_per_head = (rows.len() / heads.len().max(1)).max(1);
        let (mut k_buffer, mut v_buffer) = (Vec::new(), Vec::new());
        for range in key_ranges(keys) {
            let count = range.len();
            // Tile by tile through the keys, and within a tile through the heads.
            for (tiles, rows) in heads.iter().zip(states.chunks_mut(rows_per_head)) {
                let k = tiles.k.tile(range.clone(), &mut k_buffer);
                let v = tiles.v.tile(range.clone(), &mut v_buffer);
                for row in rows {
                    let scores: &mut [f32] = bytemuck::cast_slice_mut(&mut weights);
                    dots(simd, &row.q, k, &mut scores[..count]);
                    score.cap(simd, &mut weights);
                    // The registers past a short tile weigh nothing; -inf would not survive the cap.
                    bytemuck::cast_slice_mut::<_, f32>(&mut weights)[count..].fill(f32::NEG_INFINITY);
                    let rescale = row.softmax(simd, &mut weights, score);
                    let p: &[f32] = bytemuck::cast_slice(&weights);
                    values(simd, &p[..count], v, rescale, &mut row.out);
                }
            }
        }

        let mut state = RowState::empty(rows.len(), dim);
        for (r, row) in states.iter().enumerate() {
            let shift = score.shift(pulp::Scalar, row.max);
            state.lse[r] =
                finish_row(score, row.sum, shift, &mut state.out[r * dim..][..dim], |d| row.out[d]);
        }
        state
    }
}

impl Row {
    /// Turns capped scores into weights; returns the factor on what was summed before.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, simd: S, weights: &mut [S::f32s], score: Score) -> f32 {
        let mut lanes = simd.splat_f32s(self.max);
        for s in weights.iter() {
            lanes = simd.max_f32s(lanes, *s);
        }
        let max = simd.reduce_max_f32s(lanes);
        let shift = score.shift(pulp::Scalar, max);
        let rescale = score.weight(pulp::Scalar, self.max, shift);
        let shift = simd.splat_f32s(shift);
        let mut sum = simd.splat_f32s(0.0);
        for s in weights.iter_mut() {
            *s = score.weight(simd, *s, shift);
            sum = simd.add_f32s(sum, *s);
        }
        self.max = max;
        self.sum = self.sum * rescale + simd.reduce_sum_f32s(sum);
        rescale
    }
}

/// `scores[j] = q . k[j]`, four keys at a time so that their chains of FMAs overlap.
#[inline(always)]
fn dots<S: Simd>(simd: S, q: &[f32], (k, stride): (&[f32], usize), scores: &mut [f32]) {
    let mut j = 0;
    while j + 4 <= scores.len() {
        let dots = dot_rows::<S, 4>(simd, q, &k[j * stride..], stride);
        scores[j..j + 4].copy_from_slice(&dots);
        j += 4;
    }
    while j < scores.len() {
        scores[j] = dot_rows::<S, 1>(simd, q, &k[j * stride..], stride)[0];
        j += 1;
    }
}

#[inline(always)]
fn dot_rows<S: Simd, const N: usize>(simd: S, q: &[f32], k: &[f32], stride: usize) -> [f32; N] {
    let (q_lanes, q_tail) = S::as_simd_f32s(q);
    let mut acc = [simd.splat_f32s(0.0); N];
    let mut keys = [S::as_simd_f32s(&k[..0]); N];
    for (i, key) in keys.iter_mut().enumerate() {
        *key = S::as_simd_f32s(&k[i * stride..][..q.len()]);
    }
    for (c, q) in q_lanes.iter().enumerate() {
        for i in 0..N {
            acc[i] = simd.mul_add_e_f32s(*q, keys[i].0[c], acc[i]);
        }
    }
    let mut dots = [0.0; N];
    for i in 0..N {
        dots[i] = simd.reduce_sum_f32s(acc[i]);
        for (q, k) in q_tail.iter().zip(keys[i].1) {
            dots[i] += q * k;
        }
    }
    dots
}

/// `out = rescale * out + sum_j weights[j] * v[j]`, eight registers of `head_dim` at a time.
#[inline(always)]
fn values<S: Simd>(simd: S, weights: &[f32], (v, stride): (&[f32], usize), rescale: f32, out: &mut [f32]) {
    let (lanes, tail) = S::as_mut_simd_f32s(out);
    let mut first = 0;
    let mut chunks = lanes.chunks_exact_mut(8);
    for out in &mut chunks {
        value_lanes::<S, 8>(simd, weights, &v[first..], stride, rescale, out);
        first += 8 * S::F32_LANES;
    }
    for out in chunks.into_remainder().chunks_mut(1) {
        value_lanes::<S, 1>(simd, weights, &v[first..], stride, rescale, out);
        first += S::F32_LANES;
    }
    for (i, out) in tail.iter_mut().enumerate() {
        let sum: f32 = weights.iter().enumerate().map(|(j, w)| w * v[j * stride + first + i]).sum();
        *out = *out * rescale + sum;
    }
}

#[inline(always)]
fn value_lanes<S: Simd, const N: usize>(
    simd: S,
    weights: &[f32],
    v: &[f32],
    stride: usize,
    rescale: f32,
    out: &mut [S::f32s],
) {
    let mut acc = [simd.splat_f32s(0.0); N];
    for i in 0..N {
        acc[i] = simd.mul_f32s(out[i], simd.splat_f32s(rescale));
    }
    for (j, weight) in weights.iter().enumerate() {
        let (v, _) = S::as_simd_f32s(&v[j * stride..][..N * S::F32_LANES]);
        let weight = simd.splat_f32s(*weight);
        for i in 0..N {
            acc[i] = simd.mul_add_e_f32s(weight, v[i], acc[i]);
        }
    }
    out.copy_from_slice(&acc);
}
