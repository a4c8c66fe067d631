//! Where results go, and the state that a task with a part of the keys leaves: each row's normalised output and LSE, in f32.

use super::merge::merge_row;
use crate::dtype::Element;
use crate::view::View;

/// Where the result of a row and head belongs.
pub(super) struct Target<'a, E> {
    out: &'a mut [E],
    lse: Option<&'a mut f32>,
}

impl<E: Element> Target<'_, E> {
    pub fn write(&mut self, lse: f32, out: &[f32]) {
        E::narrow(out, self.out);
        if let Some(target) = &mut self.lse {
            **target = lse;
        }
    }
}

/// `[rows, heads]`, each to be taken once.
pub(super) fn targets<'a, E: Element>(
    out: View<&'a mut [E]>,
    lse: Option<View<&'a mut [f32]>>,
) -> Vec<Option<Target<'a, E>>> {
    let mut lse =
        lse.map(|lse| lse.into_vectors().into_iter().filter_map(<[f32]>::first_mut)).into_iter().flatten();
    (out.into_vectors().into_iter()).map(|out| Some(Target { out, lse: lse.next() })).collect()
}

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

    pub fn set(&mut self, r: usize, lse: f32, out: &[f32]) {
        self.lse[r] = lse;
        self.out[r * self.dim..][..self.dim].copy_from_slice(out);
    }

    /// Writes the rows in the operand's dtype.
    pub fn write<E: Element>(&self, targets: &mut [Target<'_, E>]) {
        for ((target, out), lse) in targets.iter_mut().zip(self.out.chunks_exact(self.dim)).zip(&self.lse) {
            target.write(*lse, out);
        }
    }

    /// Joins the states of disjoint key ranges.
    pub fn merge(states: &[Self]) -> Self {
        let Some(first) = states.first() else { return Self::empty(0, 0) };
        let mut merged = Self::empty(first.lse.len(), first.dim);
        for (r, out) in merged.out.chunks_exact_mut(first.dim).enumerate() {
            let parts = states.iter().map(|s| (s.lse[r], &s.out[r * s.dim..][..s.dim]));
            merged.lse[r] = merge_row(parts, out);
        }
        merged
    }
}
