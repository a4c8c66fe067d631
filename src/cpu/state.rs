//! What a task leaves behind: for each row the normalised output and its LSE, in f32.

use super::math::Score;
use super::merge::merge_row;
use crate::dtype::Element;

/// Finished rows of one task.
pub(super) struct RowState {
    /// `[rows, dim]`.
    pub out: Vec<f32>,
    /// `[rows]`, natural log.
    pub lse: Vec<f32>,
    pub dim: usize,
}

impl RowState {
    /// Rows that have read no keys: out = 0, lse = -inf.
    pub fn empty(rows: usize, dim: usize) -> Self {
        Self { out: vec![0.0; rows * dim], lse: vec![f32::NEG_INFINITY; rows], dim }
    }

    /// The LSE of row `r`.
    pub fn lse(&self, r: usize) -> f32 {
        self.lse[r]
    }

    /// Writes row `r` in the operand's dtype.
    pub fn write_row<E: Element>(&self, r: usize, out: &mut [E]) {
        E::narrow(&self.out[r * self.dim..][..self.dim], out);
    }

    /// Joins the states of disjoint key ranges.
    pub fn merge<'s>(states: impl Iterator<Item = &'s Self> + Clone) -> Self {
        let Some(first) = states.clone().next() else { return Self::empty(0, 0) };
        let mut merged = Self::empty(first.lse.len(), first.dim);
        for (r, out) in merged.out.chunks_exact_mut(first.dim).enumerate() {
            let parts = states.clone().map(|s| (s.lse[r], &s.out[r * s.dim..][..s.dim]));
            merged.lse[r] = merge_row(parts, out);
        }
        merged
    }
}

/// Normalises one row: writes `unnormalised / sum` to `out`, returns the natural-log LSE.
///
/// `shift` was subtracted from every dot product.
#[inline(always)]
pub(super) fn finish_row(score: Score, sum: f32, shift: f32, unnormalised: &[f32], out: &mut [f32]) -> f32 {
    if sum == 0.0 {
        out.fill(0.0);
        return f32::NEG_INFINITY;
    }
    for (out, x) in out.iter_mut().zip(unnormalised) {
        *out = x / sum;
    }
    score.lse(sum, shift)
}
