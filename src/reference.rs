//! The oracle: the definition of [`Problem`] in f64, the maths and nothing else.

use crate::dtype::Element;
use crate::error::Result;
use crate::problem::Problem;
use crate::view::{SharedKv, View};

/// Attention of one query vector `[head_dim]` over keys and values, `[keys, head_dim]` each: writes `out` `[head_dim]`, returns the
/// natural-log LSE.
fn attend_one(q: &[f64], keys: &[f64], values: &[f64], score: impl Fn(f64) -> f64, out: &mut [f64]) -> f64 {
    let dim = q.len();
    let dot = |k: &[f64]| q.iter().zip(k).map(|(a, b)| a * b).sum();
    let scores: Vec<f64> = keys.chunks_exact(dim).map(|k| score(dot(k))).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // All keys at -inf weigh nothing, like no keys at all.
    let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
    let weights: Vec<f64> = scores.iter().map(|s| (s - shift).exp()).collect();
    let sum: f64 = weights.iter().sum();
    out.fill(0.0);
    if sum == 0.0 {
        return f64::NEG_INFINITY;
    }
    for (weight, v) in weights.iter().zip(values.chunks_exact(dim)) {
        out.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
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
    let vector = |x: &View<&[E]>, input, token, head| -> Vec<f64> {
        x.data[x.strides.at(input, token, head)..][..dim].iter().map(|e| f64::from(e.to_f32())).collect()
    };
    let mut row_out = vec![0.0; dim];
    for input in problem.inputs() {
        for kv_head in 0..problem.kv_heads() {
            let of_keys = |x: &View<&[E]>| -> Vec<f64> {
                input.keys.clone().flat_map(|key| vector(x, input.slot, key, kv_head)).collect()
            };
            let (keys, values) = (of_keys(&kv.k), of_keys(&kv.v));
            for row in input.rows.clone() {
                for head in kv_head * problem.group()..(kv_head + 1) * problem.group() {
                    let query = vector(&q, 0, row, head);
                    let row_lse = attend_one(&query, &keys, &values, score, &mut row_out);
                    let to = &mut out.data[out.strides.at(0, row, head)..][..dim];
                    to.iter_mut().zip(&row_out).for_each(|(o, value)| *o = E::from_f32(*value as f32));
                    if let Some(lse) = &mut lse {
                        lse.data[lse.strides.at(0, row, head)] = row_lse as f32;
                    }
                }
            }
        }
    }
    Ok(())
}
