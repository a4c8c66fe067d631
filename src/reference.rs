//! The oracle: the definition of [`Problem`] in f64, the maths and nothing else.

use crate::dtype::Element;
use crate::error::Result;
use crate::problem::Problem;
use crate::shape::Strides;
use crate::view::{SharedKv, View};

/// Attention of one query vector: writes `out` `[head_dim]`, returns the natural-log LSE.
///
/// `key(j)` and `value(j)` are the vectors of key `j`, each `[head_dim]`.
fn attend_one<'k, E: Element>(
    q: &[E],
    keys: usize,
    key: impl Fn(usize) -> &'k [E],
    value: impl Fn(usize) -> &'k [E],
    score: impl Fn(f64) -> f64,
    out: &mut [f64],
) -> f64 {
    let dot = |k: &[E]| q.iter().zip(k).map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32())).sum();
    let scores: Vec<f64> = (0..keys).map(|j| score(dot(key(j)))).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // All keys at -inf weigh nothing, like no keys at all.
    let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
    let weights: Vec<f64> = scores.iter().map(|s| (s - shift).exp()).collect();
    let sum: f64 = weights.iter().sum();
    out.fill(0.0);
    if sum == 0.0 {
        return f64::NEG_INFINITY;
    }
    for (j, weight) in weights.iter().enumerate() {
        for (o, v) in out.iter_mut().zip(value(j)) {
            *o += weight * f64::from(v.to_f32());
        }
    }
    out.iter_mut().for_each(|o| *o /= sum);
    shift + sum.ln()
}

/// Shared cross-attention in f64, rounded once to the operands' dtype.
///
/// Operands and result as for [`cpu::attend`](crate::cpu::attend). Slow and plain: for tests.
///
/// # Errors
/// What [`Problem::check`] refuses.
pub fn attend<E: Element>(
    problem: &Problem,
    q: View<&[E]>,
    kv: SharedKv<&[E]>,
    out: View<&mut [E]>,
    mut lse: Option<View<&mut [f32]>>,
) -> Result<()> {
    problem.check(&q, &kv, &out, lse.as_ref())?;
    let dim = problem.head_dim();
    let score = |dot: f64| {
        let s = dot * f64::from(problem.scale());
        problem.softcap().map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh())
    };
    let mut row_out = vec![0.0; dim];
    for input in problem.inputs() {
        for row in input.rows.clone() {
            for head in 0..problem.heads() {
                let kv_head = head / problem.group();
                let at = |j: usize, s: Strides| s.at(input.slot, input.keys.start + j, kv_head);
                let row_lse = attend_one(
                    &q.data[q.strides.at(0, row, head)..][..dim],
                    input.keys.len(),
                    |j| &kv.k.data[at(j, kv.k.strides)..][..dim],
                    |j| &kv.v.data[at(j, kv.v.strides)..][..dim],
                    score,
                    &mut row_out,
                );
                for (o, &value) in out.data[out.strides.at(0, row, head)..][..dim].iter_mut().zip(&row_out) {
                    *o = E::from_f32(value as f32);
                }
                if let Some(lse) = &mut lse {
                    lse.data[lse.strides.at(0, row, head)] = row_lse as f32;
                }
            }
        }
    }
    Ok(())
}
