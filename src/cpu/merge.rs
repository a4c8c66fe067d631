//! Joining partial attention states by their LSE.

use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::shape::Strides;
use crate::span::span;
use crate::view::{PartialState, View, check};

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
    states: &[PartialState<&[P], &[f32]>],
    out: View<&mut [E]>,
    mut lse: Option<View<&mut [f32]>>,
) -> Result<()> {
    span!("merge on the CPU", states = states.len(), rows = out.shape.tokens);
    let shape = out.shape;
    shape.check_state()?;
    if states.is_empty() {
        return Err(Error::NoStates);
    }
    for state in states {
        check("states.out", state.out, shape)?;
        check("states.lse", state.lse, shape.scalars())?;
    }
    check("out", out.reborrow(), shape)?;
    if let Some(lse) = &lse {
        check("lse", lse.reborrow(), shape.scalars())?;
    }

    let mut sum = vec![0.0f32; shape.vector];
    for row in 0..shape.tokens {
        for head in 0..shape.heads {
            let at = |s: Strides| s.at(0, row, head);
            let parts = states.iter().map(|s| {
                let out = &s.out.data[at(s.out.strides)..][..shape.vector];
                (s.lse.data[at(s.lse.strides)], out)
            });
            let merged = merge_row(parts, &mut sum);
            for (o, &value) in out.data[at(out.strides)..][..shape.vector].iter_mut().zip(&sum) {
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
