//! Joining partial attention states by their LSE.

use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::problem::{Extent, Lse, Output, StateShape, Strides};

/// Attention over a part of the keys: its normalised output and its natural-log LSE.
#[derive(Debug, Clone, Copy)]
pub struct PartialState<'a, E> {
    /// `[rows, heads, head_dim]`.
    pub out: &'a [E],
    /// Strides of `out`.
    pub out_strides: Strides,
    /// `[rows, heads]`, natural log.
    pub lse: &'a [f32],
    /// Strides of `lse`.
    pub lse_strides: Strides,
}

/// Merges attention over disjoint parts of the keys into attention over all of them.
///
/// With `lse = ln sum_i exp(lse_i)` the result is `out = sum_i exp(lse_i - lse) * out_i`; it does
/// not depend on how the keys were divided. A part with `lse_i = -inf` (no keys) has no weight and
/// its output is not read; where all parts are so, out = 0 and lse = -inf. Partial outputs may be
/// f32 while `out` is a half type, so that nothing is rounded twice.
///
/// # Errors
/// [`Error::NoStates`], and per operand what [`Problem::check`](crate::Problem::check) refuses.
pub fn merge_states<P: Element, E: Element>(
    shape: StateShape,
    states: &[PartialState<'_, P>],
    out: Output<'_, E>,
    mut lse: Option<Lse<'_>>,
) -> Result<()> {
    let StateShape { rows, heads, head_dim } = shape;
    let vectors = shape.extent()?;
    if states.is_empty() {
        return Err(Error::NoStates);
    }
    let scalars = Extent { vector: 1, ..vectors };
    for state in states {
        vectors.check("states.out", state.out, state.out_strides)?;
        scalars.check("states.lse", state.lse, state.lse_strides)?;
    }
    vectors.check("out", out.data, out.strides)?;
    if let Some(lse) = &lse {
        scalars.check("lse", lse.data, lse.strides)?;
    }

    let mut sum = vec![0.0f32; head_dim];
    for row in 0..rows {
        for head in 0..heads {
            let at = |s: Strides| row * s.row + head * s.head;
            let parts =
                states.iter().map(|s| (s.lse[at(s.lse_strides)], &s.out[at(s.out_strides)..][..head_dim]));
            let merged = merge_row(parts, &mut sum);
            for (o, &value) in out.data[at(out.strides)..][..head_dim].iter_mut().zip(&sum) {
                *o = E::from_f32(value);
            }
            if let Some(lse) = &mut lse {
                lse.data[at(lse.strides)] = merged;
            }
        }
    }
    Ok(())
}

/// Merges the parts `(lse, out)` of one row into `sum`; returns the merged LSE.
pub(super) fn merge_row<'p, P: Element>(
    parts: impl Iterator<Item = (f32, &'p [P])> + Clone,
    sum: &mut [f32],
) -> f32 {
    sum.fill(0.0);
    let max = parts.clone().map(|(lse, _)| lse).fold(f32::NEG_INFINITY, f32::max);
    let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
    let mut total = 0.0;
    for (lse, out) in parts {
        // No keys: what stands in `out` may be anything.
        if lse != f32::NEG_INFINITY {
            let weight = (lse - shift).exp();
            total += weight;
            sum.iter_mut().zip(out).for_each(|(o, p)| *o += weight * p.to_f32());
        }
    }
    if total == 0.0 {
        return f32::NEG_INFINITY;
    }
    sum.iter_mut().for_each(|o| *o /= total);
    shift + total.ln()
}
